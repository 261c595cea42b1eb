"""Method or step size? Each method's loss over LoRA's where both fit the samples equally well.

    matched.{md,csv,tex}    the ratios of the losses at the end, of training and of test without
                            noise, and of the test losses at a training loss that both have reached
    matched_cells.csv       the same of every function and seed

A method that steps further in the same updates ends with a lower training loss, whatever it is:
rsLoRA is LoRA with twice the scale, and a routed operator I + g R changes the step too. So the test
losses are held against each other at one training loss as well, the larger of the two that the runs
end with. Each run's losses are known after 1/64, 1/32, ..., 1/2 and all of its updates
(`path` in its summary); between, the logarithm of the test loss is taken as linear in that of the
training loss. What is left of a ratio there is no matter of how far the runs have come. It may be
one of the rate at which they came there: the run that fits better is read before its schedule has
ended. Against that stands the other control, each method at its own best rate (`experiment=tuned`).
"""

import json
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.benchmark import benchmark_of
from analysis.cells import ROW
from analysis.legend import flags, row_notes
from analysis.load import finished
from analysis.names import FROZEN
from analysis.render import Grid
from analysis.rows import measured
from analysis.sections import sections
from analysis.settings import require_one
from analysis.stats.intervals import welch_of_mean
from analysis.stats.pairs import BASELINE, CELL, groups, log_ratio, partners
from analysis.study import Study
from analysis.text import ratio_text
from analysis.view import Shown
from qlexp.errors import UsageError

FITTED = "post_train_loss"
RATIOS = {
    "fit": "training loss at the end",
    "end": "test loss at the end",
    "matched": "test loss at equal training loss",
}


def show(study: Study, options: Namespace | None = None) -> Shown:
    """Raises a `UsageError` for a study with several conditions, without LoRA, or whose runs do not
    tell their losses on the way."""
    require_one(study.frame, study.name)
    frame, tuning = study.kept
    cells = matched(frame)
    if cells.empty:
        raise UsageError(
            f"Study '{study.name}' has no method beside LoRA whose runs tell their {FITTED} and "
            f"{study.benchmark.deciding} on the way: runs on functions do, of numerics version 2 "
            "and later."
        )
    table = measured(cells, _means)
    grid = Grid(
        "matched",
        f"Loss over LoRA's at equal training loss, study {study.name}",
        ("method", *RATIOS.values(), "pairs"),
        sections(table, _texts),
        [*tuning.notes(), *_NOTES, *row_notes(table), *flags(frame)],
    )
    return Shown({"matched": [grid]}, {"matched": table, "matched_cells": cells}, latex=["matched"])


_NOTES = (
    "Ratios to LoRA's run on the same function and seed, below 1 is better: geometric means over "
    "seeds, then functions, with Welch's 95 % intervals. Test losses are without noise, training "
    "losses with it.",
    "Equal training loss: the larger of the two that the pair ends with, read off the losses on "
    "the way, which under a falling schedule is before the better fit has come to its low rates. A "
    "ratio that is 1 there and is not at the end is one of how far the runs have come.",
    "Pairs: those of which neither diverged, of all; a pair without a common training loss counts "
    "at the end alone.",
)


def matched(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a finished run beside LoRA's.

    Columns: `ROW`, function, seed, reading, off_budget, status, and the logarithms `fit`, `end`,
    `level` (of the training loss that both have reached) and `matched`; those are NaN where a run
    diverged or no level is common.
    """
    test = benchmark_of(frame).deciding
    names = [*ROW, *CELL, "reading", "off_budget", "status", FITTED, test]
    cells = finished(frame)
    cells = cells[(cells["method"] != FROZEN) & ~cells["not_learnable"]]
    if f"path.{test}" not in cells:
        return cells[:0]
    cells = cells.assign(reading=cells["reading"].eq(True), path=_paths(cells, test))
    cells = cells[[*names, "path"]].reset_index(drop=True)
    lora = cells[cells["method"] == BASELINE].rename(columns={"variant": "partner"})
    keys = ["budget", "partner", *CELL]
    others = cells[cells["method"] != BASELINE]
    others = others.assign(partner=partners(cells).reindex(others.index))
    both = others.merge(
        lora[[*keys, "status", FITTED, test, "path"]], on=keys, suffixes=("", "_lora")
    )
    both["status"] = both["status"].where(both["status_lora"] == "done", both["status_lora"])
    done = both["status"] == "done"
    ends = [
        max(own[0, -1], other[0, -1])
        for own, other in zip(both["path"], both["path_lora"], strict=True)
    ]
    levels = pd.Series(ends, both.index, dtype=float).where(done)
    at_level = [
        _at(own, level) - _at(other, level)
        for own, other, level in zip(both["path"], both["path_lora"], levels, strict=True)
    ]
    at_end = {
        name: pd.Series(log_ratio(both[loss], both[f"{loss}_lora"]), both.index).where(done)
        for name, loss in (("fit", FITTED), ("end", test))
    }
    kept = [*ROW, *CELL, "reading", "off_budget", "status"]
    return both[kept].assign(**at_end, level=levels, matched=at_level)


def _paths(cells: pd.DataFrame, test: str) -> list[np.ndarray]:
    """Of each run the logarithms of its training and test losses, (2, moments + 1)."""
    return [
        np.log(
            [
                [*_losses(record, FITTED), record[FITTED]],
                [*_losses(record, test), record[test]],
            ]
        )
        for record in cells.to_dict("records")
    ]


def _losses(record: Mapping, name: str) -> Sequence[float]:
    """The losses of one run on its way; none where it tells none."""
    text = record.get(f"path.{name}")
    losses = json.loads(text) if isinstance(text, str) else ()
    return [math.inf if loss is None else loss for loss in losses]  # null where a lane diverged


def _at(path: np.ndarray, level: float) -> float:
    """The log test loss where the training loss last came down to `level`; NaN if it never did."""
    fits, tests = path
    above = np.flatnonzero(fits >= level)
    if not len(above) or not np.isfinite(path).all():
        return np.nan
    last = above[-1]
    if last == len(fits) - 1:
        return float(tests[-1]) if fits[-1] == level else np.nan
    share = (fits[last] - level) / (fits[last] - fits[last + 1])
    return float(tests[last] + share * (tests[last + 1] - tests[last]))


def _means(cells: pd.DataFrame) -> dict[str, float]:
    means: dict[str, float] = {
        "reading": bool(cells["reading"].any()),
        "off_budget": bool(cells["off_budget"].any()),
        "pairs": len(cells),
        "done": int((cells["status"] == "done").sum()),
        "common": int(cells["matched"].notna().sum()),
    }
    for name in RATIOS:
        logs = groups(cells, name)
        if logs:
            means |= welch_of_mean(logs).named(name, f"{name}_low", f"{name}_high")
    return means


def _texts(title: str, cells: pd.DataFrame) -> list[str]:
    (row,) = cells.to_dict("records")
    return [
        title,
        *(
            ratio_text(*(row.get(end, np.nan) for end in (name, f"{name}_low", f"{name}_high")))
            for name in RATIOS
        ),
        f"{row['common']}/{row['pairs']}",
    ]
