"""The norm bound beside the norms: by layer over all runs, and through the training of one."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.cells import RowName, cells_of, rows_of
from analysis.figures.rows import line_of, look_of
from analysis.names import budget_title

BOUND: dict[str, Any] = {"linestyle": (0, (1.0, 1.2)), "linewidth": 1.0}


def theory_figure(bounds: pd.DataFrame, training: pd.DataFrame | None) -> Figure:
    """A column a linear: norms and bound by layer; below, where given, over the updates.

    Lines are medians over points, bands reach from the smallest to the largest, and bounds are
    dotted; all are means over runs (above) or over layers (below). Of several budgets the first is
    drawn.
    """
    budget = bounds["budget"].iloc[0]
    bounds = bounds[bounds["budget"] == budget]
    linears = list(bounds["linear"].unique())
    lines = 1 if training is None else 2
    size = (2.1 * len(linears) + 0.6, 2.3 * lines + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(budget_title(budget))
    axes = figure.subplots(lines, len(linears), squeeze=False, sharey="row")
    names = rows_of(bounds)
    for column, linear in zip(axes.T, linears, strict=True):
        column[0].set_title(linear)
        for name in names:
            own = cells_of(bounds, name)
            own = own[own["linear"] == linear]
            _draw(column[0], own, "layer", name, names)
            if training is not None:
                own = cells_of(training, name)
                _draw(column[1], own[own["linear"] == linear], "update", name, names)
        for axis, label in zip(column, ("layer", "update"), strict=False):
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axis.set_xlabel(label)
    for row in axes:
        row[0].set_ylim(bottom=0.0)
        row[0].set_ylabel("spectral norm of dW")
    bound = Line2D([], [], color="#404040", label="bound", **BOUND)
    handles = [*(line_of(name, names) for name in names), bound]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))
    return figure


def _draw(axis: Axes, rows: pd.DataFrame, along: str, name: RowName, names: list[RowName]) -> None:
    if rows.empty:
        return
    means = rows.groupby(along)[["bound", "median", "smallest", "largest"]].mean()
    look = look_of(name, names)
    axis.plot(means.index, means["median"], **look)
    band = (means["smallest"], means["largest"])
    axis.fill_between(means.index, *band, color=look["color"], alpha=0.18, lw=0)
    axis.plot(means.index, means["bound"], color=look["color"], **BOUND)
