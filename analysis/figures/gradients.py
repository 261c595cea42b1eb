"""Gradient norms over depth: heat maps through training, and profiles."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.layout import add_legend, add_title, extra_height, wrapped
from analysis.figures.rows import labels_of, line_of, look_of
from analysis.figures.ticks import log_ticks
from analysis.flow.measures import SCALES
from analysis.flow.rows import Row
from analysis.style import SEQUENTIAL

COLUMNS = 3
_PANEL_WIDTH = 2.2  # inches
UNKNOWN = "#d0d0d0"  # where a norm is 0 or, in one of the runs, not finite
MOST_CELLS = 1500  # of a figure, that are drawn as paths of 160 bytes each


def flow_figure(rows: Sequence[Row], title: str) -> Figure:
    """Mean norm over runs by layer and update, a panel a row, all on one logarithmic scale.

    Cells are paths; of a figure of more than `MOST_CELLS`, which grow to megabytes, they are
    pixels, `style.RASTER_PIXELS_PER_INCH` of them an inch, as the colour bar always is.
    """
    heats = [np.ma.masked_invalid(row.heat) for row in rows]
    heats = [np.ma.masked_less_equal(heat, 0.0) for heat in heats]
    known = np.concatenate([heat.compressed() for heat in heats] or [np.ones(1)])
    scale = LogNorm(*(known.min(), known.max()) if len(known) else (0.1, 1.0))
    columns = min(COLUMNS, len(rows))
    lines = math.ceil(len(rows) / columns)
    labels = labels_of([row.name for row in rows])
    titles = [wrapped(labels[row.name], _PANEL_WIDTH) for row in rows]
    height = (2.0 + extra_height(titles)) * lines + 0.5
    figure = Figure(figsize=(2.6 * columns + 1.2, height), layout="constrained")
    add_title(figure, title)
    grid = figure.subplots(lines, columns, squeeze=False)
    axes = grid.flatten()
    as_pixels = sum(heat.size for heat in heats) > MOST_CELLS
    for axis, row, heat, name in zip(axes, rows, heats, titles, strict=False):
        layers = np.arange(heat.shape[1])
        mesh = axis.pcolormesh(
            row.steps, layers, heat.T, norm=scale, cmap=SEQUENTIAL, shading="nearest"
        )
        mesh.set_rasterized(as_pixels)
        axis.set_facecolor(UNKNOWN)
        axis.set_title(name)
        axis.set_xlabel("update")
        axis.set_ylabel("layer")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes[len(rows) :]:
        axis.remove()
    bar = figure.colorbar(mesh, ax=list(axes[: len(rows)]), label=SCALES["norm"])
    log_ticks(bar.ax.yaxis)
    return figure


def depth_figure(rows: Sequence[Row], title: str) -> Figure:
    """The mean norm by layer, raw and over the root of the parameters, with its interval."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    add_title(figure, f"{title}: means over updates")
    names = [row.name for row in rows]
    for axis, (scale, label) in zip(figure.subplots(1, 2), SCALES.items(), strict=True):
        axis.set_yscale("log")
        log_ticks(axis.yaxis)
        for row in rows:
            look, profile = look_of(row.name, names), row.profile(scale)
            layers = np.arange(len(profile.mean))
            axis.plot(layers, np.where(profile.mean > 0, profile.mean, math.nan), **look)
            axis.fill_between(
                layers, profile.low, profile.high, color=look["color"], alpha=0.18, lw=0
            )
        axis.set_xlabel("layer")
        axis.set_ylabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(figure, [line_of(name, names) for name in names])
    return figure
