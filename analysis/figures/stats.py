"""Figures of the statistics of one block: rows in the order and the colours of all figures."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from analysis.cells import cells_of, rows_of
from analysis.figures.rows import labels_of, line_of, look_of
from analysis.figures.ticks import log_ticks
from analysis.names import FROZEN
from analysis.render.style import extra_width, method_colour
from analysis.stats.pairs import BASELINE
from analysis.stats.ranks import cliques

_ROW_HEIGHT = 0.24  # inches
_WITH_BAND = (BASELINE, "queryable", "instruction_queryable")  # in a profile


def iqm_figure(table: pd.DataFrame) -> Figure:
    """Interquartile means with their intervals; `table` holds one block of `aggregates.iqm`."""
    baseline = "LoRA's" if table["baseline"].iloc[0] == BASELINE else f"the {FROZEN} backbone's"
    figure, axis = _rows_figure(table)
    axis.set_xscale("log")
    _draw_intervals(axis, table, np.exp(table[["iqm", "low", "high"]].to_numpy(float)))
    log_ticks(axis.xaxis)
    axis.axvline(1.0, color="#b0b0b0", linewidth=0.8, zorder=0)
    axis.set_xlabel(f"loss over {baseline} (interquartile mean, 95 % interval)")
    return figure


def improvement_figure(table: pd.DataFrame) -> Figure:
    """P(row < LoRA); `table` holds one block of `analysis.views.stats.summary`."""
    figure, axis = _rows_figure(table)
    ends = ["improvement", "improvement_low", "improvement_high"]
    _draw_intervals(axis, table, table[ends].to_numpy(float))
    axis.axvline(0.5, color="#b0b0b0", linewidth=0.8, zorder=0)
    axis.set_xlim(-0.03, 1.03)
    axis.set_xlabel("probability of a lower loss than LoRA (95 % interval)")
    return figure


def profile_figure(table: pd.DataFrame) -> Figure:
    """Performance profiles; `table` holds one block of `aggregates.profiles`.

    Only LoRA and the queryable adapters have a band: those of all rows would hide each other.
    """
    rows = rows_of(table)
    banded = [row for row in rows if row[0] in _WITH_BAND]
    labels = list(labels_of(rows).values())
    size = (6.5 + extra_width(labels), max(3.4, 0.9 + 0.17 * len(rows)))
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    for row in rows:
        own, look = cells_of(table, row), look_of(row, rows)
        factors = own["factor"]
        width = 1.6 if row in banded else 0.9
        axis.plot(factors, own["share"], drawstyle="steps-post", linewidth=width, **look)
        if row in banded:
            band: dict[str, Any] = {"step": "post", "color": look["color"], "alpha": 0.15, "lw": 0}
            axis.fill_between(factors, own["low"], own["high"], **band)
    axis.set_xlim(table["factor"].min(), table["factor"].max())
    axis.set_ylim(-0.02, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_xlabel("loss over the cell's lowest loss (factor)")
    axis.set_ylabel("share of (function, seed) cells within it")
    some = "" if len(banded) == len(rows) else "bands: LoRA and the\nqueryable adapters only"
    handles = [line_of(row, rows) for row in rows]
    figure.legend(handles=handles, loc="outside right upper", title=some, title_fontsize="small")
    return figure


def ranks_figure(table: pd.DataFrame) -> Figure:
    """Demšar's diagram; `table` holds one block of `ranks.average_ranks`.

    A bar joins rows that the critical difference does not tell apart.
    """
    table = table.sort_values("rank", kind="stable")
    ranks, difference = table["rank"].tolist(), table["critical_difference"].iloc[0]
    bars = [] if math.isnan(difference) else cliques(ranks, difference)
    depth = math.ceil(len(ranks) / 2)
    width = 6.4 + 2 * extra_width(_labels(table))
    height = 0.9 + _ROW_HEIGHT * (depth + 0.6 * len(bars))
    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.spines["top"].set_visible(True)
    axis.xaxis.set_ticks_position("top")
    axis.xaxis.set_label_position("top")
    axis.xaxis.set_major_locator(MultipleLocator(1.0))
    axis.set_yticks([])
    axis.set_xlim(0.8, len(ranks) + 0.2)
    functions = f"{table['ranked_functions'].iloc[0]:.0f} functions"
    known = "" if math.isnan(difference) else f"; critical difference {difference:.2f}"
    axis.set_xlabel(f"average rank over {functions} (1 is the lowest loss){known}")
    bottom = _draw_bars(axis, ranks, bars)
    _draw_ranks(axis, table, ranks, bottom)
    axis.set_ylim(bottom - depth - 0.3, 0.0)
    return figure


def _draw_bars(axis: Axes, ranks: Sequence[float], bars: Sequence[tuple[int, int]]) -> float:
    """Draws the cliques below the axis; returns the height below them."""
    look: dict[str, Any] = {"color": "#404040", "linewidth": 3.0, "solid_capstyle": "butt"}
    for i, (first, last) in enumerate(bars):
        axis.plot([ranks[first] - 0.04, ranks[last] + 0.04], [-0.5 - 0.6 * i] * 2, **look)
    return -0.4 - 0.6 * len(bars)


def _draw_ranks(axis: Axes, table: pd.DataFrame, ranks: Sequence[float], bottom: float) -> None:
    """Leads the better half of the rows to labels on the left, the others to the right."""
    left, right = axis.get_xlim()
    half = math.ceil(len(ranks) / 2)
    for i, (method, label, rank) in enumerate(
        zip(table["method"], _labels(table), ranks, strict=True)
    ):
        on_left = i < half
        height = bottom - 0.5 - (i if on_left else len(ranks) - 1 - i)
        edge = left if on_left else right
        axis.plot([rank, rank, edge], [0, height, height], color=method_colour(method), lw=1.0)
        axis.annotate(
            f"{label} {rank:.2f}",
            (edge, height),
            xytext=(-3 if on_left else 3, 0),
            textcoords="offset points",
            ha="right" if on_left else "left",
            va="center",
            annotation_clip=False,
        )


def _rows_figure(table: pd.DataFrame) -> tuple[Figure, Axes]:
    """A figure with one labelled row a row of `table`, the first on top."""
    labels = _labels(table)
    size = (5.0 + extra_width(labels), 0.7 + _ROW_HEIGHT * len(table))
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.set_ylabel("method")
    return figure, axis


def _labels(table: pd.DataFrame) -> list[str]:
    rows = list(zip(table["method"], table["variant"], strict=True))
    labels = labels_of(rows)
    return [labels[row] for row in rows]


def _draw_intervals(axis: Axes, table: pd.DataFrame, limits: np.ndarray) -> None:
    """A point and a bar a row; a value that the axis cannot show stands as text at its edge."""
    ratios = axis.get_xscale() == "log"
    for i, (method, (value, low, high)) in enumerate(zip(table["method"], limits, strict=True)):
        colour = method_colour(method)
        if not math.isfinite(value) or (ratios and value == 0):
            place, side = (0.01, "left") if value == 0 else (0.99, "right")
            axis.text(place, i, f"{value:g}", transform=axis.get_yaxis_transform(), ha=side)
            continue
        axis.plot([value], [i], "o", color=colour, markersize=4.5)
        if math.isfinite(low) and math.isfinite(high):
            axis.plot([low, high], [i, i], color=colour, linewidth=1.8)
        elif low <= value <= high:  # an interval without end
            axis.text(value, i - 0.15, "  95 %: to inf", fontsize=6, color=colour)
