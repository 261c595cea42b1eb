"""Gradient norms over depth: heat maps through training, and profiles."""

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.cells import cells_of, rows_of
from analysis.figures.layout import add_legend, add_title, extra_height, grid_of, panels, wrapped
from analysis.figures.rows import labels_of, line_of, look_of
from analysis.figures.ticks import log_ticks
from analysis.flow.means import heat
from analysis.flow.measures import SCALES
from analysis.render.style import SEQUENTIAL

_PANEL_WIDTH = 2.2  # inches
UNKNOWN = "#d0d0d0"  # where a norm is 0 or, in one of the runs, not finite
MOST_CELLS = 1500  # of a figure, that are drawn as paths of 160 bytes each


def flow_figure(runs: pd.DataFrame, title: str) -> Figure:
    """Mean norm over runs by layer and update, a panel a row, all on one logarithmic scale.

    Cells are paths; of a figure of more than `MOST_CELLS`, which grow to megabytes, they are
    pixels, `style.RASTER_PIXELS_PER_INCH` of them an inch, as the colour bar always is.
    """
    rows = rows_of(runs)
    parts = [cells_of(runs, row) for row in rows]
    heats = [np.ma.masked_less_equal(np.ma.masked_invalid(heat(part)), 0.0) for part in parts]
    known = np.concatenate([own.compressed() for own in heats])
    scale = LogNorm(*(known.min(), known.max()) if len(known) else (0.1, 1.0))
    titles = [wrapped(label, _PANEL_WIDTH) for label in labels_of(rows).values()]
    lines, columns = grid_of(len(rows))
    size = (2.6 * columns + 1.2, (2.0 + extra_height(titles)) * lines + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    add_title(figure, title)
    axes = panels(figure, len(rows))
    as_pixels = sum(own.size for own in heats) > MOST_CELLS
    for axis, part, own, name in zip(axes, parts, heats, titles, strict=True):
        steps, layers = part["steps"].iloc[0], np.arange(own.shape[1])
        mesh = axis.pcolormesh(steps, layers, own.T, norm=scale, cmap=SEQUENTIAL, shading="nearest")
        mesh.set_rasterized(as_pixels)
        axis.set_facecolor(UNKNOWN)
        axis.set_title(name)
        axis.set_xlabel("update")
        axis.set_ylabel("layer")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    log_ticks(figure.colorbar(mesh, ax=axes, label=SCALES["norm"]).ax.yaxis)
    return figure


def depth_figure(layers: pd.DataFrame, title: str) -> Figure:
    """The mean norm by layer, raw and over the root of the parameters, with its interval.

    Args:
        layers: one row a layer of each row, with the columns `<scale>`, `_low` and `_high` of it.
    """
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    add_title(figure, f"{title}: means over updates")
    rows = rows_of(layers)
    for axis, (scale, label) in zip(figure.subplots(1, 2), SCALES.items(), strict=True):
        axis.set_yscale("log")
        log_ticks(axis.yaxis)
        for row in rows:
            own, look = cells_of(layers, row), look_of(row, rows)
            axis.plot(own["layer"], own[scale].where(own[scale] > 0), **look)
            low, high = own[f"{scale}_low"], own[f"{scale}_high"]
            axis.fill_between(own["layer"], low, high, color=look["color"], alpha=0.18, lw=0)
        axis.set_xlabel("layer")
        axis.set_ylabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(figure, [line_of(row, rows) for row in rows])
    return figure
