"""Each method's deciding loss over LoRA's: over all functions and on each."""

import pandas as pd

from analysis.benchmark import benchmark_of
from analysis.cells import with_references
from analysis.load import finished
from analysis.names import ALL, FROZEN
from analysis.rows import by_row
from analysis.stats.intervals import welch_of_mean
from analysis.stats.pairs import BASELINE, CELL, groups, log_ratio, paired


def ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a method of a block and function, and one over all functions, which comes first.

    Columns: budget, method, variant, reading, off_budget, is_reference, baseline, function,
    functions, runs, diverged, ratio, low, high (NaN where seeds do not suffice). The row of LoRA,
    which is 1, is left out where the block is divided by it.
    """
    cells = paired(frame, benchmark_of(frame).deciding)
    cells = pd.concat([cells.assign(is_reference=False), _references(frame, cells)])
    cells = cells[(cells["method"] != BASELINE) | (cells["baseline"] != BASELINE)]
    flags = ("reading", "off_budget", "is_reference")
    return pd.DataFrame(
        {
            **row,
            **{name: bool(own[name].any()) for name in flags},
            "baseline": own["baseline"].iloc[0],
            "function": function,
            **_interval(part),
        }
        for row, own in by_row(cells.dropna(subset="log_ratio"))
        for function, part in [(ALL, own), *own.groupby("function", sort=False)]
    )


def _interval(cells: pd.DataFrame) -> dict[str, float]:
    logs = groups(cells, "log_ratio")
    diverged = int((cells["status"] == "diverged").sum())
    counts = {"functions": len(logs), "runs": len(cells), "diverged": diverged}
    return {**counts, **welch_of_mean(logs).exp().named("ratio")}


def _references(frame: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of full fine-tuning as `paired` gives those of adapters."""
    done = with_references(finished(frame))
    done = done[done["is_reference"] & (done["method"] != FROZEN) & ~done["not_learnable"]]
    lora = cells[cells["method"] == BASELINE].drop_duplicates(["budget", *CELL], keep=False)
    lora = lora[["budget", *CELL, "loss"]].rename(columns={"loss": "base"})
    baselines = cells[["budget", "baseline"]].drop_duplicates()
    done = done.merge(baselines, on="budget").merge(lora, on=["budget", *CELL], how="left")
    benchmark = benchmark_of(frame)
    base = done["base"].where(done["baseline"] == BASELINE, done[benchmark.deciding_frozen])
    loss = done[benchmark.deciding].astype(float)
    return done.assign(reading=False, loss=loss, log_ratio=log_ratio(loss, base))[
        [*cells, "is_reference"]
    ]
