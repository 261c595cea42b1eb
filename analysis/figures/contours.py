"""Filled contours over the square of scaled inputs."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis.render.style import DIVERGING, SEQUENTIAL

Array = NDArray[np.float64]
LEVELS = 16


def grid(side: int) -> Array:
    """The points (side * side, 2) of a square grid over [-1, 1]^2, x_2 the slow one."""
    line = np.linspace(-1.0, 1.0, side)
    x1, x2 = np.meshgrid(line, line)
    return np.stack([x1.ravel(), x2.ravel()], axis=1)


def levels_between(low: float, high: float) -> Array:
    """Contour levels over a range, widened where it is a single value."""
    margin = 1e-6 * max(abs(low), abs(high), 1.0) if high - low < 1e-9 else 0.0
    return np.linspace(low - margin, high + margin, LEVELS + 1)


def levels_around_zero(values: Iterable[Array], share: float = 1.0) -> Array:
    """Symmetric levels that hold the given share of all values."""
    sizes = np.abs(np.concatenate([np.ravel(part) for part in values]))
    bound = max(float(np.quantile(sizes, share)), 1e-6)
    return np.linspace(-bound, bound, LEVELS + 1)


def draw(
    axis: Axes, values: Array, levels: Array, *, diverging: bool = False, open_ended: bool = False
) -> ContourSet:
    """Draws `values` (side * side,), on `grid(side)`, as pixels; all else of a figure is vectors.

    The outlines of the levels of rough functions are long: the targets of the nine functions are
    0.5 MB at `style.RASTER_PIXELS_PER_INCH` and 7.5 MB as paths. Without antialiasing a panel holds
    few colours, so its pixels pack well. Values outside `levels` are left white, or, where
    `open_ended`, get the colours of the ends.
    """
    side = round(len(values) ** 0.5)
    line = np.linspace(-1.0, 1.0, side)
    contours = axis.contourf(
        line,
        line,
        values.reshape(side, side),
        levels=levels,
        cmap=DIVERGING if diverging else SEQUENTIAL,
        extend="both" if open_ended else "neither",
        antialiased=False,
    )
    contours.set_rasterized(True)
    label_square(axis)
    return contours


def draw_change(
    axes: Sequence[Axes],
    before: Array,
    after: Array | None,
    levels: Array,
    change_levels: Array,
    change: str,
    *,
    open_ended: bool = False,
) -> None:
    """Three panels with their colour bars: two surfaces, and the second minus the first if known.

    Args:
        change: what the difference is called.
    """
    values = draw(axes[0], before, levels, open_ended=open_ended)
    add_colourbar(values, axes[:2], "value (standardised)")
    if after is not None:
        draw(axes[1], after, levels, open_ended=open_ended)
        drawn = draw(axes[2], after - before, change_levels, diverging=True, open_ended=open_ended)
        add_colourbar(drawn, axes[2:], f"{change} (standardised)")


def label_square(axis: Axes) -> None:
    """Ticks and labels of a panel over the square of scaled inputs."""
    axis.set_aspect("equal")
    axis.set_xticks([-1, 0, 1])
    axis.set_yticks([-1, 0, 1])
    axis.set_xlabel("x₁ (scaled)")
    axis.set_ylabel("x₂ (scaled)")
    axis.label_outer()


def add_colourbar(contours: ContourSet, axes: Sequence[Axes], label: str) -> None:
    """A colour bar beside the row of `axes` that share `contours`' levels."""
    figure = axes[0].get_figure(root=True)
    assert figure is not None
    low, *_, high = contours.levels
    ticks = [tick for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]
    figure.colorbar(contours, ax=axes, label=label, ticks=ticks)
