"""Losses by swept setting: means over seeds, and ratios to LoRA's, with intervals.

In a study without LoRA a ratio is to the method's own loss at the settings' first values, but not
at another task.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.cells import ROW, counts_text
from analysis.names import ALL, budget_order, function_order, method_order
from analysis.settings import joined, order, with_settings
from analysis.stats.beside import Logs, geometric_mean, learnable, with_lora
from analysis.stats.intervals import NO_INTERVAL, Interval
from analysis.stats.pairs import BASELINE, log_ratio
from qlexp.config.settings import is_shared

Sweep = Mapping[str, Sequence[str]]  # the swept settings with their values, ascending


def estimates(cells: pd.DataFrame, axes: Sweep) -> pd.DataFrame:
    """One row a budget, method, function and setting, and, where there are several functions, one
    over `ALL`, in a fixed order.

    Columns: the axes (texts, "" where a method lacks the setting), `variant` (other overrides),
    arithmetic `mean`, `geometric_mean` with `low` and `high`, paired `ratio` with `ratio_low` and
    `ratio_high` against `baseline`, and the counts. What one run that is not finite makes unknown
    is inf (the means) or NaN (intervals and ratios); so does a run without a partner the ratio. A
    row of `ALL` takes the functions that can be learnt (`analysis.stats.beside.learnable`): it has
    the counts of their runs, no mean, and the geometric mean of their ratios, NaN where one is
    unknown or was not asked for.

    Args:
        cells: the long table with a column `loss` and those of `analysis.table`.
    """
    cells = with_settings(cells, axes)
    learnt, several = learnable(cells), cells["function"].nunique() > 1
    cells = with_lora(cells, axes) if BASELINE in set(cells["method"]) else _with_first(cells, axes)
    keys, rows = [*ROW, *axes], []
    for key, own in cells.groupby(keys, sort=False):
        place, baseline = dict(zip(keys, key, strict=True)), own["baseline"].iloc[0]
        parts = dict(list(own.groupby("function", sort=False)))
        logs = {function: _log_ratios(part) for function, part in parts.items()}
        rows += [
            _row(place, function, part, [logs[function]], baseline)
            for function, part in parts.items()
        ]
        if several:
            wanted = learnt.get(place["budget"], [])
            part = own[own["function"].isin(wanted)]
            rows.append(_row(place, ALL, part, [logs.get(name) for name in wanted], baseline))
    return pd.DataFrame(sorted(rows, key=lambda row: _order(row, axes)))


def _row(
    place: Mapping[str, str], function: str, part: pd.DataFrame, logs: Sequence[Logs], baseline: str
) -> dict[str, Any]:
    """One row of `estimates`: means of one function alone, the ratio of one or of all."""
    losses = part["loss"].dropna() if function != ALL else part["loss"][:0]
    counts = ("trainable_parameters", "reference_parameters")
    return {
        **place,
        "function": function,
        "mean": losses.mean(),
        **log_interval(losses).named("geometric_mean"),
        "runs": part["loss"].count(),
        "infinite": np.isinf(part["loss"]).sum(),
        **{gap: part["status"].eq(gap).sum() for gap in ("missing", "failed")},
        **{name: counts_text(part[name]) for name in counts},
        "off_budget": bool(part["off_budget"].any()),
        "reading": bool(part["reading"].eq(True).any()),
        **geometric_mean(logs).named("ratio", "ratio_low", "ratio_high"),
        "baseline": baseline,
    }


def _order(row: dict[str, Any], axes: Sweep) -> tuple[object, ...]:
    settings = tuple(order(row[axis]) for axis in axes)
    function = row["function"] == ALL, function_order(row["function"])
    return budget_order(row["budget"]), function, method_order(row["method"]), settings


def _with_first(cells: pd.DataFrame, axes: Sweep) -> pd.DataFrame:
    """`cells` with `base_loss` and `baseline`, of the method's own run at the first values.

    Of the settings that are no task of their own (`analysis.settings`); NaN without any.
    """
    keys = ["budget", "method", "variant", "function", "seed", *axes]
    own = {axis: values[0] for axis, values in axes.items() if not is_shared(axis)}
    first = {axis: np.where(cells[axis] == "", "", value) for axis, value in own.items()}
    moved = cells.assign(**first)
    found = moved[keys].merge(cells[[*keys, "loss"]], how="left", on=keys)
    names = [
        joined({axis: run[axis] for axis in own if run[axis]}) for run in moved.to_dict("records")
    ]
    losses = found["loss"].where(np.array(names, dtype=object) != "")
    return cells.assign(base_loss=losses.to_numpy(), baseline=names)


def log_interval(values: pd.Series) -> Interval:
    """Geometric mean of positive values and its interval: Student's t on their logarithms.

    One value that is not finite makes the mean inf and the interval NaN; fewer than two values have
    no interval.
    """
    if values.empty:
        return NO_INTERVAL
    if not np.isfinite(values).all():
        return Interval(math.inf, math.nan, math.nan)
    return geometric_mean([log_ratio(values, np.ones(len(values)))])


def _log_ratios(part: pd.DataFrame) -> Logs:
    """Of every run; None where it or its partner is not finite or not there."""
    known = np.isfinite(part[["loss", "base_loss"]]).all(axis=None)
    return log_ratio(part["loss"], part["base_loss"]) if known else None


def ratio_label(points: pd.DataFrame) -> str:
    """What the ratios of `estimates` are."""
    names = set(points["baseline"])
    if names == {BASELINE}:
        return f"loss / loss of {BASELINE}"
    return "loss / loss at first value" if any(names) else f"no ratio, for lack of {BASELINE}"
