"""What targets in sequence allow, whatever the method.

The tasks share their inputs and differ in their outputs. An adapter that is not told the task has
one output at a point, and keeps an earlier task only where the later ones agree with it. Two
learners without limits say how far that goes. Their losses are those of the clean targets t_i, each
at the test points of its own task, with the variance of the noise added as in a test loss.
"""

import json
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qlexp.config.schema import DataConfig, FunctionConfig, ShiftConfig
from qlexp.problem.targets import Problem, make_problem
from qlexp.store.store import Store

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """Losses of the two learners over T tasks.

    Attributes:
        latest: of one that fits the latest task exactly and no other, and starts as the source:
            L[j, i] = mean_x (t_i - t_j)^2 + noise^2, (T + 1, T).
        unknown: of the best function that does not know the task:
            mean_i mean_x (t_i - mean_j t_j)^2 + noise^2.
    """

    latest: Array
    unknown: float


def problem_key(store: Store, identity: str) -> str:
    """What decides the targets and samples of a stored run, as JSON."""
    summary = store.summary(identity)
    assert summary is not None
    parts = {name: summary["config"][name] for name in ("function", "shift", "data")}
    return json.dumps({**parts, "seed": summary["seed"]}, sort_keys=True)


def limits_of(problems: pd.Series) -> list[Limits]:
    """Of each problem that occurs, by its `problem_key`; None is no problem."""
    return [_limits_of(problem) for problem in problems.dropna().unique()]


@lru_cache(maxsize=256)
def _limits_of(problem: str) -> Limits:
    parts = json.loads(problem)
    data = DataConfig(**parts["data"])
    function, shift = FunctionConfig(**parts["function"]), ShiftConfig(**parts["shift"])
    return limits(make_problem(function, shift, data, parts["seed"]), data.noise)


def limits(problem: Problem, noise: float) -> Limits:
    """The limits of targets in sequence."""
    test, tasks = problem.test, len(problem.test.shifts)
    latest, unknown = np.empty((tasks + 1, tasks)), np.empty(tasks)
    for task in range(tasks):
        x = test.x[test.target == task]
        targets = np.stack([problem.target(x, turn) for turn in range(tasks)])
        learnt = np.stack([problem.source(x), *targets])  # (T + 1, n)
        latest[:, task] = np.square(targets[task] - learnt).mean(1)
        unknown[task] = np.square(targets[task] - targets.mean(0)).mean()
    return Limits(latest + noise**2, float(unknown.mean()) + noise**2)
