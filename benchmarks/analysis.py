"""What the analysis of 10,000 stored runs costs: the long table, the tables, the report's page.

    python -m benchmarks.analysis [--runs 10000] [--out results/benchmarks]

The store's own writer fills a temporary folder with runs of the paper's shape: their configs,
summaries and curves, and a tiny adapter file. Each view is then shown by a process of its own. Its
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from analysis.flow.load import layer_parameters
from analysis.names import REFERENCES
from analysis.view import Shown
from benchmarks.contenders import config_of
from benchmarks.report import grid, publish, section
from qlexp.config.identity import plain
from qlexp.config.schema import Config
from qlexp.config.settings import flat
from qlexp.environment import versions
from qlexp.main import choices
from qlexp.problem.functions import FUNCTIONS
from qlexp.store.files import write_folder
from qlexp.store.manifest import Cell
from qlexp.store.store import Store

STUDY = "benchmark"
BUDGETS = ("rank_8", "lora_r8")
SCALE = ("backbone=paper", "trainer=paper")
UPDATES = range(0, 5001, 50)
LORA_COUNT = 262_144
SWEPT = "swept"  # the same runs, the budgets as values of a setting
LIMITED = ("tables", "stats", "claims")
VIEWS = {  # by name, the study that is shown
    **dict.fromkeys(LIMITED, STUDY),
    "ablation": SWEPT,
    "gradients": STUDY,
    "report": STUDY,
}
LIMIT_SECONDS = 10
LIMIT_MIB = 1024
_MEASURED = """\
import resource, sys, time
started = time.perf_counter()
from analysis.__main__ import main
code = main(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(time.perf_counter() - started, time.process_time(), peak)
sys.exit(code)
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
        costs = {view: measure(view, study, store, out) for view, study in VIEWS.items()}
        page = (out / STUDY / "report.html").stat().st_size
    over = [
        view for view in LIMITED if costs[view][0] > LIMIT_SECONDS or costs[view][2] > LIMIT_MIB
    ]
    rows = [
        [view, f"{seconds:.1f}", f"{processor:.1f}", f"{peak:.0f}"]
        for view, (seconds, processor, peak) in costs.items()
    ]
    notes = [
        f"pandas {versions()['pandas']}.",
        f"The page has {page / 2**20:.1f} MiB. The made-up runs hold no weights, so it lacks the "
        "chapter on routing, which looks at a hundred runs at most.",
        f"Limit of {', '.join(LIMITED)}: {LIMIT_SECONDS} seconds and {LIMIT_MIB} MiB. Above it: "
        f"{', '.join(over) or 'none'}.",
    ]
    headers = ["view", "seconds", "processor seconds", "peak MiB"]
    title = f"The analysis of {options.runs:,} runs"
    table = grid("analysis", title, headers, section("", rows), notes=notes)
    publish(Shown(grids={"analysis": [table]}), options.out)
    return int(bool(over))


def measure(view: str, study: str, store: Store, out: Path) -> tuple[float, float, float]:
    """Seconds, processor seconds and peak MiB of showing a view of a study."""
    command = [sys.executable, "-c", _MEASURED, view, study]
    command += ["--store", str(store.root), "--out", str(out)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds, processor, peak = map(float, printed.splitlines()[-1].split())
    return seconds, processor, peak


def fill(store: Store, runs: int) -> None:
    """Writes the runs and the manifests of both studies."""
    methods = {name: config_of(name, 8, *SCALE) for name in choices("method")}
    places = {name: list(layer_parameters(config)) for name, config in methods.items()}
    plain_configs = {name: plain(config) for name, config in methods.items()}
    functions = {name: plain(config_of("lora", 8, f"function={name}")) for name in FUNCTIONS}
    draw = np.random.default_rng(0)
    cells = []
    every = (cell for seed in itertools.count() for cell in _cells(methods, seed))
    for cell in tqdm(itertools.islice(every, runs), total=runs, disable=None):
        config = {
            **plain_configs[cell.method],
            "function": functions[cell.function]["function"],
            "seed": cell.seed,
        }
        summary = _summary(config, cell.run_id, draw)
        tensors = {"adapter": {"A": torch.zeros(8)}}
        own = curves(summary, places[cell.method])
        write_folder(store.run_folder(cell.run_id), summary, own, tensors)
        cells.append(cell)
    store.write_study(STUDY, cells)
    store.write_study(SWEPT, [_as_swept(cell) for cell in cells if cell.method not in REFERENCES])


def _cells(methods: Mapping[str, Config], seed: int) -> Iterator[Cell]:
    """Those of one seed: every function and method at both budgets, references at one."""
    places = itertools.product(BUDGETS, FUNCTIONS, methods.items())
    for budget, function, (method, config) in places:
        if method not in REFERENCES or budget == BUDGETS[0]:
            yield Cell(
                run_id=f"{function}-{method}-{budget}-{seed}",
                function=function,
                method=method,
                seed=seed,
                budget=budget,
                settings=flat(plain(config)),
                reference_parameters=LORA_COUNT,
            )


def _as_swept(cell: Cell) -> Cell:
    settings = {**cell.settings, "method.rank": 8 * (1 + BUDGETS.index(cell.budget))}
    return replace(cell, budget=BUDGETS[0], settings=settings, asked=("method.rank",))


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
        "frozen_loss_clean": 0.5,
        "frozen_validation_loss": 0.5,
        "post_train_loss": loss,
        "validation_loss": 1.1 * loss,
        "learnt_loss": 1.1 * loss,
        "learnt_r2": 1 - loss,
        "test_loss": 1.2 * loss,
        "test_loss_clean": 1.2 * loss,
        "worst_share": float(draw.uniform(0.1, 0.9)),
        "beyond_head": 0.0,
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
