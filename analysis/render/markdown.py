"""A grid as Markdown."""

import re
from collections.abc import Iterable

from analysis.render.grid import Grid, Text


def markdown(grid: Grid) -> str:
    """A heading, one Markdown table a section, and the notes as a list."""
    header = [_row(map(_escaped, grid.headers)), _row(["---", *["---:"] * (len(grid.headers) - 1)])]
    lines = [f"# {_escaped(grid.caption)}", ""]
    for section in grid.sections:
        lines += [f"## {_escaped(section.title)}", ""] if section.title else []
        lines += [*header, *(_row(map(_cell, row)) for row in section.rows), ""]
    lines += [f"- {_escaped(note)}" for note in grid.notes]
    return "\n".join(lines) + "\n"


def _row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _cell(cell: Text) -> str:
    return f"**{_escaped(cell.text)}**" if cell.bold else _escaped(cell.text)


def _escaped(text: str) -> str:
    return re.sub(r"[\\`*_|<>\[\]]", r"\\\g<0>", " ".join(text.split()))
