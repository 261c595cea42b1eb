"""Renders a study over targets in sequence: `python -m analysis.continual --study continual`.

    results/<study>/continual.{md,csv,tex}     losses, forgetting, transfer, route drift, atoms
    results/<study>/continual_tasks.csv        every loss and drift, one row a run, task and time
    results/<study>/continual_losses_<budget>_<function>.svg    loss matrices, a panel a method
    results/<study>/continual_forgetting_<budget>.svg           bars with intervals over seeds
    results/<study>/continual_drift_<budget>.svg                routes of old tasks as new ones come
    results/<study>/continual_usage_<budget>.svg                weight of each atom by task

The last two are of the methods that route. Below the methods stand two learners without limits
(`analysis.tasks`): what the targets alone make of forgetting, and of a method that is not told the
task. A study with a run that was not trained in sequence is refused, and one with missing or failed
cells unless `--allow-missing` is given. A loss above the config's ceiling is inf. The same store
gives the same bytes.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import transfer
from analysis.cells import Block, Estimate, Row, build_blocks, variants
from analysis.cli import exit_code, open_study, parser, writing
from analysis.figures import continual as figures
from analysis.load import finished, require_complete
from analysis.names import (
    budget_order,
    budget_title,
    function_order,
    function_title,
    method_order,
    row_label,
)
from analysis.notes import column_marks, loss_notes
from analysis.outputs import Picture, write_csv, write_pictures, write_table
from analysis.render import NO_CELL, Grid, Section, Text
from analysis.style import figure_style
from analysis.tables import estimate_text
from analysis.tasks import limits_of, problem_key
from qlexp.errors import UsageError
from qlexp.store.store import Store


@dataclass(frozen=True)
class Measure:
    """A section of the table: one number a run, its value where a loss in it is inf."""

    column: str
    title: str
    source: str  # the column that it comes from
    of: Callable[[Any], float]
    diverged: float
    ranked: bool = False  # whether the smallest is best


MEASURES = (
    Measure("final_loss", "Average final loss", "matrix", transfer.final_loss, math.inf, True),
    Measure("learnt", "Loss when just learnt", "matrix", transfer.learnt_loss, math.inf, True),
    Measure("forgetting", "Forgetting", "matrix", transfer.forgetting, math.inf),
    Measure("backward", "Backward transfer", "matrix", transfer.backward_transfer, -math.inf),
    Measure("forward", "Forward transfer", "matrix", transfer.forward_transfer, -math.inf),
    Measure("drift", "Route drift", "moved", transfer.final_drift, math.inf),
    Measure("atoms", "Atoms in use", "usage", transfer.atoms_in_use, math.inf),
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
    "Atoms in use: exp of the entropy of the mean weights, mean over tasks and blocks.",
)

LATEST, UNKNOWN = "ideal: latest task only", "ideal: task not known"
_IDEALS = (
    f"{LATEST}: fits the task at hand exactly and no other, and begins as the source; its "
    f"forgetting is what the targets differ by. {UNKNOWN}: the best single function for all tasks, "
    "whose final loss no method that cannot tell tasks apart goes below, but for chance. Both from "
    "the clean targets at the test points, with the variance of the noise."
)
_LOSSES = "task_losses"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    command = parser("analysis.continual", "Render a study over targets in sequence.")
    options = command.parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    store, frame = open_study(options)
    frame = with_measures(store, frame, options.study)
    if not options.allow_missing:
        require_complete(frame, options.study)
    folder = render(frame, options.study, Path(options.out))
    print(f"{len(frame)} cells -> {folder}")


def with_measures(store: Store, frame: pd.DataFrame, study: str) -> pd.DataFrame:
    """`frame` with a column a measure, and what they come from in `matrix`, `moved` and `usage`.

    Of a diverged run these are inf, but for the losses before the first task; so is any later loss
    above the config's ceiling. `variant` tells a method's rows apart, `problem` the targets and
    samples (`analysis.tasks`).

    Raises:
        UsageError: a run was not trained in sequence, or its numbers are not readable.
    """
    done = finished(frame)
    if done.empty:
        raise UsageError(f"Study '{study}' has no finished run to render.")
    columns: dict[str, dict[Any, Any]] = {m.column: {} for m in MEASURES}
    columns |= {"matrix": {}, "moved": {}, "usage": {}, "problem": {}}
    for index, run in done.iterrows():
        for name, value in _measured(store, run, study).items():
            columns[name][index] = value
    added = {
        name: pd.Series(values, index=frame.index, dtype=object) for name, values in columns.items()
    }
    numbers = {m.column: pd.to_numeric(added[m.column]) for m in MEASURES}
    return frame.assign(**{**added, **numbers}, variant=variants(frame))


def in_sequence(frame: pd.DataFrame) -> bool:
    """Whether there are finished runs, and all were trained on targets in sequence."""
    done = finished(frame)
    return _LOSSES in done and len(done) > 0 and bool(done[_LOSSES].map(_is_sequence).all())


def _is_sequence(losses: object) -> bool:
    return isinstance(losses, str)  # the long table holds lists as JSON


def _measured(store: Store, run: pd.Series, study: str) -> dict[str, Any]:
    if not _is_sequence(run.get(_LOSSES)):
        raise UsageError(
            f"Study '{study}' has a run of {run['method']} on {run['function']} whose targets were "
            "not in sequence: render a study with shift.order=sequence, such as continual."
        )
    try:
        losses = np.array(json.loads(run[_LOSSES]), dtype=float)
        losses = np.where(np.isnan(losses), np.inf, losses)  # the store's null
        if losses.ndim != 2 or len(losses) != losses.shape[1] + 1:
            raise ValueError(f"task_losses has the shape {losses.shape}")
        found: dict[str, Any] = {"matrix": losses}
        if run.get("config.shift.targets") == losses.shape[1]:
            found["problem"] = problem_key(store, run["run_id"])
        if isinstance(run["route_drift"], str):
            moved = json.loads(run["route_drift"])
            found["moved"] = [np.array(row, dtype=float) for row in moved]
            found["usage"] = np.array(json.loads(run["atom_usage"]), dtype=float)
        diverged = run["status"] == "diverged"
        if diverged:  # what stood still from then on has not been retained
            losses[1:] = np.inf
            for values in (*found.get("moved", ()), found.get("usage", np.empty(0))):
                values.fill(np.inf)
        losses[1:][losses[1:] > run.get("config.trainer.loss_ceiling", math.inf)] = np.inf
        for measure in MEASURES:
            if (source := found.get(measure.source)) is not None:
                found[measure.column] = measure.diverged if diverged else _value(measure, source)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"The summary of run {run['run_id']} has no usable matrix ({error}): delete its folder "
            "and run the study again."
        ) from error
    return found


def _value(measure: Measure, source: Any) -> float:
    """A measure that a loss of inf enters is that of a diverged run."""
    with np.errstate(invalid="ignore"):
        value = measure.of(source)
    return value if math.isfinite(value) else measure.diverged


def render(frame: pd.DataFrame, study: str, out: Path) -> Path:
    """Writes every table and figure of a study `with_measures` to `out/study`, returned."""
    blocks = measure_blocks(frame)
    cells, tasks, grid = (
        measure_cells(blocks),
        task_cells(frame),
        continual_grid(frame, blocks, study),
    )
    with figure_style():
        drawn = list(pictures(frame))
        with writing(out / study) as folder:
            write_csv(folder / "continual.csv", cells)
            write_csv(folder / "continual_tasks.csv", tasks)
            write_table(folder, grid)
            write_pictures(folder, drawn)
    return folder


def measure_blocks(frame: pd.DataFrame) -> list[tuple[Measure, list[Block]]]:
    """Every measure that a method has, with its blocks; the learners without limits come last."""
    return [(measure, part) for measure in MEASURES if (part := _blocks(frame, measure))]


def _blocks(frame: pd.DataFrame, measure: Measure) -> list[Block]:
    """The blocks of a measure, with the methods that have it."""
    having = frame.loc[frame[measure.column].notna(), "method"].unique()
    part = frame[frame["method"].isin(having)]
    if part.empty:
        return []
    ideals = _ideal_rows(frame, measure)
    return [
        replace(block, rows=[*block.rows, *ideals]) for block in build_blocks(part, measure.column)
    ]


def _ideal_rows(frame: pd.DataFrame, measure: Measure) -> list[Row]:
    """What the learners without limits have of a measure, over the problems of each function."""
    found: dict[str, dict[str, list[float]]] = {}
    problems = frame.drop_duplicates(["function", "problem"]).dropna(subset="problem")
    for function, problem in zip(problems["function"], problems["problem"], strict=True):
        limits = limits_of(problem)
        if measure.source == "matrix":
            found.setdefault(LATEST, {}).setdefault(function, []).append(measure.of(limits.latest))
        if measure.column == "final_loss":
            found.setdefault(UNKNOWN, {}).setdefault(function, []).append(limits.unknown)
    return [
        Row(
            method=name,
            variant="",
            estimates={f: Estimate(dict(enumerate(values))) for f, values in by_function.items()},
            trainable=(),
            reference=(),
            off_budget=False,
            reading=False,
        )
        for name, by_function in found.items()
    ]


def continual_grid(
    frame: pd.DataFrame, blocks: Sequence[tuple[Measure, list[Block]]], study: str
) -> Grid:
    """Methods by functions, a section a measure and budget."""
    functions = sorted(frame["function"].unique(), key=function_order)
    headers = ["method", *(function_title(f) + column_marks(frame, f) for f in functions)]
    sections = [
        Section(f"{measure.title}; {budget_title(block.budget)}", _rows(measure, block, functions))
        for measure, part in blocks
        for block in part
    ]
    routed, ideal = frame["drift"].notna().any(), frame["problem"].notna().any()
    notes = [*_DEFINITIONS, *(_ROUTE_DEFINITIONS if routed else ()), *([_IDEALS] if ideal else ())]
    notes += [_told_apart(frame), _lengths(frame)]
    notes += loss_notes(frame, blocks[0][1], "final_loss")
    return Grid("continual", f"Targets in sequence, study {study}", headers, sections, notes)


def _rows(measure: Measure, block: Block, functions: Sequence[str]) -> list[list[Text]]:
    rows = []
    for index, row in enumerate(block.rows):
        texts = [Text(row.title)]
        for function in functions:
            estimate = row.estimates.get(function)
            text = NO_CELL if estimate is None else estimate_text(estimate)
            best = measure.ranked and index in block.best.get(function, ())
            texts.append(Text(text, best))
        rows.append(texts)
    return rows


def _told_apart(frame: pd.DataFrame) -> str:
    """Who is told the task."""
    encoder, control = "config.instruction.encoder", "config.instruction.control"
    reading = frame[frame[encoder].fillna("none") != "none"] if encoder in frame else frame[:0]
    if control in reading:
        reading = reading[reading[control].fillna("matched") == "matched"]
    rows = set(zip(reading["method"], reading["variant"], strict=True))
    ordered = sorted(rows, key=lambda row: (method_order(row[0]), row[1]))
    names = ", ".join(row_label(*row) for row in ordered) or "none"
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


def measure_cells(blocks: Sequence[tuple[Measure, list[Block]]]) -> pd.DataFrame:
    """The numbers of the table, one row a measure and cell."""
    return pd.DataFrame(
        {
            "measure": measure.column,
            "budget": block.budget,
            "method": row.method,
            "overrides": row.variant,
            "function": function,
            "mean": statistics.fmean(estimate.values.values()) if estimate.values else math.nan,
            "deviation": math.nan if estimate.infinite else estimate.finite_deviation,
            "seeds": len(estimate.values),
            "infinite": estimate.infinite,
            "missing": len(estimate.missing),
            "failed": len(estimate.failed),
            "finite_mean": estimate.finite_mean,
            "finite_deviation": estimate.finite_deviation,
        }
        for measure, part in blocks
        for block in part
        for row in block.rows
        for function, estimate in sorted(
            row.estimates.items(), key=lambda item: function_order(item[0])
        )
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
    """To be drawn one by one, under `figure_style`; `frame` has its measures."""
    for budget in sorted(frame["budget"].unique(), key=budget_order):
        part = frame[frame["budget"] == budget]
        if finished(part).empty:
            continue
        for function in sorted(part["function"].unique(), key=function_order):
            own = part[part["function"] == function]
            yield Picture(
                f"continual_losses_{budget}_{function}",
                f"Test loss on {function_title(function)} by task, after so many tasks were "
                f"learnt. {budget_title(budget)}. Mean over seeds; grey where it is not finite.",
                figures.loss_matrices(own),
            )
        yield Picture(
            f"continual_forgetting_{budget}",
            f"Forgetting. {budget_title(budget)}. Bars: mean over seeds; dots: seeds; lines: 95 % "
            "intervals; dashed: a learner that fits the latest task exactly and no other.",
            figures.forgetting_bars(part),
        )
        routed = part[part["method"].isin(part.loc[part["usage"].notna(), "method"])]
        if len(routed):
            yield Picture(
                f"continual_drift_{budget}",
                f"Drift of each task's routes since it was learnt. {budget_title(budget)}. Lines: "
                "mean over seeds; bands: the range between them.",
                figures.drift_lines(routed),
            )
            yield Picture(
                f"continual_usage_{budget}",
                f"Mean weight of every atom at the end, by task. {budget_title(budget)}. The first "
                "seed that is done.",
                figures.usage_maps(routed),
            )


if __name__ == "__main__":
    sys.exit(main())
