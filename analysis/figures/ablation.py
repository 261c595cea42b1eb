"""Loss and paired ratio against a swept setting, a column of panels a function."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

from analysis.figures.rows import cells_of, line_of, look_of, rows_of
from analysis.names import function_order, function_title, row_label
from analysis.overrides import joined, number_in


def ablation_figure(
    points: pd.DataFrame, axis: str, axes: dict[str, list[str]], loss: str, ratio: str
) -> Figure:
    """`points` as `analysis.ablation.estimates` gives them; other axes become lines of their own.

    A point that is inf leaves a gap in its line, a cross at the panel's upper edge and a count in
    its corner; missing and failed seeds are counted there too.
    """
    points = points.assign(variant=_line_names(points, axis, axes))
    functions = sorted(points["function"].unique(), key=function_order)
    names = rows_of(points)
    size = (2.6 * len(functions) + 0.6, 5.2)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(2, len(functions), squeeze=False, sharex=True)
    for column, function in enumerate(functions):
        part = points[points["function"] == function]
        for row, kind in enumerate(("geometric_mean", "ratio")):
            panel = panels[row, column]
            place = _x_axis(panel, axes[axis])
            for name in names:
                own, look = cells_of(part, name), look_of(name, names)
                _draw(panel, own, axis, axes[axis], kind, place, look)
            panel.set_yscale("log")
            if kind == "ratio":  # near 1, where powers of ten are poor ticks
                panel.yaxis.set(
                    major_locator=MaxNLocator(5),
                    major_formatter=ScalarFormatter(),
                    minor_locator=NullLocator(),
                )
        panels[0, column].set_title(function_title(function))
        panels[1, column].axhline(1.0, color="#b0b0b0", linewidth=0.8, zorder=0)
        panels[1, column].set_xlabel(axis)
        _count(panels[0, column], part, axis)
    panels[0, 0].set_ylabel(f"{loss.replace('_', ' ')} (MSE{_unit(loss)})")
    panels[1, 0].set_ylabel(ratio)
    handles = [line_of(name, names) for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))
    return figure


def _unit(loss: str) -> str:
    return ", raw" if loss.endswith("_raw") else ", standardised"


def _line_names(points: pd.DataFrame, axis: str, axes: dict[str, list[str]]) -> list[str]:
    """What tells a line from others of its method: budget, other overrides, other axes."""
    several = points["budget"].nunique() > 1
    others = [name for name in axes if name != axis]
    names = []
    for point in points.to_dict("records"):
        words = [point["budget"]] * several + [point["variant"]] * bool(point["variant"])
        rest = joined({name: point[name] for name in others if point[name]})
        names.append("; ".join([*words, *([rest] if rest else [])]))
    return names


def is_geometric(values: Sequence[float]) -> bool:
    """Whether the positive ones among ascending values are spaced more evenly by factor than by
    difference; at least three are needed to tell."""
    positive = np.array([value for value in values if value > 0])
    if len(positive) < 3 or min(values) < 0:
        return False
    steps, factors = np.diff(positive), np.diff(np.log(positive))
    return bool(factors.std() / factors.mean() < steps.std() / steps.mean())


def _x_axis(panel: Axes, values: Sequence[str]) -> dict[str, float]:
    """Scales the x axis to the setting's values; where each of them lies."""
    numbers = [number_in(value) for value in values]
    known = [number for number in numbers if number is not None]
    place = dict(zip(values, map(float, range(len(values))), strict=True))  # a categorical axis
    if len(known) == len(values):
        place = dict(zip(values, known, strict=True))
        if is_geometric(known) and min(known) > 0:
            panel.set_xscale("log")
        elif is_geometric(known):
            smallest = min(number for number in known if number > 0)
            panel.set_xscale("symlog", linthresh=smallest, linscale=0.5)
    else:
        panel.set_xlim(-0.5, len(values) - 0.5)
    panel.set_xticks(list(place.values()), list(place))
    panel.xaxis.set_minor_locator(NullLocator())
    return place


def _draw(
    panel: Axes,
    own: pd.DataFrame,
    axis: str,
    values: Sequence[str],
    kind: str,
    place: dict[str, float],
    look: dict[str, Any],
) -> None:
    low, high = ("low", "high") if kind == "geometric_mean" else ("ratio_low", "ratio_high")
    level = own[own[axis] == ""]  # the method does not have this setting
    for point in level.to_dict("records"):
        if np.isfinite(point[kind]):
            panel.axhline(point[kind], **look)
            if np.isfinite(point[low]):
                panel.axhspan(point[low], point[high], color=look["color"], alpha=0.12, lw=0)
    by_value = own[own[axis] != ""].set_index(axis).reindex([v for v in values if v in place])
    if by_value[kind].isna().all():
        return
    x = np.array([place[value] for value in by_value.index])
    y = by_value[kind].to_numpy(float)
    shown = np.where(np.isfinite(y), y, np.nan)
    spread = np.stack([shown - by_value[low].to_numpy(float), by_value[high] - shown])
    bars = panel.errorbar(x, shown, spread, marker="o", markersize=3, capsize=2, **look)
    if any(number_in(value) is None for value in values):
        bars.lines[0].set_linestyle("none")
    lost = np.isposinf(y)
    if lost.any():
        top = panel.get_xaxis_transform()
        panel.plot(
            x[lost],
            np.ones(lost.sum()),
            color=look["color"],
            marker="x",
            linestyle="none",
            transform=top,
            clip_on=False,
        )


def _count(panel: Axes, part: pd.DataFrame, axis: str) -> None:
    """Names the points of a panel that lack seeds."""
    remarks = []
    for point in part.to_dict("records"):
        where = f"{row_label(point['method'], point['variant'])} at {point[axis] or 'any value'}"
        seeds = point["seeds"] + point["missing"] + point["failed"]
        for status in ("infinite", "missing", "failed"):
            if point[status]:
                word = "diverged" if status == "infinite" else status
                remarks.append(f"{where}: {point[status]}/{seeds} {word}")
    text = "\n".join(remarks)
    panel.text(0.98, 0.97, text, transform=panel.transAxes, ha="right", va="top", fontsize=6)
