"""Runs as a store would hold them, made up for the tests of the analysis, and what reads its files.

The losses of a run are drawn from its function, method and seed; any other value of a summary can
be given. The study `made_up` of such runs is a fixture of `conftest.py`.
"""

import itertools
import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.__main__ import main
from analysis.benchmark import SYNTHETIC
from qlexp.config.settings import flat
from qlexp.problem import functions
from qlexp.store.files import write_folder
from qlexp.store.manifest import Cell
from qlexp.store.migrate import meant
from qlexp.store.store import Store

NINE = (
    "drop_wave",
    "sin_cos",
    "matyas",
    "ackley",
    "rastrigin",
    "griewank",
    "levy",
    "six_hump_camel",
    "himmelblau",
)  # the published ones; a function that is added to them changes no test
FUNCTIONS = {name: functions.FUNCTIONS[name] for name in NINE}
STUDY = "made_up"
LOSSES, DECIDING = SYNTHETIC.losses, SYNTHETIC.deciding
LEARNING_RATE = SYNTHETIC.learning_rate
BUDGETS = ("equal_rank", "lora_r4")
METHODS = ("full", "queryable", "lora", "shared_lora", "frozen")
TRAINABLE = {"frozen": 0, "lora": 1000, "shared_lora": 600, "queryable": 1050, "full": 90_000}
SEEDS = (0, 1, 2)
NOISE = 0.05
SCORES = ("test_r2", "learnt_r2")
KINDS = {
    "frozen": "frozen.Frozen",
    "lora": "lora.LoRA",
    "shared_lora": "shared_lora.SharedLoRA",
    "queryable": "queryable.Queryable",
    "full": "frozen.Full",
}


def config_of(function: str, method: str, seed: int) -> dict:
    optimizer = {"_target_": f"qlexp.optim.{'soap.SOAP' if method == 'full' else 'adamw.AdamW'}"}
    stage = {"epochs": 5, "batch_size": None, "learning_rate": 5e-4}
    return {
        "function": {
            "name": function,
            "coefficients": {},
            "domain": [list(side) for side in FUNCTIONS[function].domain],
            "spread": 0.0,
        },
        "shift": {"strength": 0.2, "rotation": 15.0, "coefficients": None},
        "data": {"pretrain": 64, "adapt": 32, "validation": 16, "test": 16, "noise": NOISE},
        "backbone": {"depth": 4, "width": 32, "heads": 4, "tokens": "fourier"},
        "method": {"_target_": f"qlexp.adapters.{KINDS[method]}", "name": method},
        "optimizer": optimizer,
        "pretrain_optimizer": optimizer,
        "instruction": {"encoder": "none"},
        "budget": {"by": "count"},
        "trainer": {"pretrain": stage, "adapt": stage, "loss_ceiling": 10.0, "r2_floor": 0.9},
        "seed": seed,
        "precision": "float32",
        "store": "/somewhere/else",
        "tracking": {"directory": "/somewhere/else"},
    }


def summary_of(function: str, method: str, seed: int, **changes: object) -> dict:
    """What a run's summary holds; a single target's loss when learnt is that of validation."""
    draw = np.random.default_rng([sum(map(ord, function + method)), seed])
    loss = float(draw.uniform(0.01, 1.0))
    rank = None if method in ("frozen", "full") else 4
    summary = {
        "run_id": f"{function}-{method}-{seed}",
        "function": function,
        "method": method,
        "seed": seed,
        "status": "done",
        "backbone_id": f"{function}-{seed}",
        "pretrain_loss": 0.01,
        "pretrain_r2": 0.98 - 0.01 * seed,
        "source_loss": 0.02 + 0.01 * seed,
        "frozen_loss": 0.5 + 0.1 * seed,
        "frozen_loss_clean": 0.5 + 0.1 * seed - NOISE**2,
        "frozen_validation_loss": 0.55 + 0.1 * seed,
        "post_train_loss": loss,
        "validation_loss": 1.1 * loss,
        "learnt_r2": 1 - 0.45 * loss,
        "test_loss": 1.2 * loss,
        "test_loss_clean": 1.2 * loss - NOISE**2,
        "worst_share": float(draw.uniform(0.1, 0.9)),
        "beyond_head": 0.0,
        "unseen_loss": None,
        "paraphrased_loss": None,
        "test_r2": 1 - 0.5 * loss,
        "test_loss_raw": 12.0 * loss,
        **dict.fromkeys(("task_losses", "route_drift", "atom_usage")),
        "path": path_of(loss) if method != "frozen" else None,
        "trainable_parameters": TRAINABLE[method],
        "reference_parameters": None if rank is None else 1000,
        "total_parameters": 90_000 + TRAINABLE[method],
        "rank": rank,
        "reading": False,
        "steps": 0 if method == "frozen" else 5,
        "samples_per_period": None if function == "matyas" else 3.25,
        "lanes": 9,
        "seconds": 1.5 if method == "lora" else 2.5,
        "lane_bytes": 5_000,
        "peak_memory_bytes": 10_000,
        "versions": {"python": "3.12.1", "torch": "2.13.0"},
        "commit": "0123456789ab",
        "device": "CPU",
        "config": config_of(function, method, seed),
        **changes,
    }
    return {"learnt_loss": summary["validation_loss"], **summary}


