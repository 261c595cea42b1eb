"""A grid as Markdown."""

import re
from collections.abc import Iterable

from analysis.render.grid import Grid


def markdown(grid: Grid) -> str:
    """A heading, one Markdown table a section, and the notes as a list."""
    header = [_row(map(_escaped, grid.headers)), _row(["---", *["---:"] * (len(grid.headers) - 1)])]
    lines = [f"# {_escaped(grid.caption)}", ""]
    for section in grid.sections:
        lines += [f"## {_escaped(section.title)}", ""] if section.title else []
        rows = ((cell.written(_escaped, "**{}**") for cell in row) for row in section.rows)
        lines += [*header, *map(_row, rows), ""]
    lines += [f"- {_escaped(note)}" for note in grid.notes]
    return "\n".join(lines) + "\n"


def _row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _escaped(text: str) -> str:
    return re.sub(r"[\\`*_|<>\[\]]", r"\\\g<0>", " ".join(text.split()))
