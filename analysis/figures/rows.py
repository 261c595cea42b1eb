"""How the rows of a study look in a figure: colour by method, dashes by variant."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.lines import Line2D

from analysis.names import method_order, row_label
from analysis.style import dashes, method_colour

RowName = tuple[str, str]  # method, variant


def rows_of(frame: pd.DataFrame) -> list[RowName]:
    """The rows of cells that have the column `variant`, in the order of the tables."""
    names = set(zip(frame["method"], frame["variant"], strict=True))
    return sorted(names, key=lambda name: (method_order(name[0]), name[1]))


def cells_of(frame: pd.DataFrame, row: RowName) -> pd.DataFrame:
    """The cells of one row."""
    return frame[(frame["method"] == row[0]) & (frame["variant"] == row[1])]


def look_of(row: RowName, rows: Sequence[RowName]) -> dict[str, Any]:
    """Colour by method, dashes by variant."""
    siblings = [other for other in rows if other[0] == row[0]]
    pattern = dashes(row[0], siblings.index(row))
    return {
        "color": method_colour(row[0]),
        "linestyle": (0, pattern) if pattern else "solid",
    }


def line_of(row: RowName, rows: Sequence[RowName]) -> Line2D:
    """The row's entry in a legend."""
    return Line2D([], [], label=row_label(*row), **look_of(row, rows))
