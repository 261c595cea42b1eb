"""Tables of adapted language models alone: what they retain, and what they cost."""

import math
from collections.abc import Iterator

import pandas as pd

from analysis.benchmark import LANGUAGE
from analysis.cells import loss_cells
from analysis.legend import flags, row_notes, setting_notes
from analysis.load import finished
from analysis.names import FROZEN, budget_title, function_title
from analysis.render import NO_CELL, Grid, Section
from analysis.rows import beside, function_titles, in_order, measured
from analysis.sections import rows, sections
from analysis.text import cell_text, cost_text, number, seed_list, spread

RETAINED = {
    "retention_loss": ("Loss on neutral text, nats a token", 1),
    "retention_accuracy": ("Accuracy on untrained tasks in percent", 100),
}
_RETENTION = (
    "Frozen model → adapted model, mean ± sample standard deviation over {}: what adaptation to a "
    "task costs elsewhere. Neutral text and untrained tasks have no part in training."
)


def retention(frame: pd.DataFrame, study: str) -> tuple[Grid, pd.DataFrame]:
    """What was measured off the task before and after, methods by tasks; the same in full, one row
    a measure and cell."""
    cells, tasks = retention_cells(frame), in_order(frame["function"])

    def texts(title: str, row: pd.DataFrame) -> Iterator[str]:
        yield title
        for cell in beside(row, tasks):
            yield NO_CELL if cell is None else f"{number(cell['before'])} → {cell_text(cell)}"

    found = [
        Section(f"{RETAINED[name][0]}; {budget_title(budget)}", rows(part, texts))
        for (name, budget), part in cells.groupby(["measure", "budget"], sort=False)
    ]
    notes = [_RETENTION.format(seed_list(frame["seed"])), *_notes(frame, cells)]
    headers = ["method", *function_titles(frame, tasks)]
    grid = Grid("retention", f"Retention, study {study}", headers, found, notes)
    return grid, cells.rename(columns={"variant": "overrides"})


def retention_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """The `loss_cells` of each of `RETAINED` that was measured, in its unit, with the mean `before`
    adaptation; in the columns `measure` and what stands after it."""
    parts = []
    for name, (_, scale) in RETAINED.items():
        before, after = (scale * _numbers(frame, column) for column in (f"frozen_{name}", name))
        after = after.mask(frame["status"] == "diverged", math.inf)
        known = frame.assign(before=before, after=after)[frame["method"] != FROZEN]
        if finished(known)["before"].notna().any():
            cells = loss_cells(known, "after")
            means = loss_cells(known, "before")["mean"]
            parts.append(cells.assign(measure=name, before=means))
    columns = ["measure", *_COLUMNS]
    return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)


_COLUMNS = [
    *("budget", "method", "variant", "function", "before", "mean", "deviation", "seeds"),
    *("infinite", "missing", "failed", "off_budget", "reading"),
]


def constant_notes(frame: pd.DataFrame) -> list[str]:
    """What one answer to every question gets, where the runs say it."""
    if "constant_accuracy" not in frame:
        return []
    known = finished(frame).dropna(subset="constant_accuracy")
    once = known.drop_duplicates(["function", "seed", "condition"])
    listed = (
        f"{function_title(task)} {spread((100 * part['constant_accuracy'].astype(float)).tolist())}"
        for task, part in once.groupby("function", sort=False)
    )
    return [f"The most frequent training answer, given to every question: {', '.join(listed)}."]


def cost(frame: pd.DataFrame, study: str) -> tuple[Grid, pd.DataFrame]:
    """What a run of each method takes, mean over tasks and seeds; the same in full."""
    costs = LANGUAGE.costs
    done = finished(frame)
    done = done.assign(**{name: _numbers(done, name) for name in costs})
    flagged = ["off_budget", "reading"]
    table = measured(
        done, lambda own: {**own[flagged].eq(True).any(), **own[list(costs)].mean().to_dict()}
    )

    def texts(title: str, row: pd.DataFrame) -> list[str]:
        (own,) = row.to_dict("records")
        return [title, *(cost_text(name, own[name]) for name in costs)]

    means = f"Means over tasks and {seed_list(frame['seed'])}."
    notes = [means, LANGUAGE.cost_note, *_notes(frame, table)]
    headers = ["method", *costs.values()]
    grid = Grid("cost", f"Cost, study {study}", headers, sections(table, texts), notes)
    return grid, table.rename(columns={"variant": "overrides"})


def _numbers(frame: pd.DataFrame, name: str) -> pd.Series:
    values = frame[name] if name in frame else pd.Series(math.nan, frame.index)
    return pd.to_numeric(values).astype(float)


def _notes(frame: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    return [*row_notes(table), *flags(frame), *setting_notes(frame)]
