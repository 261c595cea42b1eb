"""A sequence of tasks in pictures: loss matrices, forgetting, drift of routes, use of atoms.

Every function takes the cells of one budget, as `analysis.paper.continual.with_measures` leaves
them.
"""

import math
from collections.abc import Iterator

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.cells import cells_of, rows_of
from analysis.figures.layout import add_remarks, not_done
from analysis.inputs import Array
from analysis.load import finished
from analysis.names import function_order, function_title, row_label
from analysis.paper.limits import limits_of
from analysis.paper.transfer import forgetting
from analysis.render.style import SEQUENTIAL, extra_width, method_colour
from analysis.stats.intervals import contrast

COLUMNS = 5
NO_VALUE = "#d0d0d0"
_PANEL_WIDTH = 1.4  # inches


def loss_matrices(frame: pd.DataFrame) -> Figure:
    """One function: test loss by task and tasks learnt, a panel a method; mean over seeds.

    A cell is grey where the mean is not finite.
    """
    rows = list(_rows(frame))
    done = {label: finished(cells)["matrix"] for label, _, cells in rows}
    means = {label: np.mean(own.tolist(), axis=0) for label, own in done.items() if len(own)}
    finite = np.concatenate([m[np.isfinite(m) & (m > 0)] for m in means.values()])
    norm = LogNorm(finite.min(), finite.max()) if len(finite) else Normalize(0, 1)
    columns = min(COLUMNS, len(rows))
    lines = math.ceil(len(rows) / columns)
    figure = Figure(figsize=(1.55 * columns + 1.2, 1.85 * lines + 0.4), layout="constrained")
    figure.suptitle(function_title(frame["function"].iloc[0]))
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, (label, _, cells) in zip(axes, rows, strict=False):
        axis.set_title(label, fontsize=7)
        add_remarks(axis, not_done(cells), _PANEL_WIDTH)
        if label not in means:
            axis.set_axis_off()
            continue
        matrix = means[label]
        _heat(axis, matrix, norm)
        axis.set_xticks(range(matrix.shape[1]), _numbers(matrix.shape[1]))
        axis.set_yticks(range(len(matrix)))
    for axis in axes[len(rows) :]:
        axis.remove()
    for axis in axes[: len(rows) : columns]:
        axis.set_ylabel("tasks learnt")
    for axis in axes[max(len(rows) - columns, 0) : len(rows)]:
        axis.set_xlabel("tested on task")
    label = "test loss (MSE, standardised)"
    figure.colorbar(ScalarMappable(norm, SEQUENTIAL), ax=list(axes[: len(rows)]), label=label)
    return figure


def forgetting_bars(frame: pd.DataFrame) -> Figure:
    """Mean forgetting of every method, a panel a function; a dot a seed.

    The line is the 95 % interval of the mean, Student's t over seeds; one seed has none. The dashed
    one is the forgetting of a learner that fits the latest task exactly and no other.
    """
    functions = _functions(frame)
    labels = [label for label, _, _ in _rows(frame)]
    size = (2.1 * len(functions) + 1.4 + extra_width(labels), 0.17 * len(labels) + 1.0)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(functions), squeeze=False, sharey=True)[0]
    for axis, function in zip(axes, functions, strict=True):
        for label, method, cells in _rows(frame[frame["function"] == function]):
            place, values = (
                labels.index(label),
                finished(cells)["sequence.forgetting"].to_numpy(float),
            )
            if not len(values) or not np.isfinite(values).all():
                text = f"{(~np.isfinite(values)).sum()}/{len(values)} inf" if len(values) else "–"
                axis.text(0.02, place, text, transform=axis.get_yaxis_transform(), va="center")
                continue
            axis.barh(place, values.mean(), color=method_colour(method), height=0.7, alpha=0.75)
            mean = contrast([values], [1.0])
            if math.isfinite(mean.low):
                axis.plot([mean.low, mean.high], [place, place], color="black", linewidth=1.0)
            axis.plot(values, [place] * len(values), ".", color="black", markersize=2.5)
        limits = limits_of(frame.loc[frame["function"] == function, "problem"])
        if limits:
            ideal = np.mean([forgetting(own.latest) for own in limits])
            axis.axvline(ideal, color="black", linewidth=0.8, linestyle="--")
        axis.axvline(0, color="black", linewidth=0.6)
        axis.set_title(function_title(function))
        axis.set_xlabel("forgetting (MSE, standardised)")
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].invert_yaxis()
    return figure


