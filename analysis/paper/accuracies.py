"""Tasks in sequence on a language model: the accuracy on each task as later ones are learnt."""

import json
from collections.abc import Iterator

import pandas as pd

from analysis.load import finished
from analysis.names import budget_title, function_title
from analysis.render import NO_CELL, Grid, Section
from analysis.sections import rows
from analysis.text import spread

_ACCURACIES = (
    "Accuracy in percent on each task (columns) after so many were learnt (rows; 0: the frozen "
    "model), mean ± sample standard deviation over seeds."
)
_DRIFTS = (
    "Route drift of each task (columns) after so many were learnt (rows): total variation between "
    "an input's atom weights when its task had just been learnt and then, mean over test inputs, "
    "blocks and seeds."
)


def accuracy_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """The long table `analysis.paper.continual.task_cells` with accuracies for its losses."""
    cells = cells.assign(accuracy=1 - cells["test_loss"])
    return cells[[name for name in cells if name != "test_loss"]]


def matrix_grids(frame: pd.DataFrame, cells: pd.DataFrame, study: str) -> Iterator[Grid]:
    """Accuracies and drifts by task, a row a method and number of tasks learnt.

    Args:
        frame: the table `with_measures`.
        cells: `accuracy_cells` of it.
    """
    percent = cells.assign(accuracy=100 * cells["accuracy"])
    yield _grid(frame, percent, "accuracy", f"Accuracy in sequence, study {study}", _ACCURACIES)
    if cells["route_drift"].notna().any():
        drifts = cells.dropna(subset="route_drift")
        yield _grid(frame, drifts, "route_drift", f"Route drift, study {study}", _DRIFTS)


def _grid(frame: pd.DataFrame, cells: pd.DataFrame, column: str, caption: str, note: str) -> Grid:
    names = _tasks(frame)
    longest = max(map(len, names.values()))

    def texts(title: str, own: pd.DataFrame, learnt: int) -> Iterator[str]:
        yield title
        yield str(learnt)
        values = own.groupby("task")[column].agg(list).to_dict()
        for task in range(1, longest + 1):
            yield spread(values[task]) if task in values else NO_CELL

    found = [
        Section(_title(budget, function, names[function]), rows(part, texts, ["learnt"]))
        for (budget, function), part in cells.rename(columns={"overrides": "variant"}).groupby(
            ["budget", "function"], sort=False
        )
    ]
    headers = ["method", "tasks learnt", *(f"task {task}" for task in range(1, longest + 1))]
    return Grid(f"continual_{column}", caption, headers, found, [note])


def _tasks(frame: pd.DataFrame) -> dict[str, list[str]]:
    """The names of the tasks in order, by what the sequence is called."""
    done = finished(frame).drop_duplicates("function")
    return {run.function: json.loads(run.tasks) for run in done.itertuples()}


def _title(budget: str, function: str, tasks: list[str]) -> str:
    order = ", ".join(f"{i} {function_title(task)}" for i, task in enumerate(tasks, start=1))
    return f"{function_title(function)}: {order}; {budget_title(budget)}"
