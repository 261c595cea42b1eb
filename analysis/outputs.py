"""What a command writes to its folder: grids as Markdown, frames as CSV."""

from pathlib import Path

import pandas as pd

from analysis.render import Grid, markdown


def write_markdown(path: Path, *grids: Grid) -> None:
    """The grids one below the other."""
    text = "\n".join(markdown(grid) for grid in grids)
    path.write_text(text, encoding="utf-8", newline="\n")


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """One row a line, numbers in full."""
    frame.to_csv(path, index=False, lineterminator="\n")
