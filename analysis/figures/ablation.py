"""Loss and paired ratio against a swept setting, a column of panels a function."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analysis.cells import RowName, cells_of, rows_of
from analysis.figures.contours import Array
from analysis.figures.layout import add_legend, add_remarks, text_width, wrapped
from analysis.figures.rows import labels_of, line_of, look_of
from analysis.figures.ticks import log_ticks
from analysis.names import ALL, function_title, loss_title
from analysis.rows import in_order
from analysis.settings import joined, number_in
from analysis.stats.estimates import Sweep

Shifts = dict[RowName, float]  # of a row's line, along the axis

_PANEL_WIDTH = 2.1  # inches
_PANEL_HEIGHT = 2.0
_LINE = 0.16  # of text
_MARKER_SIZE = 4.5  # points
_LIMITS = {"geometric_mean": ("low", "high"), "ratio": ("ratio_low", "ratio_high")}
_DODGE = 0.6  # of the distance of two categories, over which the lines are spread


def ablation_figure(points: pd.DataFrame, axis: str, axes: Sweep, loss: str, ratio: str) -> Figure:
    """`points` as `analysis.stats.estimates` has them; other axes become lines of their own.

    The last column has the ratio over all functions alone. A point that is inf leaves a gap in its
    line, a cross at the panel's upper edge and a count in its corner; missing and failed seeds are
    counted there too.
    """
    points = points.assign(variant=_line_names(points, axis, axes))
    functions = in_order(points["function"])
    functions += [ALL] * (ALL in set(points["function"]))
    names = rows_of(points)
    shifts = _shifts(points, axis, axes[axis])
    figure = Figure(figsize=(2.6 * len(functions) + 0.6, 5.2), layout="constrained")
    panels = figure.subplots(2, len(functions), squeeze=False, sharex=True)
    for (upper, lower), function in zip(panels.T, functions, strict=True):
        part = points[points["function"] == function]
        _draw_panel(lower, part, axis, axes[axis], "ratio", shifts)
        lower.axhline(1.0, color="#b0b0b0", linewidth=0.8, zorder=0)
        lower.set_xlabel(axis)
        if function == ALL:
            upper.remove()
            lower.set_title("all functions")
            continue
        _draw_panel(upper, part, axis, axes[axis], "geometric_mean", shifts)
        upper.set_title(function_title(function))
        add_remarks(upper, _remarks(part, axis, names), _PANEL_WIDTH)
    unit = "raw" if loss.endswith("_raw") else "standardised"
    panels[0, 0].set_ylabel(f"{loss_title(loss)} (MSE, {unit})")
    panels[1, 0].set_ylabel(wrapped(ratio, _PANEL_HEIGHT))
    handles = [line_of(name, names) for name in names]
    for name, handle in zip(names, handles, strict=True):
        if is_categorical(axes[axis]) and _has_setting(points, name, axis):
            handle.set_linestyle("none")
    add_legend(figure, handles)
    return figure


def _draw_panel(
    panel: Axes, part: pd.DataFrame, axis: str, values: Sequence[str], kind: str, shifts: Shifts
) -> None:
    """Every row's points of one function, shifted by `shifts` along the axis."""
    place = _x_axis(panel, values)
    for name, shift in shifts.items():
        look = look_of(name, list(shifts)) | {"markevery": None, "markersize": _MARKER_SIZE}
        own = cells_of(part, name)
        _draw_level(panel, own[own[axis] == ""], kind, look)
        by_value = own[own[axis] != ""].set_index(axis).reindex(list(place))
        if by_value[kind].notna().any():
            bars = _draw_points(panel, by_value, kind, np.array(list(place.values())) + shift, look)
            if is_categorical(values):
                bars.lines[0].set_linestyle("none")
    panel.set_yscale("log")
    log_ticks(panel.yaxis)


def _line_names(points: pd.DataFrame, axis: str, axes: Sweep) -> list[str]:
    """What tells a line from others of its method: budget, other overrides, other axes."""
    several = points["budget"].nunique() > 1
    others = [name for name in axes if name != axis]
    return [
        "; ".join(filter(None, [point["budget"] * several, point["variant"], joined(rest)]))
        for point in points.to_dict("records")
        for rest in [{name: point[name] for name in others if point[name]}]
    ]


def is_geometric(values: Sequence[float]) -> bool:
    """Whether the positive ones among ascending values are spaced more evenly by factor than by
    difference; at least three are needed to tell."""
    positive = np.array([value for value in values if value > 0])
    if len(positive) < 3 or min(values) < 0:
        return False
    steps, factors = np.diff(positive), np.diff(np.log(positive))
    return bool(factors.std() / factors.mean() < steps.std() / steps.mean())


