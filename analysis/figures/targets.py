"""The source, the target and what the shift changed, a row a function."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.contours import add_colourbar, draw, grid, levels_around_zero, levels_between
from analysis.load import finished
from analysis.names import function_order, function_title
from qlexp.config import DataConfig, FunctionConfig, ShiftConfig
from qlexp.store import Store
from qlexp.targets import Problem, make_problem

SIDE = 141


def problem_of(config: Mapping[str, Any]) -> Problem:
    """The problem of a stored config."""
    return make_problem(
        FunctionConfig(**config["function"]),
        ShiftConfig(**config["shift"]),
        DataConfig(**config["data"]),
        config["seed"],
    )


def problems_of(store: Store, frame: pd.DataFrame) -> dict[str, Problem]:
    """By function, the problem of the first seed that any method has finished."""
    firsts = finished(frame).sort_values("seed", kind="stable").drop_duplicates("function")
    stored = [store.summary(identity) for identity in firsts["run_id"]]
    return {s["function"]: problem_of(s["config"]) for s in stored if s is not None}


def targets_figure(problems: Mapping[str, Problem]) -> Figure:
    """Clean source, target and difference of every function, on the standardised scale."""
    points = grid(SIDE)
    figure = Figure(figsize=(7.2, 2.15 * len(problems)), layout="constrained")
    axes = figure.subplots(len(problems), 3, squeeze=False)
    functions = sorted(problems, key=function_order)
    for row, function in zip(axes, functions, strict=True):
        source = problems[function].source(points)
        target = problems[function].target(points)
        low = float(min(source.min(), target.min()))
        high = float(max(source.max(), target.max()))
        shared = levels_between(low, high)
        draw(row[0], source, shared)
        values = draw(row[1], target, shared)
        change = target - source
        changes = draw(row[2], change, levels_around_zero([change]), diverging=True)
        row[0].set_title(f"{function_title(function)}: source")
        row[1].set_title("target")
        row[2].set_title("target − source")
        add_colourbar(values, list(row[:2]), "value (standardised)")
        add_colourbar(changes, [row[2]], "change (standardised)")
    return figure
