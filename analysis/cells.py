"""Cells of a table: means and spreads over the seeds of one row on one function."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from analysis.conditions import conditions
from analysis.flags import (  # noqa: F401
    COUNT_TOLERANCE,
    not_learnable,
    off_budget,
    weak_backbones,
)
from analysis.load import SEPARATOR, finished
from analysis.names import (
    REFERENCES,
    STYLE,
    budget_order,
    function_order,
    method_order,
    row_label,
)
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
        "mean": math.inf if infinite else mean,
        "deviation": math.nan if infinite else deviation,
        "seeds": len(losses),
        "infinite": infinite,
        "finite_mean": mean,
        "finite_deviation": deviation,
    }


def loss_cells(frame: pd.DataFrame, loss: str) -> pd.DataFrame:
    """One row a budget, row and function, in the order of the tables.

    The frozen backbone and full fine-tuning have no rank, so a budget means nothing to them: one
    that lacks their rows shows those of another.

    Columns: budget, method, variant, function, those of `estimate`, `missing` and `failed` seeds,
    `best_adapter` (the smallest mean of its budget, function and condition among adapters whose
    seeds have all finished, and finitely; exact ties are all best); of the row's cells together the
    texts `trainable_parameters` and `reference_parameters` (LoRA's) and the flags `off_budget` and
    `reading`; of the function's `not_learnable` and `weak_backbone`.

    Args:
        frame: the table (`analysis.table`) with a column `loss`.
    """
    frame = with_references(frame)
    keys = [*ROW, "function"]
    cells = pd.DataFrame(
        dict(zip(keys, key, strict=True)) | _cell(part, loss)
        for key, part in frame.groupby(keys, sort=False)
    )
    rows = frame.groupby(ROW, sort=False)
    for name in ("trainable_parameters", "reference_parameters"):
        counts = rows[name].agg(_counts).rename(name)
        cells = cells.join(counts, on=ROW)
    for name in ("off_budget", "reading"):
        cells = cells.join(rows[name].agg(lambda own: bool(own.eq(True).any())), on=ROW)
    finished = frame[frame["status"].isin(FINISHED)]
    for name in ("not_learnable", "weak_backbone"):
        flagged = set(finished.loc[finished[name], "function"])
        cells[name] = cells["function"].isin(flagged)
    cells["best_adapter"] = _best(cells)
    order = sorted(cells.index, key=lambda index: _order(*cells.loc[index, keys]))
    return cells.loc[order].reset_index(drop=True)


def _order(budget: str, method: str, variant: str, function: str) -> tuple[object, ...]:
    return budget_order(budget), method_order(method), variant, function_order(function)


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


def _counts(column: pd.Series) -> str:
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


def at(cells: pd.DataFrame) -> Mapping[tuple[str, ...], Any]:
    """Cells by (budget, method, variant, function)."""
    keys = [*ROW, "function"]
    return {tuple(getattr(cell, name) for name in keys): cell for cell in cells.itertuples()}


# superseded by the functions above; goes with the last view that uses it

_NEEDED = [
    "budget",
    "function",
    "method",
    "seed",
    "status",
    "trainable_parameters",
    "reference_parameters",
]
OFF_BUDGET = "†"


@dataclass(frozen=True)
class Estimate:
    """One method on one function.

    Attributes:
        values: by finished seed; inf where the run diverged.
        missing: seeds without a stored run.
        failed: seeds whose run failed.
        condition: under which the losses were found (`analysis.conditions`).
    """

    values: dict[int, float]
    missing: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    condition: str = ""

    @cached_property
    def finite(self) -> list[float]:
        return [value for value in self.values.values() if math.isfinite(value)]

    @property
    def infinite(self) -> int:
        return len(self.values) - len(self.finite)

    @property
    def complete(self) -> bool:
        return bool(self.values) and not self.missing and not self.failed

    @property
    def mean(self) -> float:
        """Over all finished seeds: inf as soon as one of them diverged, NaN without any."""
        return math.inf if self.infinite else self.finite_mean

    @property
    def finite_mean(self) -> float:
        return statistics.fmean(self.finite) if self.finite else math.nan

    @property
    def finite_deviation(self) -> float:
        """Sample standard deviation; NaN for fewer than two finite values."""
        return statistics.stdev(self.finite) if len(self.finite) > 1 else math.nan


@dataclass(frozen=True)
class Row:
    """One method of a block, with the overrides that tell it from its namesakes."""

    method: str
    variant: str
    estimates: dict[str, Estimate]  # by function; a function that was not asked for is absent
    trainable: tuple[int, ...]  # the counts that occur, ascending
    reference: tuple[int, ...]  # LoRA's at the reference rank
    off_budget: bool  # whether a cell's count lies further than `COUNT_TOLERANCE` from LoRA's
    reading: bool  # whether the method's formula is partly a reading of its paper

    @property
    def label(self) -> str:
        return row_label(self.method, self.variant)

    @property
    def title(self) -> str:
        """The label with its marks."""
        return self.label + STYLE * self.reading + OFF_BUDGET * self.off_budget

    @property
    def is_reference(self) -> bool:
        return self.method in REFERENCES


@dataclass(frozen=True)
class Block:
    """The rows of one budget."""

    budget: str
    rows: list[Row]
    best: dict[str, set[int]] = field(default_factory=dict)  # by function, indices into rows


def build_blocks(frame: pd.DataFrame, loss: str) -> list[Block]:
    """The blocks of a table of `loss`, one a budget.

    The frozen backbone and full fine-tuning have no rank, so a budget means nothing to them: a
    block that lacks their rows shows those of another block.

    The best adapter of a function and condition is the one with the smallest mean among those whose
    seeds have all finished, and finitely; exact ties are all best.
    """
    kept = frame[[name for name in (*_NEEDED, loss, "reading") if name in frame]]
    frame = kept.assign(variant=variants(frame), condition=conditions(frame))
    blocks = [
        Block(budget, _rows(part, loss))
        for budget, part in sorted(frame.groupby("budget"), key=lambda item: budget_order(item[0]))
    ]
    everywhere = {
        (row.method, row.variant): row for block in blocks for row in block.rows if row.is_reference
    }
    return [_with_best_of(_with_block_references(block, everywhere)) for block in blocks]


def variants(frame: pd.DataFrame) -> pd.Series:
    """For each cell the overrides that tell its row from others of the same method, or "".

    They are needed where a method has two cells for one function, seed and budget; overrides that
    all cells share are left out.
    """
    texts = pd.Series("", index=frame.index)
    frame = frame[["budget", "method", "function", "seed", "overrides"]]
    for _, part in frame.groupby(["budget", "method"]):
        if not part.duplicated(["function", "seed"]).any():
            continue
        shared = set.intersection(*(set(text.split(SEPARATOR)) for text in part["overrides"]))
        for index, text in part["overrides"].items():
            own = [word for word in text.split(SEPARATOR) if word not in shared]
            texts[index] = SEPARATOR.join(own)
    return texts


def _rows(part: pd.DataFrame, loss: str) -> list[Row]:
    rows = []
    for (method, variant), group in part.groupby(["method", "variant"]):
        estimates = {
            function: _estimate(cells, loss) for function, cells in group.groupby("function")
        }
        counts, reference = group["trainable_parameters"], group["reference_parameters"]
        rows.append(
            Row(
                method,
                variant,
                estimates,
                _row_counts(counts),
                _row_counts(reference),
                method not in REFERENCES and bool(off_budget(counts, reference).any()),
                bool(_column(group, "reading").eq(True).any()),
            )
        )
    return sorted(rows, key=_row_order)


def _row_order(row: Row) -> tuple[object, ...]:
    return method_order(row.method), row.variant


def _estimate(cells: pd.DataFrame, loss: str) -> Estimate:
    values: dict[int, float] = {}
    missing: list[int] = []
    failed: list[int] = []
    for seed, status, value in zip(cells["seed"], cells["status"], cells[loss], strict=True):
        if status in FINISHED:
            values[int(seed)] = float(value)
        else:
            (missing if status == "missing" else failed).append(int(seed))
    condition = " / ".join(sorted(set(cells["condition"])))
    return Estimate(values, tuple(sorted(missing)), tuple(sorted(failed)), condition)


def _row_counts(column: pd.Series) -> tuple[int, ...]:
    return tuple(sorted({int(count) for count in column.dropna()}))


def _with_block_references(block: Block, everywhere: dict[tuple[str, str], Row]) -> Block:
    present = {row.method for row in block.rows}
    borrowed = [row for row in everywhere.values() if row.method not in present]
    return replace(block, rows=sorted([*block.rows, *borrowed], key=_row_order))


def _with_best_of(block: Block) -> Block:
    functions = {function for row in block.rows for function in row.estimates}
    return replace(block, best={function: _best_of(block.rows, function) for function in functions})


def _best_of(rows: list[Row], function: str) -> set[int]:
    means: dict[str, dict[int, float]] = {}  # by condition
    for index, row in enumerate(rows):
        own = row.estimates.get(function)
        if own and own.complete and not row.is_reference and math.isfinite(own.mean):
            means.setdefault(own.condition, {})[index] = own.mean
    return {i for own in means.values() for i, mean in own.items() if mean == min(own.values())}


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    return frame[name] if name in frame else pd.Series(math.nan, index=frame.index)


def backbones(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a backbone under one shift: the frozen network that all methods of a cell share."""
    done = finished(frame)
    shift = [name for name in done if name.startswith(("config.shift.", "config.data."))]
    return done.drop_duplicates(["function", "seed", "backbone_id", *shift])
