"""Targets in sequence: losses, forgetting, transfer, and what the routes did.

    continual.{md,csv,tex}                            losses, forgetting, transfer, drift, atoms
    continual_tasks.csv                               every loss and drift, a row a run, task, time
    continual_losses_<budget>_<function>.svg          loss matrices, a panel a method
    continual_forgetting_<budget>.svg                 bars with intervals over seeds
    continual_drift_<budget>.svg                      routes of old tasks as new ones come
    continual_usage_<budget>.svg                      weight of each atom by task

The last two are of the methods that route. Below the methods stand two learners without limits
(`analysis.paper.limits`): what the targets alone make of forgetting, and of a method that is not
told the task. A study with a run that was not trained in sequence is refused. A loss above the
config's ceiling is inf.

Of tasks in sequence on a language model a loss is the share of wrong answers; `continual.md` has
the accuracies and drifts by task, too.
"""

import json
import math
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.benchmark import LANGUAGE, SYNTHETIC, benchmark_of
from analysis.cells import by_budget, estimate, loss_cells, rows_of
from analysis.figures import continual as figures
from analysis.load import finished
from analysis.names import budget_title, function_title, row_label
from analysis.paper import transfer
from analysis.paper.accuracies import accuracy_cells, matrix_grids
from analysis.paper.limits import Limits, limits_of, problem_key
from analysis.render import NO_CELL, Grid, Section, Text
from analysis.render.output import Picture
from analysis.rows import beside, function_titles, in_order
from analysis.sections import rows
from analysis.study import Study
from analysis.text import cell_text
from analysis.view import Shown
from analysis.views.tables import loss_notes
from qlexp.errors import UsageError


@dataclass(frozen=True)
class Measure:
    """A section of the table: one number a run, in a column of its own.

    Attributes:
        source: the column that it comes from.
        diverged: its value where a loss in it is inf.
        ranked: whether the smallest is best.
    """

    name: str
    title: str
    source: str
    of: Callable[[Any], float]
    diverged: float = math.inf
    ranked: bool = False

    @property
    def column(self) -> str:
        return f"sequence.{self.name}"

    def value(self, source: Any) -> float:
        """A measure that a loss of inf enters is that of a diverged run."""
        with np.errstate(invalid="ignore"):
            value = self.of(source)
        return value if math.isfinite(value) else self.diverged


MEASURES = (
    Measure("final_loss", "Average final loss", "matrix", transfer.final_loss, ranked=True),
    Measure("learnt", "Loss when just learnt", "matrix", transfer.learnt_loss, ranked=True),
    Measure("forgetting", "Forgetting", "matrix", transfer.forgetting),
    Measure("backward", "Backward transfer", "matrix", transfer.backward_transfer, -math.inf),
    Measure("forward", "Forward transfer", "matrix", transfer.forward_transfer, -math.inf),
    Measure("drift", "Route drift", "moved", transfer.final_drift),
    Measure("atoms", "Atoms in use", "usage", transfer.atoms_in_use),
)
_DEFINITIONS = (
    "Average final loss: test loss after the last task, mean over all T tasks.",
    "Loss when just learnt: of each task right after its turn, mean over all tasks.",
    "Forgetting: the final loss above the smallest one after any earlier task, mean over the tasks "
    "but the last (arXiv 1801.10112). Who learns little has little to forget, so that none is "
    "bold: read it beside the loss when just learnt.",
    "Backward transfer: loss when a task had just been learnt minus loss at the end, mean over the "
    "tasks but the last; above 0, later tasks helped. Forward transfer: loss of the frozen "
    "backbone minus loss just before a task is learnt, mean over the tasks but the first; above "
    "0, earlier tasks helped (arXiv 1706.08840, signs turned for losses).",
)
_ROUTE_DEFINITIONS = (
    "Route drift: total variation between an input's atom weights when its task had just been "
    "learnt and at the end, 0 to 1; mean over test inputs, blocks and the tasks but the last. "
    "Atoms in use: exp of the entropy of the mean weights, mean over tasks and blocks."
)
LATEST, UNKNOWN = "ideal: latest task only", "ideal: task not known"
_IDEALS = (
    f"{LATEST}: fits the task at hand exactly and no other, and begins as the source; its "
    f"forgetting is what the targets differ by. {UNKNOWN}: the best single function for all tasks, "
    "whose final loss no method that cannot tell tasks apart goes below, but for chance. Both from "
    "the clean targets at the test points, with the variance of the noise."
)
_LOSSES = "task_losses"
_ORDERED = {
    SYNTHETIC.name: "shift.order=sequence, such as continual",
    LANGUAGE.name: "task.order=sequence, such as lm_continual",
}


