"""What a lower loss costs: loss over LoRA's against parameters, seconds and memory.

    pareto.{md,csv,tex}    a row a method: its costs, its ratio, where nothing cheaper is as good
    pareto_<budget>.svg    the ratio against each cost; a line joins the front

A method is on the front of a cost where no other adapter of its block has both a lower ratio and a
lower cost, equal ones counting as lower. Ratios are those of the view `forest`; references are
shown, and are no rivals. Seconds are a batch's wall time over its lanes, the mean over runs:
compare those of one machine. Memory is what one lane holds in training, weights, gradients, moments
and the activations kept for the backward pass, counted from the shapes and not measured.
"""

from argparse import Namespace
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.cells import ROW, by_budget, rows_of, with_references
from analysis.figures.layout import add_legend
from analysis.figures.rows import line_of, look_of
from analysis.figures.ticks import log_ticks
from analysis.legend import deciding_note, flags, row_notes
from analysis.load import finished
from analysis.names import ALL, budget_title
from analysis.render import NO_CELL, Grid, Text
from analysis.render.output import Picture
from analysis.sections import sections
from analysis.settings import require_one
from analysis.stats.pairs import BASELINE
from analysis.stats.ratios import ratios
from analysis.study import Study
from analysis.text import cost_text, interval_text, unit_of
from analysis.view import Shown
from qlexp.errors import UsageError

Costs = Mapping[str, str]  # by column what it is called


def show(study: Study, options: Namespace | None = None) -> Shown:
    """Raises a `UsageError` for a study with several conditions or nothing to hold against
    LoRA."""
    require_one(study.frame, study.name)
    frame, tuning = study.kept
    costs = study.benchmark.costs
    table = costs_and_ratios(frame, costs)
    if table.empty:
        raise UsageError(
            f"Study '{study.name}' has no finished run to hold against LoRA's: a Pareto view wants "
            "one."
        )
    grid = Grid(
        "pareto",
        f"Loss against cost, study {study.name}",
        ("method", *costs.values(), "loss over LoRA's", "on the front of"),
        sections(table, lambda title, cells: _texts(title, cells, costs)),
        [
            *tuning.notes(),
            _NOTE,
            study.benchmark.cost_note,
            *deciding_note(frame),
            *row_notes(table),
            *flags(frame),
        ],
    )
    return Shown({"pareto": [grid]}, {"pareto": table}, _pictures(table, costs), ["pareto"])


_NOTE = (
    "Loss over LoRA's: test loss without noise, the geometric mean over seeds, then functions, "
    "with Welch's 95 % interval. On the front of: costs at which no other adapter of the block is "
    "both cheaper and better; an interval that holds 1 says that the front is not settled."
)


def costs_and_ratios(frame: pd.DataFrame, costs: Costs) -> pd.DataFrame:
    """One row a method of a block: `ROW`, is_reference, reading, off_budget, the `costs` (means
    over its finished runs), ratio, low, high, and for each cost whether it is on its front."""
    found = ratios(frame)
    if found.empty:
        return found
    names = [*ROW, "is_reference", "reading", "off_budget", "ratio", "low", "high"]
    found = found.loc[(found["function"] == ALL) & (found["baseline"] == BASELINE), names]
    runs = with_references(finished(frame))
    runs = runs.assign(**{cost: pd.to_numeric(runs[cost]) for cost in costs})
    lora = runs[runs["method"] == BASELINE].drop_duplicates(ROW)[ROW]
    itself = {**dict.fromkeys(names[3:6], False), **dict.fromkeys(names[6:], 1.0)}
    lora = lora[lora["budget"].isin(found["budget"])].assign(**itself)
    means = runs.groupby(ROW)[list(costs)].mean()
    table = pd.concat([lora, found], ignore_index=True).join(means, on=ROW)
    fronts = [_fronts(block, costs) for _, block in by_budget(table)]
    return pd.concat(fronts, ignore_index=True) if fronts else table


def _fronts(block: pd.DataFrame, costs: Costs) -> pd.DataFrame:
    block = block.sort_values("ratio", kind="stable")
    rivals = block[~block["is_reference"]]
    return block.assign(**{f"front_{cost}": _front(block, rivals, cost) for cost in costs})


def _front(block: pd.DataFrame, rivals: pd.DataFrame, cost: str) -> list[bool]:
    """Whether each row is an adapter that no other one of `rivals` beats in ratio and cost."""

    def beaten(row: pd.Series) -> bool:
        others = rivals.drop(index=row.name, errors="ignore")
        as_good = (others["ratio"] <= row["ratio"]) & (others[cost] <= row[cost])
        better = (others["ratio"] < row["ratio"]) | (others[cost] < row[cost])
        return bool((as_good & better).any())

    return [
        not row["is_reference"] and np.isfinite(row[cost]) and not beaten(row)
        for _, row in block.iterrows()
    ]


def _texts(title: str, cells: pd.DataFrame, costs: Costs) -> list[str | Text]:
    (row,) = cells.to_dict("records")
    fronts = [name for cost, name in costs.items() if row[f"front_{cost}"]]
    return [
        title,
        *(cost_text(cost, row[cost]) for cost in costs),
        "1" if row["method"] == BASELINE else interval_text(row["ratio"], row["low"], row["high"]),
        ", ".join(fronts) or NO_CELL,
    ]


def _pictures(table: pd.DataFrame, costs: Costs) -> Iterator[Picture]:
    """To be drawn one by one, under `figure_style`."""
    for budget, block in by_budget(table):
        caption = (
            "Test loss without noise over LoRA's, with 95 % intervals, against what a run costs; "
            f"the line joins adapters that none beats in both. {budget_title(budget)}."
        )
        yield Picture(f"pareto_{budget}", caption, pareto_figure(block, budget, costs))


def pareto_figure(block: pd.DataFrame, budget: str, costs: Costs) -> Figure:
    """A panel a cost; `block` are the rows of one budget."""
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    rows = rows_of(block)
    axes = figure.subplots(1, len(costs), sharey=True)
    for axis, (cost, title) in zip(axes, costs.items(), strict=True):
        _draw(axis, block.assign(cost=block[cost] / unit_of(cost)), rows, f"front_{cost}")
        axis.set_xlabel(title)
    axes[0].set_ylabel("loss over LoRA's")
    figure.suptitle(budget_title(budget))
    add_legend(figure, [line_of(row, rows) for row in rows])
    return figure


def _draw(axis: Axes, block: pd.DataFrame, rows: list[tuple[str, str]], front: str) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.axhline(1.0, color="#b0b0b0", linewidth=0.8, zorder=0)
    for record in block.to_dict("records"):
        row = (record["method"], record["variant"])
        look = look_of(row, rows) | {"linestyle": "none", "markevery": None}
        axis.plot([record["cost"]], [record["ratio"]], **look)
        ends = [record["low"], record["high"]]
        if np.isfinite(ends).all():
            axis.plot([record["cost"]] * 2, ends, color=look["color"], linewidth=1.0)
    joined = block[block[front]].sort_values("cost")
    axis.plot(joined["cost"], joined["ratio"], color="#808080", linewidth=0.8, zorder=0)
    for part in (axis.xaxis, axis.yaxis):
        log_ticks(part)
