"""What the analysis of 10,000 stored runs costs: the long table, the tables, the report's page.

    python -m benchmarks.analysis [--runs 10000] [--out results/benchmarks]

The store's own writer fills a temporary folder with runs of the paper's shape: their configs,
summaries and curves, and a tiny adapter file. Each command then runs in a process of its own. Its
wall time counts from the start of the process, so imports are in it; its memory is the largest
resident set. Processor seconds stand beside the wall time, which a busy machine stretches. The
tables, statistics and claims of 10,000 runs are to take less than `LIMIT_SECONDS` and `LIMIT_MIB`:
the exit code is 1 where they do not. Gradients and the report read all curves besides, the ablation
reads a study of its own with one swept setting; they have no limit.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tqdm import tqdm

from analysis.flow.load import layer_parameters
from analysis.names import REFERENCES
from benchmarks.report import publish
from qlexp.config.identity import plain
from qlexp.config.resolve import resolve
from qlexp.config.schema import register_schema
from qlexp.config.settings import flat
from qlexp.environment import device_name, versions
from qlexp.main import CONF
from qlexp.problem.functions import FUNCTIONS
from qlexp.store.files import write_folder
from qlexp.store.manifest import Cell
from qlexp.store.store import Store

STUDY = "benchmark"
BUDGETS = ("rank_8", "lora_r8")
UPDATES = range(0, 5001, 50)
LORA_COUNT = 262_144
SWEPT = "swept"  # the same runs, the budgets as values of a setting
LIMITED = ("analysis.tables", "analysis.stats", "analysis.claims")
COMMANDS = {
    **dict.fromkeys(LIMITED, STUDY),
    "analysis.ablation": SWEPT,
    "analysis.gradients": STUDY,
    "analysis.report": STUDY,
}
LIMIT_SECONDS = 10
LIMIT_MIB = 1024
_MEASURED = """\
import resource, runpy, sys, time
started = time.perf_counter()
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as stop:
    assert not stop.code, stop.code
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(time.perf_counter() - started, time.process_time(), peak)
"""


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000, help="how many runs (%(default)s)")
    parser.add_argument("--out", type=Path, help="folder to write the figures to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        fill(store, options.runs)
        out = Path(folder) / "results"
        costs = {name: measure(name, study, store, out) for name, study in COMMANDS.items()}
        page = (out / STUDY / "report.html").stat().st_size
    machine = device_name(torch.device("cpu"))
    rows = [
        f"| {name} | {wall:.1f} | {processor:.1f} | {peak:.0f} |"
        for name, (wall, processor, peak) in costs.items()
    ]
    over = [
        name for name in LIMITED if costs[name][0] > LIMIT_SECONDS or costs[name][2] > LIMIT_MIB
    ]
    sections = [
        f"{options.runs:,} runs; {machine}, pandas {versions()['pandas']}.",
        "\n".join(
            ["| command | seconds | processor seconds | peak MiB |", "|---|---:|---:|---:|", *rows]
        ),
        f"The page has {page / 2**20:.1f} MiB. The made-up runs hold no weights, so it lacks the "
        "chapter on routing, which looks at a hundred runs at most.",
        f"Limit of {', '.join(LIMITED)}: {LIMIT_SECONDS} seconds and {LIMIT_MIB} MiB. Above it: "
        f"{', '.join(over) or 'none'}.",
    ]
    publish("\n\n".join(sections), options.out, "analysis.md")
    return int(bool(over))


def measure(module: str, study: str, store: Store, out: Path) -> tuple[float, float, float]:
    """Seconds, processor seconds and peak MiB of `python -m <module>` on a study."""
    command = [sys.executable, "-c", _MEASURED, module, "--study", study]
    command += ["--store", str(store.root), "--out", str(out)]
    *_, last = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()
    seconds, processor, peak = map(float, last.split())
    return seconds, processor, peak


def fill(store: Store, runs: int) -> None:
    """Writes the runs and the manifests of both studies."""
    cells = []
    places: dict[str, list[str]] = {}  # by method: resolving a config takes time
    for summary, budget in tqdm(itertools.islice(summaries(), runs), total=runs, disable=None):
        if summary["method"] not in places:
            config = resolve(OmegaConf.create(summary["config"]))
            places[summary["method"]] = list(layer_parameters(config))
        own = curves(summary, places[summary["method"]])
        tensors = {"adapter": {"A": torch.zeros(8)}}
        write_folder(store.run_folder(summary["run_id"]), summary, own, tensors)
        cells.append(
            Cell(
                run_id=summary["run_id"],
                function=summary["function"],
                method=summary["method"],
                seed=summary["seed"],
                budget=budget,
                settings=flat(summary["config"]),
                reference_parameters=LORA_COUNT,
            )
        )
    store.write_study(STUDY, cells)
    store.write_study(SWEPT, [_as_swept(cell) for cell in cells if cell.method not in REFERENCES])


def _as_swept(cell: Cell) -> Cell:
    settings = {**cell.settings, "method.rank": 8 * (1 + BUDGETS.index(cell.budget))}
    return replace(cell, budget=BUDGETS[0], settings=settings, asked=("method.rank",))


def summaries() -> Iterator[tuple[dict[str, Any], str]]:
    """Endless summaries with their budgets, a seed of every cell after the other."""
    register_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        configs = {path.stem: _config(path.stem) for path in sorted((CONF / "method").glob("*"))}
    draw = np.random.default_rng(0)
    for seed in itertools.count():
        for budget, function, method in itertools.product(BUDGETS, FUNCTIONS, configs):
            if method in REFERENCES and budget != BUDGETS[0]:
                continue
            config = {**configs[method], "function": _function(function), "seed": seed}
            yield _summary(config, f"{function}-{method}-{budget}-{seed}", draw), budget


def _config(method: str) -> dict[str, Any]:
    return plain(
        resolve(compose("config", ["backbone=paper", "trainer=paper", f"method={method}"]))
    )


def _function(name: str) -> dict[str, Any]:
    function = FUNCTIONS[name]
    domain = [list(side) for side in function.domain]
    return {
        "name": name,
        "coefficients": dict(function.coefficients),
        "domain": domain,
        "spread": 0.0,
    }


def _summary(config: dict[str, Any], identity: str, draw: np.random.Generator) -> dict[str, Any]:
    loss = float(draw.lognormal(-4))
    method = config["method"]["name"]
    diverged = draw.random() < 0.01
    return {
        "run_id": identity,
        "function": config["function"]["name"],
        "method": method,
        "seed": config["seed"],
        "status": "diverged" if diverged else "done",
        "backbone_id": f"{config['function']['name']}-{config['seed']}",
        "pretrain_loss": 0.004,
        "pretrain_r2": 0.995,
        "source_loss": 0.005,
        "frozen_loss": 0.5,
        "post_train_loss": loss,
        "validation_loss": 1.1 * loss,
        "test_loss": 1.2 * loss,
        "test_loss_clean": 1.2 * loss,
        "unseen_loss": None,
        "paraphrased_loss": None,
        "test_r2": 1 - loss,
        "test_loss_raw": 12 * loss,
        "trainable_parameters": LORA_COUNT,
        "reference_parameters": LORA_COUNT,
        "total_parameters": 7_000_000,
        "rank": config["method"].get("rank"),
        "reading": False,
        "steps": 0 if method == "frozen" else 5000,
        "samples_per_period": 5.0,
        "lanes": 45,
        "seconds": float(draw.uniform(10, 20)),
        "peak_memory_bytes": 2**30,
        "versions": versions(),
        "commit": "0123456789ab",
        "device": "made up",
        "config": config,
    }


def curves(summary: dict[str, Any], places: Sequence[str]) -> pd.DataFrame:
    """Curves of the shape that a run of the paper's protocol has, with gradients at `places`."""
    steps = np.array(UPDATES if summary["steps"] else [], dtype=int)
    loss = summary["post_train_loss"] * (1 + 50 / (1 + steps / 50))
    norms = {f"gradient_norm.{place}": loss / (1 + i) for i, place in enumerate(places)}
    return pd.DataFrame({"step": steps, "loss": loss, "learning_rate": 5e-4, **norms})


if __name__ == "__main__":
    sys.exit(main())