def show(study: Study, options: Namespace | None = None) -> Shown:
    """What later targets did to earlier ones."""
    frame = with_measures(study)
    cells, tasks = measure_cells(frame), task_cells(frame)
    grids = [continual_grid(frame, cells, study.name)]
    if study.benchmark is LANGUAGE:
        tasks = accuracy_cells(tasks)
        grids += matrix_grids(frame, tasks, study.name)
    return Shown(
        {"continual": grids},
        {
            "continual": cells[_COLUMNS].rename(columns={"variant": "overrides"}),
            "continual_tasks": tasks,
        },
        pictures(frame),
        latex=["continual"],
    )


def with_measures(study: Study) -> pd.DataFrame:
    """The table of `study` with a column a measure, and what they come from.

    That is `matrix` (T + 1, T), `moved` and `usage`. Of a diverged run these are inf, but for the
    losses before the first task; so is any later loss above the config's ceiling. `problem` tells
    targets and samples apart (`analysis.paper.limits`).

    Raises:
        UsageError: a run was not trained in sequence, or its numbers are not readable.
    """
    done = finished(study.frame)
    if done.empty:
        raise UsageError(f"Study '{study.name}' has no finished run to render.")
    found = pd.DataFrame([_measured(study, run) for _, run in done.iterrows()], index=done.index)
    columns = [*("matrix", "moved", "usage", "problem"), *(m.column for m in MEASURES)]
    return study.frame.join(found.reindex(columns=columns))


def _measured(study: Study, run: pd.Series) -> dict[str, Any]:
    if not isinstance(run.get(_LOSSES), str):  # the long table holds lists as JSON
        raise UsageError(
            f"Study '{study.name}' has a run of {run['method']} on {run['function']} whose targets "
            f"were not in sequence: render a study with {_ORDERED[study.benchmark.name]}."
        )
    try:
        found = _sources(run)
        if run.get("config.shift.targets") == found["matrix"].shape[1]:
            found["problem"] = problem_key(study.store, run["run_id"])
        known = [measure for measure in MEASURES if measure.source in found]
        return found | {measure.column: measure.value(found[measure.source]) for measure in known}
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"The summary of run {run['run_id']} has no usable matrix ({error}): delete its folder "
            "and run the study again."
        ) from error


def _sources(run: pd.Series) -> dict[str, Any]:
    losses = np.array(json.loads(run[_LOSSES]), dtype=float)
    if isinstance(accuracies := run.get("task_accuracies"), str):  # what was not smoothed
        losses = 1 - np.array(json.loads(accuracies), dtype=float)
    losses = np.where(np.isnan(losses), np.inf, losses)  # the store's null
    if losses.ndim != 2 or len(losses) != losses.shape[1] + 1:
        raise ValueError(f"task_losses has the shape {losses.shape}")
    found: dict[str, Any] = {"matrix": losses}
    if isinstance(run["route_drift"], str):
        found["moved"] = [np.array(row, dtype=float) for row in json.loads(run["route_drift"])]
        found["usage"] = np.array(json.loads(run["atom_usage"]), dtype=float)
    if run["status"] == "diverged":  # what stood still from then on has not been retained
        for values in (losses[1:], *found.get("moved", ()), found.get("usage", np.empty(0))):
            values.fill(np.inf)
    losses[1:][losses[1:] > run.get("config.trainer.loss_ceiling", math.inf)] = np.inf
    return found


_COLUMNS = [
    *("measure", "budget", "method", "variant", "function"),
    *("mean", "deviation", "seeds", "infinite", "missing", "failed"),
    *("finite_mean", "finite_deviation"),
]


def measure_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """The `loss_cells` of every measure that a method has; the learners without limits come last.

    Args:
        frame: the table `with_measures`.
    """
    return pd.DataFrame(
        {"measure": measure.name, **cell} for measure in MEASURES for cell in _cells(frame, measure)
    )


def _cells(frame: pd.DataFrame, measure: Measure) -> Iterator[dict[str, Any]]:
    having = frame.loc[frame[measure.column].notna(), "method"]
    if having.empty:
        return
    ideals = list(_ideal_cells(frame, measure))
    cells = loss_cells(frame[frame["method"].isin(having)], measure.column)
    for budget, part in by_budget(cells):
        yield from part.to_dict("records")
        yield from ({**cell, "budget": budget} for cell in ideals)


def _ideal_cells(frame: pd.DataFrame, measure: Measure) -> Iterator[dict[str, Any]]:
    """What the learners without limits have of a measure, over the problems of each function."""
    learners: dict[str, Callable[[Limits], float]] = {}
    if measure.source == "matrix":
        learners[LATEST] = lambda limits: measure.of(limits.latest)
    if measure.name == "final_loss":
        learners[UNKNOWN] = lambda limits: limits.unknown
    unmarked = {"missing": 0, "failed": 0}
    unmarked |= dict.fromkeys(("off_budget", "reading", "best_adapter"), False)
    for learner, of in learners.items():
        for function in in_order(frame["function"]):
            limits = limits_of(frame.loc[frame["function"] == function, "problem"])
            if limits:
                found = estimate([of(own) for own in limits])
                yield {"method": learner, "variant": "", "function": function, **unmarked, **found}


