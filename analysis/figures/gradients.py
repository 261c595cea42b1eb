"""Gradient norms over depth: heat maps through training, and profiles."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.rows import line_of, look_of
from analysis.flow import SCALES, Row
from analysis.style import SEQUENTIAL

COLUMNS = 3
UNKNOWN = "#d0d0d0"  # where a norm is 0 or, in one of the runs, not finite


def flow_figure(rows: Sequence[Row], title: str) -> Figure:
    """Mean norm over runs by layer and update, a panel a row, all on one logarithmic scale."""
    heats = [np.ma.masked_invalid(row.heat()) for row in rows]
    heats = [np.ma.masked_less_equal(heat, 0.0) for heat in heats]
    known = np.concatenate([heat.compressed() for heat in heats] or [np.ones(1)])
    scale = LogNorm(*(known.min(), known.max()) if len(known) else (0.1, 1.0))
    columns = min(COLUMNS, len(rows))
    lines = math.ceil(len(rows) / columns)
    figure = Figure(figsize=(2.6 * columns + 1.2, 2.0 * lines + 0.5), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(lines, columns, squeeze=False)
    axes = grid.flatten()
    for axis, row, heat in zip(axes, rows, heats, strict=False):
        layers = np.arange(heat.shape[1])
        mesh = axis.pcolormesh(
            row.steps, layers, heat.T, norm=scale, cmap=SEQUENTIAL, shading="nearest"
        )
        mesh.set_rasterized(True)
        axis.set_facecolor(UNKNOWN)
        axis.set_title(row.label)
        axis.set_xlabel("update")
        axis.set_ylabel("layer")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes[len(rows) :]:
        axis.remove()
    bar = figure.colorbar(mesh, ax=list(axes[: len(rows)]), label=SCALES["norm"])
    assert bar.solids is not None
    bar.solids.set_rasterized(True)
    return figure


def depth_figure(rows: Sequence[Row], title: str) -> Figure:
    """The mean norm by layer, raw and over the root of the parameters, with its interval."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    figure.suptitle(f"{title}: means over updates")
    names = [row.name for row in rows]
    for axis, (scale, label) in zip(figure.subplots(1, 2), SCALES.items(), strict=True):
        axis.set_yscale("log")
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
    handles = [line_of(name, names) for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))
    return figure
