"""Files of a view: grids as Markdown and LaTeX, frames as CSV, figures as SVG."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.render.grid import Grid
from analysis.render.latex import latex
from analysis.render.markdown import markdown
from analysis.render.style import save_svg


@dataclass(frozen=True)
class Picture:
    """A figure with the name of its file, unique in its study, and what it shows in words."""

    name: str
    caption: str
    figure: Figure


def write_markdown(path: Path, *grids: Grid) -> None:
    """The grids one below the other."""
    _write(path, map(markdown, grids))


def write_latex(path: Path, *grids: Grid) -> None:
    """The grids one below the other."""
    _write(path, map(latex, grids))


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """One row a line, numbers in full."""
    frame.to_csv(path, index=False, lineterminator="\n")


def write_pictures(folder: Path, pictures: Iterable[Picture]) -> list[Path]:
    """`<name>.svg` of each, whose paths are returned; one figure is held at a time."""
    paths = []
    for picture in pictures:
        paths.append(folder / f"{picture.name}.svg")
        save_svg(picture.figure, paths[-1])
    return paths


def _write(path: Path, texts: Iterable[str]) -> None:
    path.write_text("\n".join(texts), encoding="utf-8", newline="\n")