def continual_grid(frame: pd.DataFrame, cells: pd.DataFrame, study: str) -> Grid:
    """Methods by functions, a section a measure and budget; `cells` are the `measure_cells`."""
    functions = in_order(frame["function"])
    measures = {measure.name: measure for measure in MEASURES}

    def texts(title: str, row: pd.DataFrame) -> Iterator[str | Text]:
        yield title
        ranked = measures[row["measure"].iloc[0]].ranked
        for cell in beside(row, functions):
            yield Text(cell_text(cell), ranked and cell["best_adapter"]) if cell else NO_CELL

    sections = [
        Section(f"{measures[name].title}; {budget_title(budget)}", rows(part, texts))
        for (name, budget), part in cells.groupby(["measure", "budget"], sort=False)
    ]
    notes = [
        *_DEFINITIONS,
        *[_ROUTE_DEFINITIONS] * bool(frame["usage"].notna().any()),
        *[_IDEALS] * bool(frame["problem"].notna().any()),
        *([_told_apart(frame)] if benchmark_of(frame) is SYNTHETIC else []),
        _lengths(frame),
        *loss_notes(frame, cells[cells["measure"] == "final_loss"], "final_loss"),
    ]
    headers = ["method", *function_titles(frame, functions)]
    return Grid("continual", f"Targets in sequence, study {study}", headers, sections, notes)


def _told_apart(frame: pd.DataFrame) -> str:
    """Who is told the task."""
    read = {"config.instruction.encoder": "none", "config.instruction.control": "matched"}
    encoder, control = (frame.get(n, pd.Series(v, frame.index)).fillna(v) for n, v in read.items())
    reading = frame[(encoder != "none") & (control == "matched")]
    names = ", ".join(row_label(*row) for row in rows_of(reading)) or "none"
    return (
        "The tasks share their inputs and differ in their outputs. Methods that read a text of the "
        f"task, and so can tell tasks apart: {names}. Any other has one output at a point whatever "
        "the task, and cannot keep an earlier task where the latest differs from it."
    )


def _lengths(frame: pd.DataFrame) -> str:
    tasks = sorted({matrix.shape[1] for matrix in frame["matrix"].dropna()})
    atoms = sorted({usage.shape[2] for usage in frame["usage"].dropna()})
    of_atoms = f"; K = {'/'.join(map(str, atoms))} atoms" if atoms else ""
    return (
        f"T = {'/'.join(map(str, tasks))} tasks, each with the samples and epochs given below"
        f"{of_atoms}. Optimiser and schedule start afresh with each task; the adapter goes on."
    )


def task_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Every finished run's losses and drifts: of a task, after so many tasks were learnt."""
    names = ["budget", "function", "method", "overrides", "seed", "status"]
    return pd.DataFrame(
        {
            **run[names],
            "learnt": after,
            "task": task + 1,
            "test_loss": loss,
            "route_drift": _drift(run["moved"], after, task),
        }
        for _, run in finished(frame).iterrows()
        for after, losses in enumerate(run["matrix"])
        for task, loss in enumerate(losses)
    )


def _drift(moved: Any, after: int, task: int) -> float:
    return float(moved[after - 1][task]) if isinstance(moved, list) and task < after else math.nan


def pictures(frame: pd.DataFrame) -> Iterator[Picture]:
    """To be drawn one by one, under `figure_style`; `frame` is the table `with_measures`."""
    for budget, part in by_budget(frame):
        if finished(part).empty:
            continue
        title = budget_title(budget)
        for function in in_order(part["function"]):
            yield Picture(
                f"continual_losses_{budget}_{function}",
                f"Test loss on {function_title(function)} by task, after so many tasks were "
                f"learnt. {title}. Mean over seeds; grey where it is not finite.",
                figures.loss_matrices(part[part["function"] == function]),
            )
        yield Picture(
            f"continual_forgetting_{budget}",
            f"Forgetting. {title}. Bars: mean over seeds; dots: seeds; lines: 95 % intervals; "
            "dashed: a learner that fits the latest task exactly and no other.",
            figures.forgetting_bars(part),
        )
        routed = part[part["method"].isin(part.loc[part["usage"].notna(), "method"])]
        if len(routed):
            yield Picture(
                f"continual_drift_{budget}",
                f"Drift of each task's routes since it was learnt. {title}. Lines: mean over "
                "seeds; bands: the range between them.",
                figures.drift_lines(routed),
            )
            yield Picture(
                f"continual_usage_{budget}",
                f"Mean weight of every atom at the end, by task. {title}. The first seed that is "
                "done.",
                figures.usage_maps(routed),
            )