def path_of(loss: float) -> dict[str, list[float]]:
    """The losses on the way to `loss`."""
    falling = [4 * loss, 2 * loss]
    names = ("post_train_loss", "validation_loss", "test_loss_clean")
    return {"updates": [1.0, 2.0], **dict.fromkeys(names, falling)}


def curves_of(summary: dict) -> pd.DataFrame:
    steps = [] if summary["method"] == "frozen" else [0, 2, 4]
    loss = [(summary["post_train_loss"] or 1.0) * (1 + 4 / (1 + step)) for step in steps]
    if summary["status"] == "diverged":
        loss[-1] = math.inf
    return pd.DataFrame({"step": steps, "loss": loss, "learning_rate": [1e-3] * len(steps)})


def write_run(store: Store, summary: dict) -> None:
    write_folder(store.run_folder(summary["run_id"]), summary, curves_of(summary))


def cell_of(summary: dict, budget: str, *overrides: str) -> Cell:
    """The cell of a run; what its made-up config says gives way to `overrides`."""
    names = ("run_id", "function", "method", "seed")
    own, asked = meant(overrides, {})
    settings = {**flat(summary["config"]), **own}
    return Cell(*(summary[name] for name in names), budget, settings, asked)


def write_study(store: Store) -> None:
    """The study `made_up`, as the fixture of that name describes it."""
    cells = []
    for function, method, seed in itertools.product(NINE, METHODS, SEEDS):
        changes: dict[str, object] = {}
        if (function, method, seed) == ("ackley", "lora", 1):
            changes = {"status": "diverged", "post_train_loss": 12.0}
        if (function, method) == ("matyas", "queryable"):
            changes = {"status": "diverged", **dict.fromkeys((*LOSSES, *SCORES, "worst_share"))}
        if (function, method, seed) == ("levy", "full", 2):
            changes = {"learnt_r2": -0.25}
        if (function, seed) == ("griewank", 0):
            changes = {"pretrain_r2": 0.5}
        summary = summary_of(function, method, seed, **changes)
        write_run(store, summary)
        asked = ("experiment=made_up", "trainer=quick", "store=/somewhere")
        cells += [cell_of(summary, budget, *asked) for budget in BUDGETS]
    store.write_study(STUDY, cells)


def plain_losses(store: Store, function: str, method: str, key: str) -> list[float]:
    """Losses by seed straight from the files."""
    losses = []
    for seed in SEEDS:
        path = store.root / "runs" / f"{function}-{method}-{seed}" / "summary.json"
        if not path.exists():
            continue
        summary = json.loads(path.read_text())
        if summary["status"] == "done":
            losses.append(summary[key])
        elif summary["status"] == "diverged":
            losses.append(math.inf)
    return losses


def markdown_rows(path: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of a Markdown table by section, each as {header: text}."""
    sections: dict[str, list[dict[str, str]]] = {}
    title, headers = "", []
    for line in path.read_text().splitlines():
        if line.startswith("## "):
            title, headers = line[3:], []
        elif line.startswith("|") and "---" not in line:
            texts = [text.strip() for text in re.split(r"(?<!\\)\|", line)[1:-1]]
            if headers:
                row = dict(zip(headers, texts, strict=True))
                sections.setdefault(title, []).append(row)
            else:
                headers = texts
    return sections


def check_svg(path: Path) -> None:
    assert ET.parse(path).getroot().tag.endswith("svg")
    assert path.stat().st_size < 500_000
    assert b"dc:date" not in path.read_bytes()


def render(view: str, store: Store, out: Path, *more: str, study: str = STUDY) -> int:
    """`python -m analysis VIEW STUDY`, whose exit code is returned; it writes to `out / study`."""
    return main([view, study, f"--store={store.root}", f"--out={out}", *more])
