"""The chapters of a report. Another one is a function from a study, named in `CHAPTERS`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from analysis.cells import build_blocks
from analysis.figures.curves import curves_figure
from analysis.figures.targets import problems_of, targets_figure
from analysis.load import finished
from analysis.names import budget_order, budget_title
from analysis.notes import setting_notes
from analysis.render import Grid, Section, Text
from analysis.tables import TABLES, backbone_grid, loss_grid
from qlexp.store import Store


@dataclass(frozen=True)
class Study:
    """A study that was read: its name, its store and its long table."""

    name: str
    store: Store
    frame: pd.DataFrame


@dataclass(frozen=True)
class Picture:
    """A figure with its name, which is unique on the page, and what it shows in words."""

    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Chapter:
    """What stands under one heading, in this order."""

    title: str
    text: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    pictures: Sequence[Picture] = ()


def losses(study: Study) -> Chapter:
    """Methods by functions: test loss, the same on the raw scale, post-training loss."""
    grids = [
        loss_grid(
            study.frame, build_blocks(study.frame, loss), loss, f"{title}, study {study.name}", name
        )
        for name, loss, title in sorted(TABLES, key=lambda table: table[1] == "post_train_loss")
    ]
    return Chapter("Losses", grids=grids)


def learning_curves(study: Study) -> Chapter | None:
    """A figure a budget."""
    if finished(study.frame).empty:
        return None
    pictures = [
        Picture(
            f"curves_{budget}",
            f"Training loss over the updates of the adaptation. {budget_title(budget)}. "
            "Lines: mean over seeds; bands: the range between them.",
            curves_figure(study.store, study.frame[study.frame["budget"] == budget]),
        )
        for budget in sorted(study.frame["budget"].unique(), key=budget_order)
    ]
    return Chapter("Learning curves", pictures=pictures)


def targets(study: Study) -> Chapter | None:
    """What is learnt first, and what the networks are adapted to."""
    problems = problems_of(study.store, study.frame)
    if not problems:
        return None
    caption = "Clean source, clean target and their difference over the scaled inputs, by function."
    return Chapter("Targets", pictures=[Picture("targets", caption, targets_figure(problems))])


def backbones(study: Study) -> Chapter:
    """The frozen networks."""
    return Chapter("Backbones", grids=[backbone_grid(study.frame, study.name)])


def diverged(study: Study) -> Chapter | None:
    """The cells whose mean is inf."""
    cells = study.frame[study.frame["status"] == "diverged"]
    if cells.empty:
        return None
    keys = ["budget", "function", "method", "overrides"]
    rows = [
        [Text(text) for text in (method, function, budget, overrides or "–", seeds, str(len(part)))]
        for (budget, function, method, overrides), part in cells.groupby(keys, sort=False)
        for seeds in [", ".join(map(str, sorted(part["seed"])))]
    ]
    headers = ["method", "function", "budget", "overrides", "seeds", "runs"]
    note = "A loss is inf where a value was not finite or ended above the ceiling of its config."
    return Chapter(
        "Diverged cells",
        grids=[Grid("diverged", "Diverged cells", headers, [Section("", rows)], [note])],
    )


def settings(study: Study) -> Chapter:
    """Versions, commits and devices; every field of the configs."""
    done = finished(study.frame).drop_duplicates("run_id")
    names = ["commit", "device", *(name for name in done if name.startswith("versions."))]
    origin = [
        [Text(name.removeprefix("versions.")), Text(str(value)), Text(str(count))]
        for name in names
        for value, count in done[name].value_counts(dropna=False).sort_index().items()
    ]
    fields = [
        [Text(name.removeprefix("config.")), Text(_values(done[name]))]
        for name in sorted(done)
        if name.startswith("config.") and name.split(".")[1] not in _PLACES
    ]
    return Chapter(
        "Settings",
        setting_notes(study.frame),
        [
            Grid(
                "origin",
                "Versions, commits and devices",
                ["what", "value", "runs"],
                [Section("", origin)],
            ),
            Grid(
                "fields",
                "Every field of the runs' configs",
                ["field", "values"],
                [Section("", fields)],
            ),
        ],
    )


_PLACES = ("store", "study", "tracking")
_LISTED = 12  # the most values of a field that are listed


def _values(column: pd.Series) -> str:
    """The distinct values, ascending; a missing one, where others have it, as null."""
    found = sorted(column.dropna().unique(), key=lambda value: (str(type(value)), value))
    texts = [f"{value:g}" if isinstance(value, float) else str(value) for value in found]
    more = [f"and {len(texts) - _LISTED} more"] if len(texts) > _LISTED else []
    return ", ".join([*texts[:_LISTED], *more, *["null"] * bool(column.isna().any())])


CHAPTERS: Sequence[Callable[[Study], Chapter | None]] = (
    losses,
    learning_curves,
    targets,
    backbones,
    diverged,
    settings,
)
