"""The cells of one block that claims may use, and the pairs that they are computed from."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.cells import COUNT_TOLERANCE, not_learnable
from analysis.claims.rules import LackingError
from analysis.load import finished, load_curves
from analysis.statistics.pairs import log_ratio
from qlexp.store import Store

NETWORK = ["depth", "width"]
_CELL = ["function", *NETWORK, "seed"]
LOSS = "test_loss"
_COLUMNS = (
    "function",
    "seed",
    "method",
    "run_id",
    "status",
    LOSS,
    "samples_per_period",
    "trainable_parameters",
    "reference_parameters",
    "task_losses",
    "atom_usage",
)

Norms = Callable[[str], np.ndarray]  # run_id -> mean gradient norm of each layer, first to last


@dataclass(frozen=True)
class Evidence:
    """Finished cells of one budget: functions that can be learnt, methods that are no reading.

    Attributes:
        budget: of the block.
        cells: rows of the long table (`_COLUMNS`), with depth and width of the network.
        norms: reads the gradient norms of a run.
    """

    budget: str
    cells: pd.DataFrame
    norms: Norms

    def pairs(self, method: str, other: str, finite: bool = False) -> pd.DataFrame:
        """The runs of two methods on the same function, network and seed, side by side.

        Columns: function, depth, width, seed; `<column>_own` and `<column>_other` for the others of
        `cells`; `gain` is log(other's test loss / own).

        Args:
            finite: leaves out pairs of which a run diverged; `diverged` counts them.

        Raises:
            LackingError: a method has no run, or several a cell, or no pair is left.
        """
        own, others = self.runs(method), self.runs(other)
        pairs = own.merge(others, on=_CELL, suffixes=("_own", "_other"))
        if finite:
            pairs = pairs[(pairs["status_own"] == "done") & (pairs["status_other"] == "done")]
        if pairs.empty:
            raise LackingError(f"no finished pair of {method} and {other} on the same cell")
        gain = log_ratio(pairs[f"{LOSS}_other"].astype(float), pairs[f"{LOSS}_own"].astype(float))
        return pairs.assign(gain=gain).sort_values(_CELL, ignore_index=True)

    def diverged(self, method: str) -> str:
        """`1/27`: how many runs of `method` diverged."""
        status = self.cells.loc[self.cells["method"] == method, "status"]
        return f"{(status == 'diverged').sum()}/{len(status)}"

    def runs(self, method: str) -> pd.DataFrame:
        """The runs of one method, one a function, network and seed.

        Raises:
            LackingError: there is none, or more than one.
        """
        own = self.cells[self.cells["method"] == method]
        if own.empty:
            raise LackingError(f"the study has no usable run of {method}")
        if own.duplicated(_CELL).any():
            raise LackingError(
                f"the study has several rows of {method} on one network, and a claim wants one"
            )
        return own


def evidence_of(frame: pd.DataFrame, budget: str, norms: Norms) -> Evidence:
    """The evidence in one block of the long table.

    A function that full fine-tuning could not learn with one of its seeds is left out with all.
    """
    cells = finished(frame)
    cells = cells[(cells["budget"] == budget) & ~cells["function"].isin(list(not_learnable(frame)))]
    if "reading" in cells:
        cells = cells[~cells["reading"].eq(True)]
    sizes = {name: _column(cells, f"config.backbone.{name}") for name in NETWORK}
    return Evidence(budget, cells.reindex(columns=_COLUMNS).assign(**sizes), norms)


def _column(cells: pd.DataFrame, name: str) -> pd.Series:
    return cells[name].astype(float) if name in cells else pd.Series(0.0, index=cells.index)


def left_out(frame: pd.DataFrame) -> list[str]:
    """In words what claims do not use."""
    texts = []
    unlearnt = sorted(not_learnable(frame))
    if unlearnt:
        texts.append(f"functions not learnable ({', '.join(unlearnt)})")
    if "reading" in frame:
        readings = sorted(frame.loc[frame["reading"].eq(True), "method"].unique())
        if readings:
            texts.append(f"methods whose formula is partly a reading ({', '.join(readings)})")
    return texts


def off_budget(pairs: pd.DataFrame) -> bool:
    """Whether a run's count lies further than `COUNT_TOLERANCE` from its reference."""
    wanted = pairs["reference_parameters_own"]
    return bool(
        ((pairs["trainable_parameters_own"] - wanted).abs() > COUNT_TOLERANCE * wanted).any()
    )


def stored_norms(store: Store) -> Norms:
    """Reads the mean over all recorded updates of each layer's adapter gradient norm.

    Columns `gradient_norm.layer_<i>` of the curves: what belongs to the layer; a bank that all
    layers share has no depth and is not counted.
    """

    def norms(run_id: str) -> np.ndarray:
        curves = load_curves(store, run_id)
        prefix = "gradient_norm.layer_"
        layers = sorted(
            int(name.removeprefix(prefix)) for name in curves if name.startswith(prefix)
        )
        return np.array([curves[f"{prefix}{layer}"].mean() for layer in layers])

    return norms
