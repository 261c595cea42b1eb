"""The page of a report: its template, filled."""

import math
import re
from collections.abc import Sequence

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from analysis.load import incomplete
from analysis.names import function_order, function_title, method_order
from analysis.render import NO_CELL, Grid, Text, latex
from analysis.report.chapters import Chapter, Study
from analysis.report.svg import DARK_PAGE, inline_svg

FOLDED = ("fields",)  # labels of the tables that are shown on request
_LONG = 60  # characters; a table with a longer text is prose
_BREAK = re.compile(r"(?<=[_=/])(?=\w)|(?<=[a-z]\.)(?=[a-z])")
_NUMBER = re.compile(r"([-+]?(?:[\d,]*\.?\d+(?:e[-+]?\d+)?|inf))(?![\w.])")
_GAPS = ("", NO_CELL, "unknown")


def page(study: Study, chapters: Sequence[Chapter]) -> str:
    """The HTML of a report."""
    return (
        _environment()
        .get_template("report.html")
        .render(
            study=study.name,
            facts=_facts(study),
            gaps=incomplete(study.frame),
            chapters=chapters,
            common=[common_notes(chapter.grids) for chapter in chapters],
            told=[paragraph for chapter in chapters for paragraph in chapter.text],
            headings=headings([own.caption for chapter in chapters for own in chapter.pictures]),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("analysis.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": sort_number,
        "latex": latex,
        "numeric": numeric_columns,
        "prose": is_prose,
        "breakable": breakable,
    }
    environment.globals |= {
        "inline_svg": inline_svg,
        "dark_page": DARK_PAGE,
        "folded": FOLDED,
        "no_cell": NO_CELL,
    }
    return environment


def _facts(study: Study) -> list[tuple[str, str]]:
    """What a reader wants to know first, as terms and descriptions."""
    frame = study.frame
    statuses = frame["status"].value_counts()
    order = ("done", "diverged", "failed", "missing")
    return [
        ("Cells", ", ".join(f"{statuses[name]:,} {name}" for name in order if name in statuses)),
        ("Methods", ", ".join(sorted(set(frame["method"]), key=method_order))),
        (
            "Functions",
            ", ".join(map(function_title, sorted(set(frame["function"]), key=function_order))),
        ),
        ("Seeds", ", ".join(map(str, sorted(set(frame["seed"]))))),
        ("Commit", _listed(frame, "commit")),
        ("Device", _listed(frame, "device")),
    ]


def _listed(frame: pd.DataFrame, column: str) -> str:
    values = sorted(set(frame[column].dropna()))
    return ", ".join(map(str, values)) or "unknown"


def common_notes(grids: Sequence[Grid]) -> list[str]:
    """The notes that all of several grids have, to be printed once."""
    if len(grids) < 2:
        return []
    return [note for note in grids[0].notes if all(note in grid.notes for grid in grids)]


def headings(captions: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Each caption as a heading, its fewest parts that no other begins with, and the rest."""
    parts = {caption: re.split(r"(?<=[.:]) ", caption) for caption in captions}

    def count(own: list[str]) -> int:
        others = [other for other in parts.values() if other != own]
        return next(
            (n for n in range(1, len(own)) if all(o[:n] != own[:n] for o in others)), len(own)
        )

    return {
        caption: (_sentence(own[: count(own)]).rstrip(".:"), _sentence(own[count(own) :]))
        for caption, own in parts.items()
    }


def _sentence(parts: Sequence[str]) -> str:
    text = " ".join(parts)
    return text[:1].upper() + text[1:]


def breakable(text: str) -> Markup:
    """`text` with the places where a narrow column may break a name of code."""
    return Markup("<wbr>").join(_BREAK.split(text))


def is_prose(grid: Grid) -> bool:
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
