"""Gradient norms over depth: their size, how even they are, and their intervals."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import entr, expit, logit

from analysis.cells import RowName, cells_of, rows_of
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
        backbone: of the frozen network.
        steps: updates done before each recorded row, (R,).
        norms: by layer, (R, layers).
        elsewhere: by module outside the layers, (R, modules).
        parameters: trainable ones of each layer, (layers,).
    """

    function: str
    seed: int
    backbone: str
    steps: NDArray[np.int64]
    norms: Array
    elsewhere: Array
    parameters: Array

    def scaled(self, scale: str) -> Array:
        """The norms (R, layers), for `rms` over the root of the layer's parameters."""
        return self.norms / np.sqrt(self.parameters) if scale == "rms" else self.norms

    def size(self, scale: str) -> float:
        """The norm of a layer, mean over layers and recorded updates."""
        return float(self.scaled(scale).mean())

    def evenness(self, scale: str) -> float:
        """Mean over the updates at which a layer has a gradient."""
        return float(self._mean(evenness, scale))

    def thirds(self) -> Array:
        """Mean over the updates at which a layer has a gradient, (3,)."""
        return self._mean(thirds, "norm")

    @cached_property
    def elsewhere_share(self) -> float:
        """Share of the squared norm outside the layers, mean over the updates that have any."""
        outside = np.square(self.elsewhere).sum(1)
        whole = outside + np.square(self.norms).sum(1)
        return float(_mean_where(whole != 0, _ratio(outside, whole)))

    def _mean(self, value: Callable[[Array], Array], scale: str) -> Array:
        return _mean_where((self.norms != 0).any(1), value(self.scaled(scale)))


def _mean_where(chosen: NDArray[np.bool_], values: Array) -> Array:
    """The mean of the chosen rows of (R, ...); NaN without any."""
    found: Array = values[chosen].mean(0) if chosen.any() else np.full(values.shape[1:], math.nan)
    return found


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
    return np.clip(entr(part).sum(-1) / math.log(part.shape[-1]), 0.0, 1.0)


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

    def within_unit(self) -> "Interval":
        """The interval of a mean m of numbers in [0, 1], taken on its logit so as to stay there.

        With h half the width of the t interval, its limits are expit(logit(m) -+ h / (m (1 - m))).
        On beta-distributed numbers (1 to 5 functions, 3 to 10 seeds, means of 0.5 to 0.97) it
        covers 94 to 97 %, the plain interval 93 to 97 % and beyond 1 in up to 70 % of the cases.
        """
        half, slope = self.high - self.mean, self.mean * (1 - self.mean)
        wide = (half > 0) & (slope > 0)
        step = np.divide(half, slope, out=np.zeros_like(half), where=wide)
        low, high = (expit(logit(self.mean) + sign * step) for sign in (-1, 1))
        return Interval(
            self.mean,
            np.where(wide, low, np.clip(self.low, 0, 1)),
            np.where(wide, high, np.clip(self.high, 0, 1)),
        )

    def above_zero(self) -> "Interval":
        """The interval of a mean m of positive numbers, taken on its logarithm so as to stay there.

        With h half the width of the t interval, its limits are m exp(-+ h / m). On log-normal
        numbers (1 to 4 functions, 3 to 10 seeds, deviation of the logarithm 0.3 and 0.8) it covers
        93 to 95 and 90 to 93 %, the plain interval 93 to 94 and 86 to 90 % and below 0 in up to
        76 % of the cases.
        """
        step = np.divide(
            self.high - self.mean, self.mean, out=np.zeros_like(self.mean), where=self.mean > 0
        )
        return Interval(self.mean, self.mean * np.exp(-step), self.mean * np.exp(step))


