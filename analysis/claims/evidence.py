"""The cells of one block that claims may use, and the pairs that they are computed from."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.benchmark import Benchmark, benchmark_of
from analysis.claims.rules import LackingError
from analysis.curves import layer_columns, load_curves
from analysis.doubts import doubts
from analysis.flags import MATCHED
from analysis.load import finished
from analysis.stats.pairs import log_ratio
from analysis.study import Study

NETWORK = ["depth", "width"]
CELL = ["function", *NETWORK, "seed"]
_FLAGS = ["weak_backbone", "beyond_reach", "learnability_checked", "little_learnt"]
_COUNTS = ["samples_per_period", "trainable_parameters", "reference_parameters"]
_LISTS = ["task_losses", "route_drift", "atom_usage"]
_COLUMNS = ["benchmark", "function", "seed", "method", "run_id", "status"]

Norms = Callable[[str], np.ndarray]  # run_id -> mean gradient norm of each layer, first to last


@dataclass(frozen=True)
class Evidence:
    """Finished cells of one budget: functions that can be learnt, methods that are no reading.

    Attributes:
        cells: rows of the long table, with depth and width of the network, the number of targets
            that one adapter serves, the control of its instruction, and how many atoms are mixed
            (NaN without a bank). All losses are inf where the run diverged.
        norms: reads the gradient norms of a run.
        benchmark: what the runs are of.
    """

    cells: pd.DataFrame
    norms: Norms
    benchmark: Benchmark

    def pairs(
        self,
        method: str,
        other: str,
        finite: bool = False,
        loss: str | None = None,
        control: str = MATCHED,
    ) -> pd.DataFrame:
        """The runs of two methods on the same function, network and seed, side by side.

        Columns: function, depth, width, seed; `<column>_own` and `<column>_other` for the others of
        `cells`; `log_ratio` is that of the own loss over the other's.

        Args:
            finite: leaves out pairs of which a run diverged; `diverged` counts them.
            loss: what the ratio is of; None: the loss that decides.
            control: of the other's instruction.

        Raises:
            LackingError: a method has no run, or several a cell, or no pair is left, or a run lacks
                the loss.
        """
        loss = loss or self.benchmark.deciding
        own, others = self.runs(method), self.runs(other, control)
        pairs = own.merge(others, on=CELL, suffixes=("_own", "_other"))
        if finite:
            pairs = pairs[(pairs["status_own"] == "done") & (pairs["status_other"] == "done")]
        if pairs.empty:
            raise LackingError(f"no finished pair of {method} and {other} on the same cell")
        losses = pairs[[f"{loss}_own", f"{loss}_other"]].astype(float)
        if losses.isna().any(axis=None):
            raise LackingError(f"runs of {method} or {other} have no {loss}")
        ratio = log_ratio(losses.iloc[:, 0], losses.iloc[:, 1])
        return pairs.assign(log_ratio=ratio).sort_values(CELL, ignore_index=True)

    def runs(self, method: str, control: str = MATCHED) -> pd.DataFrame:
        """The runs of one method under one control of its instruction, one a function, network and
        seed.

        Raises:
            LackingError: there is none, or more than one.
        """
        own = self.cells[(self.cells["method"] == method) & (self.cells["control"] == control)]
        if own.empty:
            text = "" if control == MATCHED else f" with instruction.control={control}"
            raise LackingError(f"the study has no usable run of {method}{text}")
        if own.duplicated(CELL).any():
            raise LackingError(
                f"the study has several rows of {method} on one network, and a claim wants one"
            )
        return own

    def diverged(self, method: str) -> str:
        """`1/27`: how many runs of `method` diverged."""
        status = self.runs(method)["status"]
        return f"{(status == 'diverged').sum()}/{len(status)}"

    def doubts(self, runs: Sequence[str]) -> list[str]:
        """Why `runs` decide nothing; none where they may."""
        return doubts(self.cells[self.cells["run_id"].isin(runs)])


def evidence_of(frame: pd.DataFrame, budget: str, norms: Norms) -> Evidence:
    """The evidence in one block of the long table.

    A function that full fine-tuning could not learn with one of its seeds is left out with all.
    """
    cells = finished(frame)
    cells = cells[(cells["budget"] == budget) & ~cells["not_learnable"]]
    if "reading" in cells:
        cells = cells[~cells["reading"].eq(True)]
    diverged = cells["status"] == "diverged"
    settings = {
        **{name: _column(cells, f"config.backbone.{name}", 0.0) for name in NETWORK},
        "targets": _column(cells, "config.shift.targets", 1.0),
        "control": _column(cells, "config.instruction.control", MATCHED),
        "top_k": _column(cells, "config.method.top_k", math.nan),
    }
    benchmark = benchmark_of(frame)
    names = [*_COLUMNS, *benchmark.losses, *benchmark.extra_losses, *_COUNTS, *_LISTS, *_FLAGS]
    cells = cells.reindex(columns=names).assign(**settings)
    for loss in benchmark.extra_losses:
        cells[loss] = pd.to_numeric(cells[loss]).astype(float).mask(diverged, math.inf)
    return Evidence(cells, norms, benchmark)


def _column(cells: pd.DataFrame, name: str, default: float | str) -> pd.Series:
    values = cells[name] if name in cells else pd.Series(default, index=cells.index)
    return values.astype(type(default))


def left_out(frame: pd.DataFrame) -> list[str]:
    """In words what claims do not use."""
    unlearnt = sorted(frame.loc[frame["not_learnable"], "function"].unique())
    readings = frame[frame["reading"].eq(True)] if "reading" in frame else frame[:0]
    parts = {
        "functions not learnable": unlearnt,
        "methods whose formula is partly a reading": sorted(readings["method"].unique()),
    }
    return [f"{text} ({', '.join(names)})" for text, names in parts.items() if names]


def stored_norms(study: Study) -> Norms:
    """Reads the mean over all recorded updates of each layer's adapter gradient norm."""

    def norms(run_id: str) -> np.ndarray:
        curves = load_curves(study.store, run_id)
        return np.array([curves[name].mean() for name in layer_columns(curves)])

    return norms