def is_categorical(values: Sequence[str]) -> bool:
    """Whether a value of the setting is no number."""
    return any(number_in(value) is None for value in values)


def _x_axis(panel: Axes, values: Sequence[str]) -> dict[str, float]:
    """Scales the x axis to the setting's values; where each of them lies."""
    known = [number for value in values if (number := number_in(value)) is not None]
    if is_categorical(values):
        place = dict(zip(values, map(float, range(len(values))), strict=True))
        panel.set_xlim(-0.5, len(values) - 0.5)
    else:
        place = dict(zip(values, known, strict=True))
        if is_geometric(known) and min(known) > 0:
            panel.set_xscale("log")
        elif is_geometric(known):
            smallest = min(number for number in known if number > 0)
            panel.set_xscale("symlog", linthresh=smallest, linscale=0.5)
    panel.xaxis.set_minor_locator(NullLocator())
    inches = _inches(panel, place)
    widths = np.array([text_width(value) for value in place])
    upright = not (np.diff(inches) > (widths[1:] + widths[:-1]) / 2 + 0.06).all()
    panel.set_xticks(list(place.values()), _apart(list(place), inches) if upright else list(place))
    panel.tick_params("x", rotation=90 * upright)
    return place


def _inches(panel: Axes, place: dict[str, float]) -> Array:
    """Where the values will lie in the panel, from an arbitrary origin."""
    scaled = panel.transScale.transform([(x, 1.0) for x in place.values()])[:, 0]
    whole = len(place) if is_categorical(list(place)) else 1.1 * np.ptp(scaled)
    inches: Array = scaled / whole * _PANEL_WIDTH if whole else scaled
    return inches


def _apart(values: Sequence[str], inches: Array) -> list[str]:
    """The values as upright labels, without those that would meet the one before."""
    labels, last = [], -np.inf
    for value, place in zip(values, inches, strict=True):
        free = place - last > _LINE
        labels.append(value if free else "")
        last = place if free else last
    return labels


def _shifts(points: pd.DataFrame, axis: str, values: Sequence[str]) -> Shifts:
    """How far each line stands from a value's place: 0 unless the axis is categorical."""
    names = rows_of(points)
    lines = [name for name in names if _has_setting(points, name, axis)]
    apart = {name: _DODGE * ((i + 0.5) / len(lines) - 0.5) for i, name in enumerate(lines)}
    return dict.fromkeys(names, 0.0) | (apart if is_categorical(values) else {})


def _has_setting(points: pd.DataFrame, name: RowName, axis: str) -> bool:
    return bool((cells_of(points, name)[axis] != "").any())


def _draw_level(panel: Axes, own: pd.DataFrame, kind: str, look: dict[str, Any]) -> None:
    """A line across the panel for a method that does not have the setting."""
    for value, low, high in own[[kind, *_LIMITS[kind]]].to_numpy(float):
        if np.isfinite(value):
            panel.axhline(value, **look)
            if np.isfinite(low):
                panel.axhspan(low, high, color=look["color"], alpha=0.12, lw=0)


def _draw_points(
    panel: Axes, own: pd.DataFrame, kind: str, x: Array, look: dict[str, Any]
) -> ErrorbarContainer:
    """A point and an interval at each of `x`, joined by a line."""
    y, low, high = own[[kind, *_LIMITS[kind]]].to_numpy(float).T
    shown = np.where(np.isfinite(y), y, np.nan)
    bars = panel.errorbar(x, shown, np.stack([shown - low, high - shown]), capsize=2, **look)
    lost = np.isposinf(y)
    edge: dict[str, Any] = {"transform": panel.get_xaxis_transform(), "clip_on": False}
    if lost.any():
        panel.plot(x[lost], np.ones(lost.sum()), "x", color=look["color"], **edge)
    return bars


def _remarks(part: pd.DataFrame, axis: str, names: Sequence[RowName]) -> list[str]:
    """Names the points of a panel that lack seeds."""
    labels = labels_of(names)
    words = {"infinite": "diverged", "missing": "missing", "failed": "failed"}
    return [
        f"{labels[point['method'], point['variant']]} at {point[axis] or 'any value'}: "
        f"{point[status]}/{point['runs'] + point['missing'] + point['failed']} {word}"
        for point in part.to_dict("records")
        for status, word in words.items()
        if point[status]
    ]
