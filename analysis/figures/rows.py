"""How the rows of a study look in a figure: colour by method, dashes and marker by variant."""

from collections.abc import Sequence
from typing import Any

from matplotlib.lines import Line2D

from analysis.cells import RowName
from analysis.names import row_label
from analysis.render.style import mark, method_colour, method_group
from analysis.settings import SEPARATOR


def labels_of(rows: Sequence[RowName]) -> dict[RowName, str]:
    """What the rows are called in a figure.

    Settings that all rows share are left out, and of a setting's name only its end is kept, where
    that is the end of no other one.
    """
    parts = {row: [part for part in row[1].split(SEPARATOR) if part] for row in rows}
    shared = set.intersection(*map(set, parts.values())) if len(parts) > 1 else set()
    keys = {part.partition("=")[0] for own in parts.values() for part in own}
    ends = [_end(key) for key in keys]

    def short(part: str) -> str:
        key, equals, value = part.partition("=")
        return f"{_end(key) if ends.count(_end(key)) == 1 else key}{equals}{value}"

    return {
        row: row_label(row[0], SEPARATOR.join(short(part) for part in own if part not in shared))
        for row, own in parts.items()
    }


def _end(key: str) -> str:
    return key.rpartition(".")[2]


def look_of(row: RowName, rows: Sequence[RowName]) -> dict[str, Any]:
    """Of a line among those of `rows`; no two have the same colour, dashes and marker.

    Markers stand at a distance of each other and, from row to row, at other places of the lines.
    """
    kinds = [(method_colour(method), method_group(method)) for method, _ in rows]
    place = rows.index(row)
    pattern, marker = mark(method_group(row[0]), kinds[:place].count(kinds[place]))
    return {
        "color": method_colour(row[0]),
        "linestyle": (0, pattern) if pattern else "solid",
        "marker": marker,
        "markersize": 3.5,
        "markevery": (0.03 + 0.05 * (place % 5), 0.25),
    }


def line_of(row: RowName, rows: Sequence[RowName]) -> Line2D:
    """The row's entry in a legend."""
    look = look_of(row, rows)
    del look["markevery"]  # of the length of an axis, which an entry does not have
    return Line2D([], [], label=labels_of(rows)[row], **look)
