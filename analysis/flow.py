"""Gradient norms over depth: their size, how even they are, and their intervals."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import entr

from analysis.figures.rows import RowName, cells_of, rows_of
from analysis.load import layer_columns, load_curves
from analysis.names import row_label
from analysis.statistics.intervals import NO_INTERVAL, contrast
from qlexp.backbone import Backbone
from qlexp.config import Config
from qlexp.errors import UsageError
from qlexp.execute import stored_config
from qlexp.initial import Shapes
from qlexp.store import Store
from qlexp.training import layer_of

Array = NDArray[np.float64]

_COLUMN = "gradient_norm."
SCALES = {"norm": "gradient norm", "rms": "gradient norm / √parameters"}
THIRDS = ("early", "middle", "late")


@dataclass(frozen=True)
class Flow:
    """The gradient norms of one run.

    Attributes:
        steps: updates done before each recorded row, (R,).
        norms: by layer, (R, layers).
        elsewhere: by module outside the layers, (R, modules).
        parameters: trainable ones of each layer, (layers,).
    """

    function: str
    seed: int
    steps: NDArray[np.int64]
    norms: Array
    elsewhere: Array
    parameters: Array

    def scaled(self, scale: str) -> Array:
        """The norms (R, layers), for `rms` over the root of the layer's parameters."""
        return self.norms / np.sqrt(self.parameters) if scale == "rms" else self.norms

    @cached_property
    def elsewhere_share(self) -> float:
        """Share of the squared norm outside the layers, mean over the recorded updates."""
        outside = np.square(self.elsewhere).sum(1)
        return float(_ratio(outside, outside + np.square(self.norms).sum(1)).mean())


def shares(norms: Array) -> Array:
    """p_l = g_l² / sum_j g_j² of norms (..., layers); NaN where the sum is 0 or not finite."""
    square = np.square(norms)
    return _ratio(square, square.sum(-1, keepdims=True))


def _ratio(part: Array, whole: Array) -> Array:
    whole = np.where(np.isfinite(whole) & (whole > 0), whole, math.nan)
    with np.errstate(invalid="ignore"):
        return part / whole


def evenness(norms: Array) -> Array:
    """Normalised entropy of `shares(norms)`: (..., layers) -> (...), in [0, 1]; NaN as there."""
    part = shares(norms)
    return entr(part).sum(-1) / math.log(part.shape[-1])


def thirds(norms: Array) -> Array:
    """Shares of the first, middle and last third of the layers: (..., layers) -> (..., 3)."""
    parts = np.array_split(shares(norms), 3, axis=-1)
    return np.stack([part.sum(-1) for part in parts], axis=-1)


@dataclass(frozen=True)
class Interval:
    """A mean over functions and seeds with its `contrast`, arrays of one shape."""

    mean: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Row:
    """The runs of one method under one budget."""

    name: RowName
    flows: list[Flow]

    @property
    def label(self) -> str:
        return row_label(*self.name)

    @property
    def steps(self) -> NDArray[np.int64]:
        return self.flows[0].steps

    @property
    def infinite(self) -> int:
        """Runs in which a gradient norm of a layer is not finite."""
        return sum(not np.isfinite(flow.norms).all() for flow in self.flows)

    @property
    def elsewhere_share(self) -> float:
        return float(np.mean([flow.elsewhere_share for flow in self.flows]))

    def heat(self) -> Array:
        """The mean norm over runs, (R, layers); not finite where a run's is not."""
        return np.mean([flow.norms for flow in self.flows], axis=0)

    def profile(self, scale: str) -> Interval:
        """The norm of each layer, mean over the recorded updates, (layers,)."""
        return self._interval(lambda flow: flow.scaled(scale).mean(0))

    def size(self, scale: str) -> Interval:
        """The norm of a layer, mean over layers and recorded updates, ()."""
        return self._interval(lambda flow: np.asarray(flow.scaled(scale).mean()))

    def evenness(self, scale: str) -> Interval:
        """Mean over the recorded updates, ()."""
        return self._interval(lambda flow: np.asarray(evenness(flow.scaled(scale)).mean()))

    def thirds(self) -> Interval:
        """Mean over the recorded updates, (3,)."""
        return self._interval(lambda flow: thirds(flow.norms).mean(0))

    def only(self, function: str) -> "Row":
        return Row(self.name, [flow for flow in self.flows if flow.function == function])

    def _interval(self, value: Callable[[Flow], Array]) -> Interval:
        functions = dict.fromkeys(flow.function for flow in self.flows)
        groups = [
            np.stack([value(flow) for flow in self.flows if flow.function == name])
            for name in functions
        ]
        return _contrasts(groups)


def _contrasts(groups: Sequence[Array]) -> Interval:
    """The mean over functions of their means over seeds, (n, ...) each, place by place."""
    weights = [1 / len(groups)] * len(groups)
    columns = [group.reshape(len(group), -1) for group in groups]

    def at(place: int) -> tuple[float, float, float]:
        parts = [column[:, place] for column in columns]
        known = not np.isnan(np.concatenate(parts)).any()
        found = contrast(parts, weights) if known else NO_INTERVAL
        return found.value, found.low, found.high

    limits = np.array([at(place) for place in range(columns[0].shape[1])])
    return Interval(*limits.T.reshape(3, *groups[0].shape[1:]))


def load_rows(store: Store, cells: pd.DataFrame) -> list[Row]:
    """The rows of one budget; methods without a layer to train have none.

    Args:
        cells: finished ones, with the column `variant`.

    Raises:
        UsageError: curves are not readable, or the runs of a row were recorded at other updates.
    """
    rows = []
    for name in rows_of(cells):
        counts: dict[int, Counter[str]] = {}  # by the method's size: resolving a config takes time
        found = (_flow(store, cell, counts) for cell in cells_of(cells, name).itertuples())
        flows = [flow for flow in found if flow is not None]
        if any(not np.array_equal(flow.steps, flows[0].steps) for flow in flows):
            raise UsageError(
                f"The runs of {row_label(*name)} were recorded at different updates: give rows "
                "that train for another time another method name."
            )
        if flows:
            rows.append(Row(name, flows))
    return rows


def _flow(store: Store, cell: Any, counts: dict[int, Counter[str]]) -> Flow | None:
    """The norms of one run, None without any in a layer; adds to `counts` what it lacks."""
    curves = load_curves(store, cell.run_id)
    columns = [name for name in curves if name.startswith(_COLUMN)]
    inside = layer_columns(curves)
    if not inside or curves.empty:
        return None
    if cell.trainable_parameters not in counts:
        counts[cell.trainable_parameters] = layer_parameters(stored_config(store, cell.run_id))
    own = counts[cell.trainable_parameters]
    return Flow(
        cell.function,
        cell.seed,
        curves["step"].to_numpy(),
        curves[inside].to_numpy(float),
        curves[[name for name in columns if name not in inside]].to_numpy(float),
        np.array([own[name.removeprefix(_COLUMN)] for name in inside], dtype=float),
    )


def layer_parameters(config: Config) -> Counter[str]:
    """Trainable parameters by layer, under the names of the curves, without drawing any."""
    shapes, method = Shapes(), config.method
    adapter = method.kind(Backbone(config.backbone, shapes), method.config, shapes)
    counts: Counter[str] = Counter()
    for name, parameter in adapter.trainable().items():
        counts[layer_of(name)] += parameter.numel()
    return counts
