"""One self-contained HTML page: it asks the network for nothing, its tables can be sorted."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from analysis.render.grid import NO_CELL, Grid, Text
from analysis.render.latex import latex
from analysis.render.output import Picture
from analysis.render.svg import DARK_PAGE, inline_svg

_LONG = 60  # characters; a table with a longer text is prose
_BREAK = re.compile(r"(?<=[_=/])(?=\w)|(?<=[a-z]\.)(?=[a-z])")
_NUMBER = re.compile(r"([-+]?(?:[\d,]*\.?\d+(?:e[-+]?\d+)?|inf))(?![\w.])")
_SPREAD = re.compile(r" (?=[±\[(])")
_GAPS = ("", NO_CELL, "unknown")


@dataclass(frozen=True)
class Chapter:
    """What stands under one heading, in this order."""

    title: str
    text: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    pictures: Sequence[Picture] = ()

    @property
    def shared_notes(self) -> list[str]:
        """The notes that all of several grids have, to be printed once."""
        if len(self.grids) < 2:
            return []
        first, *others = self.grids
        return [note for note in first.notes if all(note in grid.notes for grid in others)]


@dataclass(frozen=True)
class Page:
    """A page and its chapters, of which the first opens with its text in large.

    Attributes:
        facts: terms and descriptions.
        gaps: what is missing, told before anything else.
        folded: labels of the grids that are shown on request.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    gaps: Sequence[str]
    chapters: Sequence[Chapter]
    footer: str
    folded: Sequence[str] = ()

    def html(self) -> str:
        """The page as text; to be called under `figure_style`."""
        environment = Environment(
            loader=PackageLoader("analysis.render"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {
            "number": sort_number,
            "latex": latex,
            "numeric": numeric_columns,
            "prose": _is_prose,
            "breakable": _breakable,
            "two_lines": _two_lines,
        }
        known = {"inline_svg": inline_svg, "dark_page": DARK_PAGE, "no_cell": NO_CELL}
        return environment.get_template("page.html").render(page=self, **known)


def _breakable(text: str) -> Markup:
    """`text` with the places where a narrow column may break a name of code."""
    return Markup("<wbr>").join(_BREAK.split(text))


def _two_lines(text: str) -> Markup:
    """A number over its deviation, interval or count."""
    number, space, rest = re.sub(_SPREAD, "\n", text, count=1).partition("\n")
    return Markup("{} <small>{}</small>").format(number, rest) if space else escape(text)


def _is_prose(grid: Grid) -> bool:
    """Whether some cell of a table of several columns is to be read as sentences are."""
    texts = (cell.text for section in grid.sections for row in section.rows for cell in row)
    return len(grid.headers) > 2 and max(map(len, texts), default=0) > _LONG


def sort_number(text: Text) -> float | None:
    """What a cell is sorted by: its value, or else the number that its text begins with."""
    if text.value is not None:
        return None if math.isnan(text.value) else text.value
    match = _NUMBER.match(text.text)
    return float(match[1].replace(",", "")) if match else None


def numeric_columns(grid: Grid) -> list[bool]:
    """Whether a column holds numbers, gaps aside; the first one names the rows."""
    rows = [row for section in grid.sections for row in section.rows]
    return [
        index > 0
        and any(sort_number(row[index]) is not None for row in rows)
        and all(_is_number_or_gap(row[index]) for row in rows)
        for index in range(len(grid.headers))
    ]


def _is_number_or_gap(text: Text) -> bool:
    return text.value is not None or text.text in _GAPS or sort_number(text) is not None
