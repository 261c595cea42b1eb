"""The tasks of one run on a language model, as the lists that runs on several functions have."""

from collections.abc import Mapping
from typing import Any

from qlexp.lm.scores import smoothed


def with_tasks(summary: Mapping[str, Any]) -> dict[str, Any]:
    """`summary` with what it holds by the name of a task in lists, in the order of the tasks.

    `tasks` are their names. `atom_usage` is (T, N_b, K). After tasks in sequence `task_losses`
    (T + 1, T) are smoothed shares of wrong answers, of task i after j tasks, with as many test
    examples of every task. What a run that diverged on its way has not come to is None. A run on a
    function comes back as it is.

    Raises:
        KeyError: a task lacks a number that others have.
    """
    found = dict(summary)
    if not (tasks := list(summary.get("task_accuracy") or ())):
        return found
    found["tasks"] = tasks
    if usage := summary.get("atom_usage"):
        found["atom_usage"] = [usage[task] for task in tasks]
    if accuracies := summary.get("task_accuracies"):
        left = range(len(accuracies), len(tasks) + 1)
        found["task_accuracies"] = rows = [*accuracies, *([None] * len(tasks) for _ in left)]
        count = summary["test_count"] / len(tasks)
        found["task_losses"] = [[smoothed_error(own, count) for own in row] for row in rows]
        if drifts := summary.get("route_drift"):
            found["route_drift"] = [*drifts, *([None] * learnt for learnt in left)]
    return found


def smoothed_error(accuracy: float | None, count: float) -> float | None:
    """Of `count` answers; None where the accuracy is not known."""
    return None if accuracy is None else smoothed(count * (1 - accuracy), count)
