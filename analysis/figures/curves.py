"""Training loss over the updates of the adaptation, a panel a function."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.cells import RowName, cells_of, rows_of
from analysis.curves import load_curves
from analysis.figures.layout import add_legend, add_remarks, grid_of, not_done, panels
from analysis.figures.rows import labels_of, line_of, look_of
from analysis.figures.ticks import log_ticks
from analysis.load import finished
from analysis.names import function_order, function_title
from qlexp.store.store import Store

_REMARK_WIDTH = 2.2  # inches
_NOISE_LINE: dict[str, Any] = {"color": "#b0b0b0", "linewidth": 0.8, "linestyle": (0, (1, 2))}


def curves_figure(store: Store, frame: pd.DataFrame) -> Figure:
    """Mean over seeds and the range between them; `frame` holds the cells of one budget.

    The loss that is minimised, what a method penalises included. A line ends where one of its seeds
    meets a value that is not finite; runs that diverged or are not there are counted in the panel's
    corner.

    Raises:
        UsageError: the curves of a run are not readable.
    """
    functions, rows = sorted(frame["function"].unique(), key=function_order), rows_of(frame)
    lines, columns = grid_of(len(functions))
    size = (3.0 * columns + 0.4, 2.3 * lines + 0.7) if len(functions) > 1 else (5.0, 3.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = panels(figure, len(functions))
    for axis, function in zip(axes, functions, strict=True):
        _draw_panel(axis, store, frame[frame["function"] == function], rows)
        axis.set_title(function_title(function))
    for axis in axes[::columns]:
        axis.set_ylabel("training loss (standardised)")
    for axis in axes[-columns:]:
        axis.set_xlabel("update")
    handles = [line_of(row, rows) for row in rows]
    if _noise_variances(frame):
        handles.append(Line2D([], [], **_NOISE_LINE, label="variance of the noise"))
    add_legend(figure, handles)
    return figure


def _noise_variances(frame: pd.DataFrame) -> set[float]:
    return {noise**2 for noise in frame.get("config.data.noise", pd.Series(dtype=float)).dropna()}


def _draw_panel(axis: Axes, store: Store, cells: pd.DataFrame, rows: Sequence[RowName]) -> None:
    axis.set_yscale("log")
    log_ticks(axis.yaxis)
    remarks, labels = [], labels_of(rows)
    for row in rows:
        own, look = cells_of(cells, row), look_of(row, rows)
        losses = _losses(store, finished(own))
        if not losses.empty:
            mean = losses.mean(axis=1, skipna=False)
            axis.plot(mean.index, mean, **look)
            low, high = losses.min(axis=1), losses.max(axis=1)
            axis.fill_between(
                losses.index, low, high, where=mean.notna(), color=look["color"], alpha=0.18, lw=0
            )
        untrained = own.loc[(own["status"] == "done") & (own["steps"] == 0), "post_train_loss"]
        if len(untrained):
            axis.axhline(untrained.mean(), **look)
        remarks += [f"{labels[row]}: {count}" for count in not_done(own)]
    shown = axis.get_ylim()
    for variance in _noise_variances(cells):
        axis.axhline(variance, **_NOISE_LINE)
    axis.set_ylim(shown)  # the noise is not worth decades of empty panel
    add_remarks(axis, remarks, _REMARK_WIDTH)


def _losses(store: Store, runs: pd.DataFrame) -> pd.DataFrame:
    """Training loss by update, a column a seed; NaN from where it is not finite. Empty for none."""
    losses = {}
    for seed, identity in zip(runs["seed"], runs["run_id"], strict=True):
        curves = load_curves(store, identity, ["loss"])
        losses[seed] = pd.Series(curves["loss"], curves["step"])
    return pd.DataFrame(losses).replace([np.inf, -np.inf], math.nan)
