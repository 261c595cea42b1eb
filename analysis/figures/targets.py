"""The source, the target and what the shift changed, a row a function."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.contours import draw_change, grid, levels_around_zero, levels_between
from analysis.figures.layout import extra_height, wrapped
from analysis.load import finished
from analysis.names import function_order, function_title
from analysis.settings import joined, swept
from qlexp.adapters.stored import stored_config
from qlexp.problem.targets import Problem, problem_of
from qlexp.store.store import Store

SIDE = 141
_PANEL_WIDTH = 2.0  # inches
_MOVES = ("shift", "data.noise")  # settings that make another problem of a function


@dataclass(frozen=True)
class Drawn:
    """A problem, and which of the shifts and noises that the study sweeps it has, or ""."""

    problem: Problem
    setting: str = ""

    @property
    def title(self) -> str:
        """What stands above the target."""
        lines = filter(None, (target_title(self.problem), self.setting))
        return "\n".join(wrapped(line, _PANEL_WIDTH) for line in lines)


def problems_of(store: Store, frame: pd.DataFrame) -> dict[str, Drawn]:
    """By function, the problem of the first seed that any method has finished.

    Raises:
        UsageError: the run's config is not readable.
    """
    moves = {name for name in swept(frame) if name.startswith(_MOVES)}
    firsts = finished(frame).sort_values("seed", kind="stable").drop_duplicates("function")
    found = {}
    for cell in firsts.itertuples():
        setting = joined({key: value for key, value in cell.settings.items() if key in moves})
        found[cell.function] = Drawn(problem_of(stored_config(store, cell.run_id)), setting)
    return found


def target_title(problem: Problem) -> str:
    """What `Problem.target` is: the one target, or the first of several."""
    count = len(problem.adapt.shifts)
    return "target" if count == 1 else f"first of {count} targets"


def targets_figure(problems: Mapping[str, Drawn]) -> Figure:
    """Clean source, target and difference of every function, on the standardised scale."""
    points = grid(SIDE)
    height = sum(2.15 + extra_height([drawn.title]) for drawn in problems.values())
    figure = Figure(figsize=(7.2, height), layout="constrained")
    rows = figure.subplots(len(problems), 3, squeeze=False)
    for row, function in zip(rows, sorted(problems, key=function_order), strict=True):
        problem = problems[function].problem
        source, target = problem.source(points), problem.target(points)
        both = np.concatenate([source, target])
        levels = levels_between(both.min(), both.max())
        draw_change(row, source, target, levels, levels_around_zero([target - source]), "change")
        row[0].set_title(f"{function_title(function)}: source")
        row[1].set_title(problems[function].title)
        row[2].set_title("target − source")
    return figure
