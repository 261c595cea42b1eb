"""The chapters of a report. Another one is a function from a study, named in `CHAPTERS`.

A chapter stands where the study holds what it needs, and shows what its command shows.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import pandas as pd

from analysis import continual, gradients, routing
from analysis.claims.answers import answer, grid
from analysis.claims.evidence import stored_norms
from analysis.conditions import conditions
from analysis.figures.curves import curves_figure
from analysis.figures.targets import problems_of, targets_figure
from analysis.load import finished, seed_list
from analysis.names import budget_order, budget_title
from analysis.notes import setting_notes
from analysis.outputs import Picture
from analysis.paper.claims import CLAIMS
from analysis.render import Grid, Section, Text
from analysis.study import Study
from analysis.tables import backbone_grid, loss_tables
from analysis.trained import done_cells
from analysis.views import ablation, stats
from qlexp.errors import UsageError

ROUTED = 100  # the most runs whose weights are loaded for a page


@dataclass(frozen=True)
class Chapter:
    """What stands under one heading, in this order."""

    title: str
    text: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    pictures: Sequence[Picture] = ()


def losses(study: Study) -> Chapter:
    """Methods by functions: test loss, the same on the raw scale, post-training loss."""
    frame, tuning = study.kept
    post_training, *tests = (grid for grid, _ in loss_tables(frame, study.name, tuning))
    return Chapter("Losses", grids=[*tests, post_training])


def paper(study: Study) -> Chapter | None:
    """The claims of the paper, where the study has one condition and answers one."""
    frame, tuning = study.kept
    if conditions(frame, backbones=False).nunique() > 1:
        return None
    answers = answer(frame, stored_norms(study.store), CLAIMS)
    if not any(own.runs for own in answers):
        return None
    caption = f"Claims of the paper, study {study.name}"
    return Chapter("Claims", grids=[grid(answers, frame, tuning, "claims", caption)])


def statistics(study: Study) -> Chapter | None:
    """Adapters compared by their test losses, in a study of one condition."""
    return _shown("Statistics", stats, study, Namespace(loss=stats.DEFAULT))


def swept_settings(study: Study) -> Chapter | None:
    """The test loss against every setting that the study sweeps, and what each value changes."""
    return _shown("Ablation", ablation, study, Namespace(loss=ablation.DEFAULT, axis=None))


def _shown(title: str, view: ModuleType, study: Study, options: Namespace) -> Chapter | None:
    """What a view shows; None where it refuses the study."""
    try:
        shown = view.show(study, options)
    except UsageError:
        return None
    grids = [grid for grids in shown.grids.values() for grid in grids]
    return Chapter(title, grids=grids, pictures=list(shown.pictures))


def sequence(study: Study) -> Chapter | None:
    """What later targets did to earlier ones."""
    if not continual.in_sequence(study.frame):
        return None
    frame = continual.with_measures(study.store, study.frame, study.name)
    return Chapter(
        "Continual",
        grids=[continual.continual_grid(frame, continual.measure_blocks(frame), study.name)],
        pictures=list(continual.pictures(frame)),
    )


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


def gradient_flow(study: Study) -> Chapter | None:
    """Gradient norms over depth."""
    blocks = gradients.load_blocks(study.store, study.frame)
    if not gradients.has_depth(blocks):
        return None
    return Chapter(
        "Gradient flow",
        grids=[
            gradients.gradient_grid(blocks, study.frame, study.name),
            *gradients.pair_grids(blocks, study.name),
        ],
        pictures=list(gradients.pictures(blocks, study.name)),
    )


def routes(study: Study) -> Chapter | None:
    """How queryable adapters route: as many seeds as `ROUTED` allows, and the first function."""
    cells = done_cells(study.frame)
    if cells.empty:
        return None
    seeds, looked = sorted(cells["seed"].unique()), cells
    while looked["run_id"].nunique() > ROUTED:
        seeds.pop()
        looked = cells[cells["seed"].isin(seeds)]
    counts = [part["run_id"].nunique() for part in (looked, cells)]
    text = [
        f"Looked at here: {counts[0]} of {counts[1]} runs"
        + (f", {seed_list(seeds)}." if seeds else f", since a page looks at {ROUTED} at most."),
        f"All of them, with the maps of all functions: python -m analysis.routing --study "
        f"{study.name}. Bounds on the changes that they make: python -m analysis.theory --study "
        f"{study.name}.",
    ]
    if not seeds:
        return Chapter("Routing", text)
    try:
        runs = routing.load_runs(study.store, looked)
    except UsageError:  # a store may have been passed on without its weights
        gap = f"Not shown: a run's weights are not readable; analysis.routing says which. {text[1]}"
        return Chapter("Routing", [gap])
    blocks, similar = routing.block_cells(looked, runs), routing.similarity_cells(looked, runs)
    return Chapter(
        "Routing",
        text,
        routing.grids(blocks, similar, study.frame, study.name),
        [routing.map_picture(study.store, looked, looked["function"].iloc[0])],
    )


def targets(study: Study) -> Chapter | None:
    """What is learnt first, and what the networks are adapted to."""
    problems = problems_of(study.store, study.frame)
    if not problems:
        return None
    caption = "Clean source, clean target and their difference over the scaled inputs, by function."
    return Chapter("Targets", pictures=[Picture("targets", caption, targets_figure(problems))])


def backbones(study: Study) -> Chapter:
    """The frozen networks."""
    return Chapter("Backbones", grids=[backbone_grid(study.kept[0], study.name)])


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
    paper,
    statistics,
    swept_settings,
    sequence,
    learning_curves,
    gradient_flow,
    routes,
    targets,
    backbones,
    diverged,
    settings,
)