@dataclass(frozen=True)
class Row:
    """The runs of one method under one budget that did not diverge, and how many did."""

    name: RowName
    flows: list[Flow]
    diverged: Counter[str] = field(default_factory=Counter)  # by function

    @property
    def label(self) -> str:
        return row_label(*self.name)

    @property
    def steps(self) -> NDArray[np.int64]:
        return self.flows[0].steps

    @property
    def depth(self) -> int:
        """How many layers have gradients."""
        return self.flows[0].norms.shape[1]

    @property
    def functions(self) -> list[str]:
        return list(dict.fromkeys(flow.function for flow in self.flows))

    @property
    def elsewhere_share(self) -> float:
        return float(self._interval(lambda flow: np.asarray(flow.elsewhere_share)).mean)

    def heat(self) -> Array:
        """The mean norm over functions and seeds, (R, layers)."""
        means: Array = np.mean([group.mean(0) for group in self._groups(lambda f: f.norms)], axis=0)
        return means

    def profile(self, scale: str) -> Interval:
        """The norm of each layer, mean over the recorded updates, (layers,)."""
        return self._interval(lambda flow: flow.scaled(scale).mean(0)).above_zero()

    def size(self, scale: str) -> Interval:
        """`Flow.size`, ()."""
        return self._interval(lambda flow: np.asarray(flow.size(scale))).above_zero()

    def evenness(self, scale: str) -> Interval:
        """`Flow.evenness`, ()."""
        return self._interval(lambda flow: np.asarray(flow.evenness(scale))).within_unit()

    def thirds(self) -> Interval:
        """`Flow.thirds`, (3,)."""
        return self._interval(lambda flow: flow.thirds()).within_unit()

    def only(self, function: str) -> "Row":
        flows = [flow for flow in self.flows if flow.function == function]
        return Row(self.name, flows, Counter({function: self.diverged[function]}))

    def _interval(self, value: Callable[[Flow], Array]) -> Interval:
        return interval_over_functions(self._groups(value))

    def _groups(self, value: Callable[[Flow], Array]) -> list[Array]:
        """The values (seeds, ...) of every function."""
        return [
            np.stack([value(flow) for flow in self.flows if flow.function == name])
            for name in self.functions
        ]


def interval_over_functions(groups: Sequence[Array]) -> Interval:
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
    """The rows of one budget; methods without a layer to train, or all diverged, have none.

    Args:
        cells: finished ones, with the column `variant`.

    Raises:
        UsageError: curves are not readable, or the runs of a row were recorded at other updates or
            have other layers.
    """
    done, diverged = (cells[cells["status"] == status] for status in ("done", "diverged"))
    counts: dict[str, Counter[str]] = {}  # by the method's shape: resolving a config takes time
    rows = []
    for name in rows_of(done):
        own = cells_of(done, name)
        found = (
            _flow(store, cell, shape, counts)
            for cell, shape in zip(own.itertuples(), _shapes(own), strict=True)
        )
        flows = [flow for flow in found if flow is not None]
        _refuse_unlike(name, flows)
        if flows:
            rows.append(Row(name, flows, Counter(cells_of(diverged, name)["function"])))
    return rows


def _refuse_unlike(name: RowName, flows: Sequence[Flow]) -> None:
    if any(not np.array_equal(flow.steps, flows[0].steps) for flow in flows):
        raise UsageError(
            f"The runs of {row_label(*name)} were recorded at different updates: give rows "
            "that train for another time another method name."
        )
    depths = sorted({flow.norms.shape[1] for flow in flows})
    if len(depths) > 1:
        raise UsageError(
            f"The runs of {row_label(*name)} have gradients in {' and '.join(map(str, depths))} "
            "layers: give rows with another backbone another method name."
        )


def _shapes(cells: pd.DataFrame) -> list[str]:
    """What the parameters of a run's layers depend on, as texts."""
    return [
        repr(list(row)) for row in cells.filter(regex=r"^config\.(backbone|method)\.").to_numpy()
    ]


def _flow(store: Store, cell: Any, shape: str, counts: dict[str, Counter[str]]) -> Flow | None:
    """The norms of one run, None without any in a layer; adds to `counts` what it lacks."""
    curves = load_curves(store, cell.run_id)
    columns = [name for name in curves if name.startswith(_COLUMN)]
    inside = layer_columns(curves)
    if not inside or curves.empty:
        return None
    if shape not in counts:
        counts[shape] = layer_parameters(stored_config(store, cell.run_id))
    layers = [name.removeprefix(_COLUMN) for name in inside]
    if empty := [layer for layer in layers if not counts[shape][layer]]:
        raise UsageError(
            f"The curves of run {cell.run_id} have gradients of {', '.join(empty)}, where its "
            f"method trains nothing: delete {store.run_folder(cell.run_id)} and run the study "
            "again."
        )
    return Flow(
        cell.function,
        cell.seed,
        cell.backbone_id,
        curves["step"].to_numpy(),
        curves[inside].to_numpy(float),
        curves[[name for name in columns if name not in inside]].to_numpy(float),
        np.array([counts[shape][layer] for layer in layers], dtype=float),
    )


def layer_parameters(config: Config) -> Counter[str]:
    """Trainable parameters by layer, under the names of the curves, without drawing any."""
    shapes, method = Shapes(), config.method
    adapter = method.kind(Backbone(config.backbone, shapes), method.config, shapes)
    counts: Counter[str] = Counter()
    for name, parameter in adapter.trainable().items():
        counts[layer_of(name)] += parameter.numel()
    return counts
