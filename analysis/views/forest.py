"""Each method's test loss without noise over LoRA's on the same function and seed.

    forest_<budget>.svg    a row a method, over all functions: below 1 is better than LoRA; small
                           points: the functions one by one
    forest.csv             the same ratios and intervals, over all functions and on each

Geometric means over seeds, then over functions, with Welch's 95 % interval for new seeds on the
same functions; functions that full fine-tuning could not learn are left out. In a block without
LoRA the loss stands over the frozen backbone's. What is in doubt stands under the plot.
"""

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.cells import by_budget, cells_of
from analysis.doubts import doubts
from analysis.figures.layout import wrapped
from analysis.figures.rows import labels_of
from analysis.figures.ticks import log_ticks
from analysis.legend import OFF_BUDGET, STYLE
from analysis.load import finished
from analysis.names import ALL, budget_title
from analysis.render.output import Picture
from analysis.render.style import method_colour
from analysis.settings import require_one
from analysis.stats.pairs import BASELINE
from analysis.stats.ratios import ratios
from analysis.study import Study
from analysis.text import interval_text
from analysis.view import Shown
from qlexp.errors import UsageError

_WIDTH = 7.2  # inches
_ROW_HEIGHT = 0.25
_FARTHEST = 2.5  # the ratio up to which an axis goes for an interval
_SMALL = 6.5  # points


def show(study: Study, options: Namespace | None = None) -> Shown:
    """The ratios of a study, and a plot a budget.

    Raises:
        UsageError: the study has several conditions, or no method to hold against another.
    """
    require_one(study.frame, study.name)
    frame, _ = study.kept
    table = ratios(frame)
    if table.empty:
        raise UsageError(
            f"Study '{study.name}' has no finished run to hold against LoRA's on a function that "
            "can be learnt: a forest plot wants one."
        )
    return Shown(frames={"forest": table}, pictures=_pictures(table, frame))


def _pictures(table: pd.DataFrame, frame: pd.DataFrame) -> Iterator[Picture]:
    """To be drawn one by one, under `figure_style`."""
    for budget, block in by_budget(table):
        methods = {*block["method"], BASELINE}
        known = frame["function"].isin(block["function"]) & frame["method"].isin(methods)
        remarks = doubts(finished(frame[known & (frame["budget"] == budget)]))
        caption = (
            f"Test loss without noise over {_over(block)} with 95 % intervals, mean over "
            f"functions; small points: each function. {budget_title(budget)}."
        )
        yield Picture(f"forest_{budget}", caption, forest_figure(block, budget, remarks))


def _over(block: pd.DataFrame) -> str:
    return "LoRA's" if (block["baseline"] == BASELINE).all() else "the frozen backbone's"


def forest_figure(block: pd.DataFrame, budget: str, remarks: list[str]) -> Figure:
    """The plot of one block of `ratios`, the lowest ratio on top, the references below a gap."""
    means = block[block["function"] == ALL].sort_values(["is_reference", "ratio"], kind="stable")
    heights = np.arange(len(means)) + 0.6 * means["is_reference"].to_numpy()
    rows = list(zip(means["method"], means["variant"], strict=True))
    names = [
        labels_of(rows)[row] + STYLE * reading + OFF_BUDGET * off
        for row, reading, off in zip(rows, means["reading"], means["off_budget"], strict=True)
    ]
    lines = [line for remark in remarks for line in wrapped(remark, _WIDTH, _SMALL).split("\n")]
    size = (_WIDTH, 1.0 + 0.11 * len(lines) + _ROW_HEIGHT * (heights[-1] + 1))
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    _set_axes(axis, block, heights, names)
    for row, height, mean in zip(rows, heights, means.to_dict("records"), strict=True):
        own = cells_of(block, row)
        _draw_row(axis, height, mean, own.loc[own["function"] != ALL, "ratio"].to_numpy(float))
    _note(axis, -0.95, "ratio [95 % interval]")
    count = int(means["functions"].max())
    axis.set_title(f"{budget_title(budget)}; {count} function{'s' * (count > 1)}", loc="left")
    axis.set_xlabel(f"test loss without noise over {_over(block)}: below 1 is better")
    if lines:
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=_SMALL)
    return figure


def _set_axes(axis: Axes, block: pd.DataFrame, heights: np.ndarray, names: list[str]) -> None:
    """Room for every interval within a factor of `_FARTHEST`, and for what stands beside it."""
    means = block.loc[block["function"] == ALL, ["ratio", "low", "high"]].to_numpy(float)
    means = np.clip(means, 1 / _FARTHEST, _FARTHEST)
    near = np.clip(block["ratio"], 0.8 * np.nanmin(means), 1.25 * np.nanmax(means))
    seen = [0.9, *means.ravel(), *near, 1.1]
    axis.set_xscale("log")
    axis.set_xlim(0.96 * np.nanmin(seen), 1.04 * np.nanmax(seen))
    log_ticks(axis.xaxis)
    axis.axvline(1.0, color="#b0b0b0", linewidth=0.8, zorder=0)
    axis.hlines(heights, *axis.get_xlim(), color="#b0b0b0", alpha=0.3, linewidth=0.5, zorder=0)
    axis.set_yticks(heights, names)
    axis.set_ylim(heights[-1] + 0.6, -0.6)
    axis.tick_params(axis="y", length=0, pad=7)
    axis.spines["left"].set_visible(False)


def _draw_row(axis: Axes, height: float, mean: dict, ratios: np.ndarray) -> None:
    """The interval with its numbers on the right, and the functions as small points behind it."""
    ends, colour = np.array([mean["low"], mean["high"]]), method_colour(mean["method"])
    small: dict[str, Any] = {"color": colour, "alpha": 0.45, "markersize": 3.0, "zorder": 1}
    axis.plot(ratios, np.full(len(ratios), height), "o", markeredgewidth=0, **small)
    _draw_beyond(axis, height, ratios, **small)
    axis.plot(np.clip(ends, *axis.get_xlim()), [height, height], color=colour, linewidth=1.8)
    axis.plot([mean["ratio"]], [height], "D", color=colour, markersize=4.0)
    _draw_beyond(axis, height, ends, color=colour, markersize=4.0)
    _note(axis, height, interval_text(mean["ratio"], *ends))


def _draw_beyond(axis: Axes, height: float, values: np.ndarray, **look: Any) -> None:
    """An arrow at each edge of the axis beyond which one of `values` lies."""
    low, high = axis.get_xlim()
    for marker, edge, beyond in (("<", low, values < low), (">", high, values > high)):
        if beyond.any():
            axis.plot([edge], [height], marker, clip_on=False, **look)


def _note(axis: Axes, height: float, text: str) -> None:
    """Right of the axis, at the height of a row."""
    place = axis.get_yaxis_transform()
    axis.text(1.03, height, text, transform=place, va="center", fontsize=_SMALL)