def drift_lines(frame: pd.DataFrame) -> Figure:
    """How far each task's routes have moved since it was learnt: methods by functions.

    Mean over seeds, and the range between them.
    """
    figure, panels = _panels(frame, 1.7, 1.5)
    longest = max(len(moved) for moved in frame["moved"].dropna())
    shades = matplotlib.colormaps[SEQUENTIAL](np.linspace(0, 0.9, max(longest - 1, 1)))
    for axis, cells in panels:
        runs = cells.loc[cells["status"] == "done", "moved"].tolist()
        for task in range(len(runs[0]) - 1 if runs else 0):
            values = np.array([[row[task] for row in moved[task:]] for moved in runs])
            learnt = range(task + 1, task + 1 + values.shape[1])
            axis.plot(learnt, values.mean(0), color=shades[task])
            axis.fill_between(
                learnt, values.min(0), values.max(0), color=shades[task], alpha=0.2, lw=0
            )
        axis.set_xticks(range(1, longest + 1))
        _label(axis, "tasks learnt", "route drift\n(total variation)")
    figure.axes[0].set_ylim(bottom=0)  # and with it all others
    handles = [Line2D([], [], color=c, label=f"task {i + 1}") for i, c in enumerate(shades)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def usage_maps(frame: pd.DataFrame) -> Figure:
    """Mean weight of every atom at the end, by task and block, of the first seed that is done.

    Atoms have no order, so that seeds cannot be averaged.
    """
    figure, panels = _panels(frame, 2.2, 1.0)
    done = frame.loc[frame["status"] == "done", "usage"]
    norm, axes = Normalize(0, max((usage.max() for usage in done), default=1.0)), []
    for axis, cells in panels:
        axes.append(axis)
        runs = cells[cells["status"] == "done"].sort_values("seed", kind="stable")
        if runs.empty:
            continue
        usage = runs["usage"].iloc[0]  # (T, N_b, K)
        tasks, blocks, atoms = usage.shape
        _heat(axis, usage.reshape(tasks, -1), norm)
        for block in range(1, blocks):
            axis.axvline(block * atoms - 0.5, color="white", linewidth=0.8)
        axis.set_xticks([(b + 0.5) * atoms - 0.5 for b in range(blocks)], _numbers(blocks))
        axis.set_yticks(range(tasks), _numbers(tasks))
        _label(axis, "block (its atoms side by side)", "task")
    figure.colorbar(ScalarMappable(norm, SEQUENTIAL), ax=axes, label="mean weight")
    return figure


def _panels(
    frame: pd.DataFrame, width: float, height: float
) -> tuple[Figure, Iterator[tuple[Axes, pd.DataFrame]]]:
    """A figure of methods by functions; each panel has its title, its remark and its cells."""
    functions, rows = _functions(frame), list(_rows(frame))
    size = (width * len(functions) + 1.2, height * len(rows) + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), len(functions), squeeze=False, sharex=True, sharey=True)

    def filled() -> Iterator[tuple[Axes, pd.DataFrame]]:
        for line, (label, _, cells) in zip(axes, rows, strict=True):
            for axis, function in zip(line, functions, strict=True):
                own = cells[cells["function"] == function]
                axis.set_title(f"{function_title(function)}: {label}", fontsize=7)
                add_remarks(axis, not_done(own), _PANEL_WIDTH)
                yield axis, own

    return figure, filled()


def _rows(frame: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Label, method and cells of every row, in order."""
    for row in rows_of(frame):
        yield row_label(*row), row[0], cells_of(frame, row)


def _functions(frame: pd.DataFrame) -> list[str]:
    return sorted(frame["function"].unique(), key=function_order)


def _numbers(count: int) -> list[str]:
    return [str(number) for number in range(1, count + 1)]


def _heat(axis: Axes, values: Array, norm: Normalize) -> None:
    shown = np.ma.masked_invalid(values)
    colours = matplotlib.colormaps[SEQUENTIAL].with_extremes(bad=NO_VALUE)
    axis.imshow(shown, norm=norm, cmap=colours, aspect="auto", interpolation="nearest")


def _label(axis: Axes, x: str, y: str) -> None:
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.label_outer()
