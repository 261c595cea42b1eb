"""Cells of a table: means and spreads over the seeds of one row on one function."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from analysis.names import REFERENCES, budget_order, function_order, method_order, row_order
from qlexp.store.files import FINISHED

RowName = tuple[str, str]  # method, variant
ROW = ["budget", "method", "variant"]


def rows_of(frame: pd.DataFrame) -> list[RowName]:
    """The rows of cells that have the column `variant`, in the order of the tables."""
    names = set(zip(frame["method"], frame["variant"], strict=True))
    return sorted(names, key=lambda name: (method_order(name[0]), name[1]))


def cells_of(frame: pd.DataFrame, row: RowName) -> pd.DataFrame:
    """The cells of one row."""
    return frame[(frame["method"] == row[0]) & (frame["variant"] == row[1])]


def estimate(losses: Sequence[float]) -> dict[str, float]:
    """Mean and sample deviation of what the finished seeds of a cell have.

    The mean is inf as soon as one of them is, NaN without any; `finite_mean` is that of the others.
    A deviation is NaN for fewer than two finite values, and where the mean is inf.
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    mean = statistics.fmean(finite) if finite else math.nan
    deviation = statistics.stdev(finite) if len(finite) > 1 else math.nan
    infinite = len(losses) - len(finite)
    return {
        "mean": statistics.fmean(losses) if losses else math.nan,
        "deviation": math.nan if infinite else deviation,
        "seeds": len(losses),
        "infinite": infinite,
        "finite_mean": mean,
        "finite_deviation": deviation,
    }


def loss_cells(frame: pd.DataFrame, loss: str, largest: bool = False) -> pd.DataFrame:
    """One row a budget, row and function, in the order of the tables.

    The frozen backbone and full fine-tuning have no rank, so a budget means nothing to them: one
    that lacks their rows shows those of another.

    Columns: budget, method, variant, function, those of `estimate`, `missing` and `failed` seeds,
    `best_adapter` (the smallest mean of its budget, function and condition among adapters whose
    seeds have all finished, and finitely; exact ties are all best); of the row's cells together the
    texts `trainable_parameters` and `reference_parameters` (LoRA's) and the flags `off_budget` and
    `reading`; of the function's `not_learnable`, `weak_backbone` and `beyond_reach`.

    Args:
        frame: the table (`analysis.table`) with a column `loss`.
        largest: whether the best mean is the largest one, as of accuracies.
    """
    frame = with_references(frame)
    keys = [*ROW, "function"]
    cells = pd.DataFrame(
        dict(zip(keys, key, strict=True)) | _cell(part, loss)
        for key, part in frame.groupby(keys, sort=False)
    )
    rows = frame.groupby(ROW, sort=False)
    for name in ("trainable_parameters", "reference_parameters"):
        counts = rows[name].agg(counts_text).rename(name)
        cells = cells.join(counts, on=ROW)
    for name in ("off_budget", "reading"):
        cells = cells.join(rows[name].agg(lambda own: bool(own.eq(True).any())), on=ROW)
    finished = frame[frame["status"].isin(FINISHED)]
    for name in ("not_learnable", "weak_backbone", "beyond_reach"):
        flagged = set(finished.loc[finished[name], "function"])
        cells[name] = cells["function"].isin(flagged)
    cells["best_adapter"] = _best(cells.assign(mean=-cells["mean"]) if largest else cells)
    order = sorted(cells.index, key=lambda index: _order(*cells.loc[index, keys]))
    return cells.loc[order].reset_index(drop=True)


def _order(budget: str, method: str, variant: str, function: str) -> tuple[object, ...]:
    return row_order(budget, method, variant), function_order(function)


def with_references(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame`, and in each budget without a row of a reference those of another budget."""
    budgets = sorted(frame["budget"].unique(), key=budget_order)
    borrowed = []
    for method in set(REFERENCES) & set(frame["method"]):
        own = frame[frame["method"] == method]
        having = set(own["budget"])
        (*_, last) = (budget for budget in budgets if budget in having)
        borrowed += [
            own[own["budget"] == last].assign(budget=budget)
            for budget in budgets
            if budget not in having
        ]
    return pd.concat([frame, *borrowed])


def _cell(part: pd.DataFrame, loss: str) -> dict[str, Any]:
    done = part[part["status"].isin(FINISHED)]
    missing = int((part["status"] == "missing").sum())
    return {
        **estimate(done[loss].astype(float).tolist()),
        "missing": missing,
        "failed": len(part) - len(done) - missing,
        "condition": " / ".join(sorted(set(part["condition"]))),
    }


def counts_text(column: pd.Series) -> str:
    """`12/34`, ascending, each once; "" without any."""
    return "/".join(str(int(count)) for count in sorted(set(column.dropna())))


def _best(cells: pd.DataFrame) -> pd.Series:
    complete = (cells["seeds"] > 0) & (cells["missing"] + cells["failed"] == 0)
    ranked = cells["mean"].where(
        complete & ~cells["method"].isin(REFERENCES) & cells["infinite"].eq(0)
    )
    smallest = ranked.groupby([cells[name] for name in ("budget", "function", "condition")])
    return ranked.notna() & (ranked == smallest.transform("min"))


def by_budget(cells: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    """The cells of each budget, in the order of the tables."""
    return sorted(cells.groupby("budget"), key=lambda item: budget_order(item[0]))
