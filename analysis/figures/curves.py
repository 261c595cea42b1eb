"""Training loss over the updates of the adaptation, a panel a function."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.cells import variants
from analysis.load import finished
from analysis.names import function_order, function_title, method_order, row_label
from analysis.style import dashes, method_colour
from qlexp.errors import UsageError
from qlexp.store import Store, read_curves

COLUMNS = 3


def curves_figure(store: Store, frame: pd.DataFrame) -> Figure:
    """Mean over seeds and the range between them; `frame` holds the cells of one budget.

    A line ends where one of its seeds meets a value that is not finite; runs that diverged or are
    not there are counted in the panel's corner.

    Raises:
        UsageError: the curves of a run are not readable.
    """
    frame = frame.assign(variant=variants(frame))
    functions = sorted(frame["function"].unique(), key=function_order)
    columns = min(COLUMNS, len(functions))
    rows = math.ceil(len(functions) / columns)
    size = (3.0 * columns + 0.4, 2.3 * rows + 0.7) if len(functions) > 1 else (5.0, 3.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    rows_in_order = _rows_in_order(frame)
    for axis, function in zip(axes, functions, strict=False):
        _draw_panel(axis, store, frame[frame["function"] == function], rows_in_order)
        axis.set_title(function_title(function))
    for axis in axes[: len(functions) : columns]:
        axis.set_ylabel("training loss (MSE, standardised)")
    for axis in axes[max(len(functions) - columns, 0) : len(functions)]:
        axis.set_xlabel("update")
    for axis in axes[len(functions) :]:
        axis.remove()
    handles = [_line(row, **_look(row, rows_in_order)) for row in rows_in_order]
    noise = sorted(_noise_variances(frame))
    if noise:
        handles.append(Line2D([], [], **_NOISE_LINE, label="variance of the noise"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))
    return figure


_NOISE_LINE: dict[str, Any] = {"color": "#b0b0b0", "linewidth": 0.8, "linestyle": (0, (1, 2))}
_RowName = tuple[str, str]  # method, variant


def _rows_in_order(frame: pd.DataFrame) -> list[_RowName]:
    names = set(zip(frame["method"], frame["variant"], strict=True))
    return sorted(names, key=lambda name: (method_order(name[0]), name[1]))


def _look(row: _RowName, rows: Sequence[_RowName]) -> dict[str, Any]:
    """Colour by method, dashes by variant."""
    siblings = [other for other in rows if other[0] == row[0]]
    pattern = dashes(row[0], siblings.index(row))
    return {
        "color": method_colour(row[0]),
        "linestyle": (0, pattern) if pattern else "solid",
    }


def _line(row: _RowName, **look: Any) -> Line2D:
    return Line2D([], [], label=row_label(*row), **look)


def _noise_variances(frame: pd.DataFrame) -> set[float]:
    name = "config.data.noise"
    return {float(noise) ** 2 for noise in frame[name].dropna()} if name in frame else set()


def _draw_panel(axis: Axes, store: Store, cells: pd.DataFrame, rows: Sequence[_RowName]) -> None:
    axis.set_yscale("log")
    remarks = []
    for row in rows:
        own = cells[(cells["method"] == row[0]) & (cells["variant"] == row[1])]
        if own.empty:
            continue
        look = _look(row, rows)
        losses = _losses(store, finished(own))
        if not losses.empty:
            mean = losses.mean(axis=1, skipna=False)
            axis.plot(mean.index, mean, **look)
            low, high = losses.min(axis=1), losses.max(axis=1)
            axis.fill_between(
                losses.index, low, high, where=mean.notna(), color=look["color"], alpha=0.18, lw=0
            )
        for final in _untrained(own):
            axis.axhline(final, **look)
        counts = own["status"].value_counts()
        remarks += [
            f"{row_label(*row)}: {counts[status]}/{len(own)} {status}"
            for status in ("diverged", "failed", "missing")
            if status in counts
        ]
    shown = axis.get_ylim()
    for variance in _noise_variances(cells):
        axis.axhline(variance, **_NOISE_LINE)
    axis.set_ylim(shown)  # the noise is not worth decades of empty panel
    axis.text(
        0.98, 0.97, "\n".join(remarks), transform=axis.transAxes, ha="right", va="top", fontsize=6
    )


def _losses(store: Store, runs: pd.DataFrame) -> pd.DataFrame:
    """Training loss by update, a column a seed; NaN from where it is not finite. Empty for none."""
    columns = {}
    for identity, seed in zip(runs["run_id"], runs["seed"], strict=True):
        try:
            curve = read_curves(store.run_folder(identity))
            loss = pd.Series(curve["loss"].to_numpy(float), index=curve["step"].to_numpy())
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(
                f"The curves of run {identity} are not readable ({error}): delete "
                f"{store.run_folder(identity)} and run the study again."
            ) from error
        if len(loss):
            columns[seed] = loss.replace([np.inf, -np.inf], np.nan)
    return pd.DataFrame(columns).sort_index()


def _untrained(cells: pd.DataFrame) -> list[float]:
    """The mean loss of a method that makes no update, as a list of none or one."""
    losses = cells.loc[(cells["status"] == "done") & (cells["steps"] == 0), "post_train_loss"]
    return [float(losses.mean())] if len(losses) else []
