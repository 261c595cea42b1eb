"""One self-contained HTML page of a study: findings, tables, figures, settings and gaps.

    report.html    what the other views show, a chapter a view; the forest plot and what the numbers
                   decide come first

The page asks the network for nothing, so that it can be mailed, archived or opened from a disk. Its
tables can be sorted, and each holds its LaTeX (booktabs). What a view refuses to show is named at
the end with the reason; where many runs route, the first seeds are looked into. The same store and
the same versions give the same bytes.
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import islice

import pandas as pd

from analysis.findings import findings
from analysis.legend import setting_notes
from analysis.load import finished, incomplete
from analysis.names import function_order, function_title, method_order
from analysis.paper.trained import done_cells
from analysis.render import NO_CELL, Grid, Section, Text
from analysis.render.page import Chapter, Page
from analysis.render.style import figure_style
from analysis.study import Study
from analysis.text import listed
from analysis.view import Shown, default_options, views
from analysis.words import worded, worded_shown
from qlexp.errors import UsageError

ROUTED = 100  # the most runs whose weights are loaded for a page


@dataclass(frozen=True)
class Part:
    """A chapter of the page: what it takes of a view.

    Attributes:
        grids: patterns of names (`fnmatch`), in the order of the page; as for `pictures`.
        most_pictures: how many of its figures the view is asked to draw; None: all.
    """

    title: str
    view: str
    grids: Sequence[str] = ("*",)
    pictures: Sequence[str] = ("*",)
    most_pictures: int | None = None


SYNTHETIC_TABLES = ("table2", "table2_clean", "table2_raw", "table1", "worst")
LANGUAGE_TABLES = ("accuracy", "test_loss", "retention", "cost")
FIRST = Part("Findings", "forest", grids=())
PARTS = (
    Part("Losses", "tables", grids=(*SYNTHETIC_TABLES, *LANGUAGE_TABLES)),
    Part("Claims", "claims"),
    Part("Statistics", "stats"),
    Part("Cost", "pareto"),
    Part("Equal training loss", "matched"),
    Part("Ablation", "ablation"),
    Part("Continual", "continual"),
    Part("Learning curves", "figures", pictures=("curves_*",)),
    Part("Gradient flow", "gradients"),
    Part("Routing", "routing", most_pictures=1),
    Part("Targets", "figures", pictures=("targets",)),
    Part("Backbones", "tables", grids=("backbones",)),
)


def show(study: Study, options: Namespace) -> Shown:
    """The page of a study, gaps and all; raises the errors of `study.kept`."""
    _ = study.kept
    with figure_style():
        shown, refused = _views(study, options)
        told = [worded(text, study.benchmark.words) for text in findings(shown)]
        first = Chapter(FIRST.title, told, pictures=_chapter(FIRST, shown).pictures)
        chapters = (_chapter(part, shown) for part in PARTS if part.view in shown)
        page = Page(
            title=f"Study {study.name}",
            facts=_facts(study),
            gaps=incomplete(study.frame),
            chapters=[
                first,
                *(own for own in chapters if own.grids or own.pictures),
                *_diverged(study.frame),
                _settings(study.frame),
                *_left_out(refused),
            ],
            footer=f"Rendered from the store of runs by qlexp show report {study.name}.",
            folded=("fields",),
        )
        return Shown(pages={"report": page.html()})


def _views(study: Study, options: Namespace) -> tuple[dict[str, Shown], dict[str, str]]:
    """What each view shows of the study, and why others refuse it."""
    known, shown, words = views(), dict[str, Shown](), study.benchmark.words
    place = study.stored.root if study.stored else ""
    refused: dict[str, str] = {}
    for part in (FIRST, *PARTS):
        if part.view in shown or part.view in refused:
            continue
        own = _few_routed(study) if part.view == "routing" else study
        view = known[part.view]
        try:
            whole = worded_shown(view.show(own, default_options(view, options)), words)
            pictures = tuple(islice(whole.pictures, part.most_pictures))
        except UsageError as error:
            refused[part.view] = worded(str(error).replace(f"{place}/", ""), words)
        else:
            shown[part.view] = replace(whole, pictures=pictures)
    return shown, refused


def _few_routed(study: Study) -> Study:
    """The study with as many seeds as `ROUTED` allows, at least one."""
    cells, frame = done_cells(study.frame), study.frame
    for seed in sorted(frame["seed"].unique(), reverse=True)[:-1]:
        if cells["run_id"].nunique() <= ROUTED:
            break
        cells, frame = (part[part["seed"] != seed] for part in (cells, frame))
    return replace(study, frame=frame)


def _chapter(part: Part, shown: Mapping[str, Shown]) -> Chapter:
    whole = shown.get(part.view, Shown())
    return Chapter(
        part.title,
        grids=[grid for name in _picked(part.grids, whole.grids) for grid in whole.grids[name]],
        pictures=[own for own in whole.pictures if _picked(part.pictures, [own.name])],
    )


def _picked(patterns: Sequence[str], names: Sequence[str] | Mapping[str, object]) -> list[str]:
    return [name for pattern in patterns for name in names if fnmatch(name, pattern)]


def _left_out(refused: Mapping[str, str]) -> list[Chapter]:
    """Why chapters are not there."""
    lines = [f"{part.title}: {refused[part.view]}" for part in PARTS if part.view in refused]
    return [Chapter("Left out", lines)] if lines else []


def _facts(study: Study) -> list[tuple[str, str]]:
    """What a reader wants to know first, as terms and descriptions."""
    frame = study.frame
    statuses = frame["status"].value_counts()
    order = ("done", "diverged", "stopped", "failed", "missing")
    cells = [f"{statuses[name]:,} {name}" for name in order if name in statuses]
    functions = sorted(frame["function"].unique(), key=function_order)
    return [
        ("Cells", ", ".join(cells)),
        ("Methods", ", ".join(sorted(frame["method"].unique(), key=method_order))),
        (worded("Functions", study.benchmark.words), ", ".join(map(function_title, functions))),
        ("Seeds", listed(frame["seed"])),
        *(
            (name.capitalize(), ", ".join(sorted(frame[name].dropna().unique())) or "unknown")
            for name in ("commit", "device")
        ),
    ]


def _diverged(frame: pd.DataFrame) -> list[Chapter]:
    """The cells whose mean is inf."""
    cells = frame[frame["status"] == "diverged"]
    rows = [
        [Text(text) for text in (method, function, budget, overrides or NO_CELL, listed(seeds))]
        for (budget, function, method, overrides), seeds in cells.groupby(
            ["budget", "function", "method", "overrides"], sort=False
        )["seed"]
    ]
    note = "A loss is inf where a value was not finite or ended above the ceiling of its config."
    headers = ["method", "function", "budget", "overrides", "seeds"]
    grid = Grid("diverged", "Diverged cells by seed", headers, [Section("", rows)], [note])
    return [Chapter("Diverged cells", grids=[grid])] if rows else []


def _settings(frame: pd.DataFrame) -> Chapter:
    """How the runs were made, and every field of their configs."""
    done = finished(frame)
    rows = [
        [Text(name.removeprefix("config.")), Text(_values(done[name]))]
        for name in sorted(done)
        if name.startswith("config.") and name.split(".")[1] not in _PLACES
    ]
    caption, headers = "Every field of the runs' configs", ["field", "values"]
    grid = Grid("fields", caption, headers, [Section("", rows)])
    return Chapter("Settings", setting_notes(frame), [grid])


_PLACES = ("store", "study", "tracking")
_LISTED = 12  # the most values of a field that are listed


def _values(column: pd.Series) -> str:
    """The distinct values, ascending; a missing one, where others have it, as null."""
    found = sorted(column.dropna().unique(), key=lambda value: (str(type(value)), value))
    texts = [f"{value:g}" if isinstance(value, float) else str(value) for value in found]
    more = [f"and {len(texts) - _LISTED} more"] if len(texts) > _LISTED else []
    return ", ".join([*texts[:_LISTED], *more, *["null"] * bool(column.isna().any())])
