"""What a view is, and where views are found.

A view is a module of `analysis.views` or `analysis.paper` with a function

    show(study: Study, options: Namespace) -> Shown

that the command `qlexp show NAME STUDY`, the report and the docs share. Its name is the module's,
its help the first line of the module's docstring. Options of its own are added by a function
`add_options(command: ArgumentParser)`; what it cannot show it refuses with a `UsageError`.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

import pandas as pd

from analysis.render import Grid
from analysis.render.output import Picture, write_csv, write_latex, write_markdown, write_pictures
from analysis.render.style import figure_style

PACKAGES = ("analysis.views", "analysis.paper")


@dataclass(frozen=True)
class Shown:
    """What a view shows of a study, by the names of the files that it becomes.

    Attributes:
        grids: tables for reading, one below the other in `<name>.md`, each with the notes that
            belong to it.
        frames: the numbers in full, `<name>.csv`.
        pictures: `<name>.svg`, drawn one by one under `figure_style`.
        latex: the names of `grids` that are written as `<name>.tex` too.
        pages: whole pages, `<name>.html`.
    """

    grids: Mapping[str, Sequence[Grid]] = field(default_factory=dict)
    frames: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    pictures: Iterable[Picture] = ()
    latex: Sequence[str] = ()
    pages: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Puts every file into `folder`, which exists."""
        for name, frame in self.frames.items():
            write_csv(folder / f"{name}.csv", frame)
        for name, grids in self.grids.items():
            write_markdown(folder / f"{name}.md", *grids)
            if name in self.latex:
                write_latex(folder / f"{name}.tex", *grids)
        for name, page in self.pages.items():
            (folder / f"{name}.html").write_text(page, encoding="utf-8", newline="\n")
        with figure_style():
            write_pictures(folder, self.pictures)


def views() -> dict[str, ModuleType]:
    """Every view by its name."""
    found = {}
    for package in map(import_module, PACKAGES):
        for item in iter_modules(package.__path__):
            module = import_module(f"{package.__name__}.{item.name}")
            if hasattr(module, "show"):
                found[item.name] = module
    return found


def add_no_options(command: ArgumentParser) -> None:
    """What a view without options of its own adds."""


def default_options(view: ModuleType, common: Namespace) -> Namespace:
    """The options of `view` as they are where nobody chooses, beside those of every view."""
    command = ArgumentParser()
    getattr(view, "add_options", add_no_options)(command)
    return Namespace(**vars(common) | vars(command.parse_args([])))
