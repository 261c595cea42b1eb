"""Losses by swept setting: means over seeds, and ratios to LoRA's, with intervals.

In a study without LoRA a ratio is to the method's own loss at the settings' first values, but not
at another task.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.ablation.beside import Logs, geometric_mean, learnable, with_lora
from analysis.cells import not_learnable, off_budget
from analysis.names import (
    ALL,
    STYLE,
    STYLE_NOTE,
    budget_order,
    budget_title,
    function_order,
    function_title,
    method_order,
    row_label,
)
from analysis.notes import (
    NOT_LEARNABLE,
    OFF_BUDGET,
    OFF_BUDGET_NOTE,
    column_marks,
    flags,
    interval_text,
    noise_note,
    setting_notes,
    unchecked,
)
from analysis.render import NO_CELL, Grid, Section, Text
from analysis.settings import joined, order, with_settings
from analysis.statistics.intervals import CONFIDENCE
from analysis.statistics.pairs import BASELINE, log_ratio
from qlexp.config.settings import is_shared

_MEANS = ("mean", "geometric_mean", "low", "high")
_COUNTS = (
    *("runs", "infinite", "missing", "failed"),
    *("trainable_parameters", "reference_parameters", "off_budget", "reading"),
)
_RATIO = ("ratio", "ratio_low", "ratio_high")


def estimates(cells: pd.DataFrame, axes: dict[str, list[str]]) -> pd.DataFrame:
    """One row a budget, method, function and setting, and, where there are several functions, one
    over `ALL`, in a fixed order; `cells` has a `loss`.

    Columns: the axes (texts, "" where a method lacks the setting), `variant` (other overrides),
    arithmetic `mean`, `geometric_mean` with `low` and `high`, paired `ratio` with `ratio_low` and
    `ratio_high` against `baseline`, and the counts. What one run that is not finite makes unknown
    is inf (the means) or NaN (intervals and ratios); so does a run without a partner the ratio. A
    row of `ALL` takes the functions that can be learnt (`analysis.ablation.beside.learnable`): it
    has the counts of their runs, no mean, and the geometric mean of their ratios, NaN where one is
    unknown or was not asked for.
    """
    cells = with_settings(cells, axes)
    learnt, several = learnable(cells), cells["function"].nunique() > 1
    paired = BASELINE in set(cells["method"])
    cells = with_lora(cells, axes) if paired else _with_first(cells, axes)
    keys = ["budget", "method", "variant", *axes]
    rows: list[dict[str, Any]] = []
    for key, own in cells.groupby(keys, sort=False):
        place = dict(zip(keys, key, strict=True))
        place["baseline"] = own["baseline"].iloc[0]
        parts = dict(list(own.groupby("function", sort=False)))
        logs = {function: _log_ratios(part) for function, part in parts.items()}
        for function, part in parts.items():
            numbers = _means(part["loss"].dropna()) | _ratio([logs[function]])
            rows.append({**place, "function": function, **_counts(part), **numbers})
        if several:
            wanted = learnt.get(place["budget"], [])
            counts = _counts(own[own["function"].isin(wanted)])
            ratio = _ratio([logs.get(function) for function in wanted])
            rows.append({**place, "function": ALL, **counts, **ratio})
    rows.sort(key=lambda row: _row_order(row, axes))
    return pd.DataFrame(rows, columns=[*keys, "function", *_MEANS, *_COUNTS, *_RATIO, "baseline"])


def _with_first(cells: pd.DataFrame, axes: dict[str, list[str]]) -> pd.DataFrame:
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


def _row_order(row: dict[str, Any], axes: dict[str, list[str]]) -> tuple[object, ...]:
    settings = tuple(order(row[axis]) for axis in axes)
    function = row["function"] == ALL, function_order(row["function"])
    return budget_order(row["budget"]), function, method_order(row["method"]), settings


def _means(losses: pd.Series) -> dict[str, float]:
    mean = losses.mean() if len(losses) else math.nan
    return dict(zip(_MEANS, (mean, *log_interval(losses)), strict=True))


def _counts(part: pd.DataFrame) -> dict[str, object]:
    counts, reference = part["trainable_parameters"], part["reference_parameters"]
    statuses = part["status"].value_counts()
    values = (
        part["loss"].count(),
        np.isinf(part["loss"]).sum(),
        statuses.get("missing", 0),
        statuses.get("failed", 0),
        "/".join(f"{n:.0f}" for n in sorted(set(counts.dropna()))),
        "/".join(f"{n:.0f}" for n in sorted(set(reference.dropna()))),
        bool(off_budget(counts, reference).any()),
        bool(part["reading"].eq(True).any()),
    )
    return dict(zip(_COUNTS, values, strict=True))


def log_interval(values: pd.Series) -> tuple[float, float, float]:
    """Geometric mean of positive values and its interval: Student's t on their logarithms.

    One value that is not finite makes the mean inf and the interval NaN; fewer than two values have
    no interval.
    """
    if values.empty:
        return math.nan, math.nan, math.nan
    if not np.isfinite(values).all():
        return math.inf, math.nan, math.nan
    return geometric_mean([log_ratio(values, np.ones(len(values)))])


def _log_ratios(part: pd.DataFrame) -> Logs:
    """Of every run; None where it or its partner is not finite or not there."""
    known = np.isfinite(part[["loss", "base_loss"]]).all(axis=None)
    return log_ratio(part["loss"], part["base_loss"]) if known else None


def _ratio(parts: Sequence[Logs]) -> dict[str, float]:
    return dict(zip(_RATIO, geometric_mean(parts), strict=True))


def ratio_label(points: pd.DataFrame) -> str:
    """What the ratios of `estimates` are."""
    names = set(points["baseline"])
    if names == {BASELINE}:
        return f"loss / loss of {BASELINE}"
    return "loss / loss at first value" if any(names) else f"no ratio, for lack of {BASELINE}"


def estimates_grid(
    frame: pd.DataFrame,
    points: pd.DataFrame,
    axes: dict[str, list[str]],
    loss: str,
    label: str,
    study: str,
) -> Grid:
    """Rows by method and setting, functions beside each other, a section a budget."""
    functions = sorted(set(points["function"]) - {ALL}, key=function_order)
    headers = ["method", *axes, "trainable"]
    for function in functions:
        headers += [function_title(function) + column_marks(frame, function), "ratio"]
    headers += ["all functions: ratio"] * (len(functions) > 1)
    keys = ["method", "variant", *axes]
    sections = []
    for budget, block in points.groupby("budget", sort=False):
        rows = []
        for key, part in block.groupby(keys, sort=False):
            by_function = part.set_index("function")
            counts = set("/".join(part["trainable_parameters"]).split("/")) - {""}
            texts = [
                row_label(key[0], key[1])
                + STYLE * bool(part["reading"].any())
                + OFF_BUDGET * bool(part["off_budget"].any()),
                *(value or NO_CELL for value in key[2:]),
                "/".join(sorted(counts, key=int)) or NO_CELL,
            ]
            for function in functions:
                known = function in by_function.index
                texts += _texts(by_function.loc[function]) if known else [NO_CELL, NO_CELL]
            if len(functions) > 1:
                texts.append(_ratio_text(by_function.loc[ALL]))
            rows.append([Text(text) for text in texts])
        several = points["budget"].nunique() > 1
        sections.append(Section(budget_title(str(budget)) if several else "", rows))
    ratio = ratio_label(points)
    notes = [
        f"{loss}: geometric mean over seeds [{CONFIDENCE:.0%} interval, Student's t on the log "
        f"loss]; ratio: {ratio}, paired by seed, with the interval of the log ratios; no "
        "correction for the number of intervals. The CSV has the arithmetic means too.",
    ]
    if len(functions) > 1:
        notes.append(
            "All functions: geometric mean of the ratio over functions, with Welch's interval for "
            f"new seeds on the same functions; {NO_CELL} where a function's is unknown or was not "
            "asked for"
            + (f"; without those marked {NOT_LEARNABLE}." if not_learnable(frame) else ".")
        )
    notes += noise_note(frame, loss)
    if points["infinite"].any():
        notes.append(
            "inf (k/n): k of n runs diverged or ended above the ceiling of their config, so there "
            "is no mean and no ratio."
        )
    if points["off_budget"].any():
        notes.append(OFF_BUDGET_NOTE)
    if points["reading"].any():
        notes.append(STYLE_NOTE)
    notes += [*flags(frame), *unchecked(frame), *setting_notes(frame)]
    caption = f"{loss.replace('_', ' ').capitalize()} by {', '.join(axes)}, study {study}"
    return Grid(label, caption, headers, sections, notes)


def _texts(point: pd.Series) -> list[str]:
    runs, infinite = int(point["runs"]), int(point["infinite"])
    if infinite:
        text = f"inf ({infinite}/{runs})"
    else:
        text = interval_text(point["geometric_mean"], point["low"], point["high"]) if runs else ""
    gaps = [f"{point[word]} {word}" for word in ("missing", "failed") if point[word]]
    text = ", ".join([text] * bool(text) + gaps) or NO_CELL
    return [text, _ratio_text(point)]


def _ratio_text(point: pd.Series) -> str:
    return interval_text(point["ratio"], point["ratio_low"], point["ratio_high"])
