"""From the long table to the cells of a table: means and spreads over seeds."""

import json
import math
import statistics
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.conditions import conditions
from analysis.load import SEPARATOR, finished
from analysis.names import (
    REFERENCES,
    STYLE,
    UNRESTRICTED,
    budget_order,
    method_order,
    row_label,
)
from analysis.transfer import just_learnt
from qlexp.store.files import FINISHED

_NEEDED = [
    "budget",
    "function",
    "method",
    "seed",
    "status",
    "trainable_parameters",
    "reference_parameters",
]
COUNT_TOLERANCE = 0.1  # trainable parameters further from LoRA's are marked
OFF_BUDGET = "†"

RowName = tuple[str, str]  # method, variant


def off_budget(count: pd.Series, reference: pd.Series) -> pd.Series:
    """Whether trainable parameters lie further than `COUNT_TOLERANCE` from LoRA's, elementwise.

    Where either is missing they do not.
    """
    return abs(count - reference) > COUNT_TOLERANCE * reference


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
    return [_with_best(_with_references(block, everywhere)) for block in blocks]


def rows_of(frame: pd.DataFrame) -> list[RowName]:
    """The rows of cells that have the column `variant`, in the order of the tables."""
    names = set(zip(frame["method"], frame["variant"], strict=True))
    return sorted(names, key=lambda name: (method_order(name[0]), name[1]))


def cells_of(frame: pd.DataFrame, row: RowName) -> pd.DataFrame:
    """The cells of one row."""
    return frame[(frame["method"] == row[0]) & (frame["variant"] == row[1])]


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
                _counts(counts),
                _counts(reference),
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


def _counts(column: pd.Series) -> tuple[int, ...]:
    return tuple(sorted({int(count) for count in column.dropna()}))


def _with_references(block: Block, everywhere: dict[tuple[str, str], Row]) -> Block:
    present = {row.method for row in block.rows}
    borrowed = [row for row in everywhere.values() if row.method not in present]
    return replace(block, rows=sorted([*block.rows, *borrowed], key=_row_order))


def _with_best(block: Block) -> Block:
    functions = {function for row in block.rows for function in row.estimates}
    return replace(block, best={function: _best(block.rows, function) for function in functions})


def _best(rows: list[Row], function: str) -> set[int]:
    means: dict[str, dict[int, float]] = {}  # by condition
    for index, row in enumerate(rows):
        own = row.estimates.get(function)
        if own and own.complete and not row.is_reference and math.isfinite(own.mean):
            means.setdefault(own.condition, {})[index] = own.mean
    return {i for own in means.values() for i, mean in own.items() if mean == min(own.values())}


def not_learnable(frame: pd.DataFrame) -> dict[str, dict[int, float]]:
    """Functions that full fine-tuning could not learn: its test R² below 0, by seed.

    Of targets in sequence each counts as it stood when it was learnt, not as later ones left it.
    """
    needed = ["function", "seed", "status", "test_loss", "test_r2", "task_losses"]
    full = frame.loc[frame["method"] == UNRESTRICTED, [name for name in needed if name in frame]]
    full = full.assign(learnt_r2=[_learnt_r2(run) for run in full.to_dict("records")])
    return _by_function(full[full["learnt_r2"] < 0], "learnt_r2")


def _learnt_r2(run: dict[Hashable, Any]) -> float:
    """The test R² of a run; of targets in sequence, with each one's loss right after its turn."""
    losses, last = run.get("task_losses"), run["test_loss"]
    if not isinstance(losses, str) or not 0 < last < math.inf:
        return float(run["test_r2"])
    variance = last / (1 - run["test_r2"])
    return 1 - float(just_learnt(np.array(json.loads(losses), dtype=float)).mean()) / variance


def weak_backbones(frame: pd.DataFrame) -> dict[str, dict[int, float]]:
    """Functions with a backbone whose validation R² is below its floor: that R², by seed."""
    weak = frame["pretrain_r2"] < _column(frame, "config.trainer.r2_floor")
    return _by_function(frame[weak], "pretrain_r2")


def _by_function(cells: pd.DataFrame, column: str) -> dict[str, dict[int, float]]:
    return {
        function: {int(seed): float(values.min()) for seed, values in part.groupby("seed")[column]}
        for function, part in finished(cells).groupby("function")
    }


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    return frame[name] if name in frame else pd.Series(math.nan, index=frame.index)


def backbones(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a backbone under one shift: the frozen network that all methods of a cell share."""
    done = finished(frame)
    shift = [name for name in done if name.startswith(("config.shift.", "config.data."))]
    return done.drop_duplicates(["function", "seed", "backbone_id", *shift])
