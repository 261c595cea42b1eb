"""Panels in a grid, and texts that fit: legends, titles and remarks, in lines where too long."""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

from analysis.render.style import FONT_SIZE

_POINTS_PER_INCH = 72
_MOST_COLUMNS = 4
_LINE = FONT_SIZE * 1.2 / _POINTS_PER_INCH  # inches
_REMARK_SIZE = 6.0
_PANELS = 3  # side by side, at most


def grid_of(count: int) -> tuple[int, int]:
    """The rows and columns that so many panels take."""
    columns = min(_PANELS, count)
    return math.ceil(count / columns), columns


def panels(figure: Figure, count: int) -> list[Axes]:
    """So many panels of a figure, in a grid of `grid_of`, row by row."""
    axes = list(figure.subplots(*grid_of(count), squeeze=False).flat)
    for spare in axes[count:]:
        spare.remove()
    return axes[:count]


def text_width(text: str, size: float = FONT_SIZE) -> float:
    """Inches that a line of text takes."""
    font = FontProperties(family="DejaVu Sans", size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / _POINTS_PER_INCH


def wrapped(text: str, inches: float, size: float = FONT_SIZE) -> str:
    """`text` in lines of that width; a word that is longer stays whole."""
    first, *words = text.split(" ")
    lines = [first]
    for word in words:
        longer = f"{lines[-1]} {word}"
        if text_width(longer, size) <= inches:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def extra_height(titles: Sequence[str]) -> float:
    """Inches that titles of several lines take beyond the first."""
    return _LINE * max((title.count("\n") for title in titles), default=0)


def add_title(figure: Figure, title: str) -> None:
    """A title above all panels."""
    size = FONT_SIZE * 1.2
    figure.suptitle(wrapped(title, figure.get_figwidth() - 0.2, size), fontsize=size)


def add_legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """A legend below the panels, of as many columns as fit; the figure grows by its height."""
    room = figure.get_figwidth() - 0.1
    labels = [wrapped(str(handle.get_label()), room - 0.6) for handle in handles]
    for columns in range(min(len(handles), _MOST_COLUMNS), 0, -1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        extent = legend.get_window_extent()
        if extent.width / figure.dpi <= room or columns == 1:
            break
        legend.remove()
    height = figure.get_figheight() + max(0.0, extent.height / figure.dpi - 0.3)
    figure.set_size_inches(figure.get_figwidth(), height)


def not_done(cells: pd.DataFrame) -> list[str]:
    """How many runs are not done, by their status: `1/3 diverged`."""
    counts = cells["status"].value_counts()
    return [
        f"{counts[status]}/{len(cells)} {status}"
        for status in ("diverged", "failed", "missing")
        if status in counts
    ]


def add_remarks(axis: Axes, remarks: Sequence[str], inches: float) -> None:
    """Small lines in the upper right corner of a panel that is that wide."""
    text = "\n".join(wrapped(remark, inches, _REMARK_SIZE) for remark in remarks)
    axis.text(
        0.98, 0.97, text, transform=axis.transAxes, ha="right", va="top", fontsize=_REMARK_SIZE
    )
