"""Effects of swept settings: the loss, or its ratio to LoRA's, at each value over the first one.

These are the main effects of a factorial. Runs of one method, budget, function and seed are paired
where their other settings agree. Within a seed the log ratios are averaged over the other settings
at which both values were asked for. A function has the mean over seeds with Student's interval, all
functions together the mean over functions with Welch's (`analysis.statistics.intervals.contrast`).

A setting that changes what all methods share (`analysis.settings`), such as the noise, changes
how hard the task is. Its effect is that on the loss over LoRA's (`analysis.ablation.beside`):
whether the method bears the change better than LoRA does. A ratio is unknown as soon as one run
behind it diverged, is missing, failed or has no partner.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.ablation.beside import UNASKED, Logs, geometric_mean, learnable, with_lora
from analysis.cells import not_learnable
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
from analysis.statistics.pairs import BASELINE, extended_mean, log_ratio
from qlexp.config.settings import is_shared

ROW = ["budget", "method", "variant"]
CHANGE = ["setting", "of", "value", "first"]
LOSS, RATIO = "loss", "ratio"  # in the column `of`: the loss, or that over LoRA's
GAPS = {
    "infinite": "diverged",
    "missing": "missing",
    "failed": "failed",
    "unasked": "not asked for",
}  # what a ratio may lack, by the column of its count
COUNTS = ("seeds", "pairs", *GAPS)


@dataclass(frozen=True)
class Pairs:
    """What one function says of a change.

    Attributes:
        logs: the mean log ratio of each seed, (seeds,); None where a run is lacking.
        counts: by the names in `COUNTS`.
    """

    logs: Logs = None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))


def effects(cells: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """One row a budget, method, setting, value and function, and one over `ALL` functions.

    Columns: budget, method, variant (other overrides), reading, setting, of (what is compared:
    `LOSS` or `RATIO`), value, first (the first of the method's own values), function; ratio,
    low, high (NaN: unknown); and counts: seeds, pairs, and of the runs that the ratio wants those
    infinite, missing, failed and unasked. A row of `ALL` takes the functions that can be learnt:
    its counts are sums, and its ratio is known where all of theirs are. Where nothing can be
    compared there is no row.

    Args:
        cells: the long table with a column `loss` (`analysis.ablation.tables.with_loss`).
        axes: the swept settings.
    """
    learnt = learnable(cells)
    runs = with_lora(with_settings(cells, axes), axes)
    rows: list[dict[str, object]] = []
    for key, own in sorted(runs.groupby(ROW), key=lambda item: _row_order(*item[0])):
        row = dict(zip(ROW, key, strict=True)) | {"reading": bool(own["reading"].eq(True).any())}
        for change, both in _changes(own, axes):
            found = {function: _pairs(part) for function, part in both.groupby("function")}
            wanted = [found.get(function, Pairs()) for function in learnt.get(key[0], ())]
            for function in sorted(found, key=function_order):
                rows.append(row | change | {"function": function} | _effect([found[function]]))
            rows.append(row | change | {"function": ALL} | _effect(wanted))
    return pd.DataFrame(rows)


def _row_order(budget: str, method: str, variant: str) -> tuple[object, ...]:
    return budget_order(budget), method_order(method), variant


def _changes(
    own: pd.DataFrame, axes: Sequence[str]
) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """The changes of setting within one method, each with the runs at both values.

    Their column `is_first` tells the values apart, `rest` holds the other settings as a text,
    `log` the logarithm of what is compared and `gap` the name in `GAPS` of what it lacks, or "".
    """
    for axis in axes:
        values = sorted(set(own[axis]) - {""}, key=order)
        if len(values) < 2:
            continue
        of = RATIO if is_shared(axis) else LOSS
        if of == RATIO and (own["method"].eq(BASELINE) | own["base_status"].eq(UNASKED)).all():
            continue
        others = own[[name for name in axes if name != axis]].to_dict("records")
        runs = _compared(own, of).assign(
            is_first=own[axis] == values[0], rest=[joined(rest) for rest in others]
        )
        for value in values[1:]:
            change = dict(zip(CHANGE, (axis, of, value, values[0]), strict=True))
            yield change, runs[runs[axis].isin((value, values[0]))]


def _compared(own: pd.DataFrame, of: str) -> pd.DataFrame:
    gap = _gaps(own["loss"], own["status"])
    if of == LOSS:
        return own.assign(log=log_ratio(own["loss"], np.ones(len(own))), gap=gap)
    base_gap = _gaps(own["base_loss"], own["base_status"])
    return own.assign(
        log=log_ratio(own["loss"], own["base_loss"]), gap=gap.where(gap != "", base_gap)
    )


def _gaps(losses: pd.Series, statuses: pd.Series) -> pd.Series:
    return statuses.where(statuses.isin(list(GAPS)), "").mask(np.isinf(losses), "infinite")


def _pairs(runs: pd.DataFrame) -> Pairs:
    """The pairs of one function: `rest` must have both values, and then each of its seeds too."""
    sides = (set(runs.loc[runs["is_first"] == first, "rest"]) for first in (True, False))
    common = sorted(set.intersection(*sides))
    runs = runs[runs["rest"].isin(common)]
    places = pd.MultiIndex.from_product([(False, True), common])
    logs = runs.pivot(index="seed", columns=["is_first", "rest"], values="log")
    logs = logs.reindex(columns=places).to_numpy(float)  # (seeds, 2 * rests)
    found = runs["gap"].value_counts()
    counts = {name: int(found.get(name, 0)) for name in GAPS}
    counts |= {"seeds": len(logs), "pairs": logs.size // 2}
    counts["unasked"] += logs.size - len(runs)
    if not logs.size or np.isnan(logs).any() or (runs["gap"] != "").any():
        return Pairs(None, counts)
    later, first = np.split(logs, 2, axis=1)
    with np.errstate(invalid="ignore"):
        return Pairs(extended_mean(np.where(later == first, 0.0, later - first)), counts)


def _effect(parts: Sequence[Pairs]) -> dict[str, float]:
    """The mean over functions as a ratio with its interval, and the sums of the counts."""
    ends = zip(("ratio", "low", "high"), geometric_mean([part.logs for part in parts]), strict=True)
    return dict(ends) | {name: sum(part.counts[name] for part in parts) for name in COUNTS}


def effects_grid(
    frame: pd.DataFrame,
    table: pd.DataFrame,
    axes: Sequence[str],
    loss: str,
    label: str,
    study: str,
) -> Grid:
    """Rows by method, setting and value, functions beside each other, a section a budget.

    Args:
        frame: the study.
        table: what `effects` makes of it, not empty.
    """
    functions = [name for name in table["function"].unique() if name != ALL]
    functions.sort(key=function_order)
    titles = [function_title(name) + column_marks(frame, name) for name in functions]
    if len(functions) > 1:
        functions, titles = [*functions, ALL], [*titles, "all functions"]
    both = table["of"].nunique() > 1
    headers = ["method", "setting", *["of"] * both, "value", "over", *titles]
    several = table["budget"].nunique() > 1
    sections = [
        Section(budget_title(str(budget)) if several else "", _rows(block, functions, both))
        for budget, block in table.groupby("budget", sort=False)
    ]
    settings = list(dict.fromkeys(table["setting"]))
    what = loss.replace("_", " ") + f" over {BASELINE}'s" * bool(table["of"].eq(RATIO).all())
    caption = f"Effects on the {what} of {', '.join(settings)}, study {study}"
    return Grid(label, caption, headers, sections, _notes(frame, table, axes, loss))


def _rows(block: pd.DataFrame, functions: Sequence[str], both: bool) -> list[list[Text]]:
    rows = []
    names = [name for name in CHANGE if both or name != "of"]
    for (method, variant, *change), part in block.groupby([*ROW[1:], *names], sort=False):
        by_function = part.set_index("function").to_dict("index")
        label = row_label(method, variant) + STYLE * bool(part["reading"].any())
        texts = [_text(by_function[name]) if name in by_function else NO_CELL for name in functions]
        rows.append([Text(text) for text in (label, *change, *texts)])
    return rows


def _text(effect: dict) -> str:
    gaps = [f"{effect[name]} {word}" for name, word in GAPS.items() if effect[name]]
    return ", ".join(gaps) or interval_text(effect["ratio"], effect["low"], effect["high"])


def _notes(frame: pd.DataFrame, table: pd.DataFrame, axes: Sequence[str], loss: str) -> list[str]:
    kinds = set(table["of"])
    compared = [
        name for name, of in ((loss, LOSS), (f"{loss} over {BASELINE}'s", RATIO)) if of in kinds
    ]
    notes = [
        f"{', or '.join(compared)}: at a value over that at the setting's first one, at the same "
        "function, seed and other settings; geometric mean over the other settings, then over "
        f"seeds [{CONFIDENCE:.0%} interval, Student's t on the log ratios of the seeds]; all "
        f"functions: geometric mean over functions [Welch's t]; {NO_CELL}: not asked for at both "
        "values, or unknown on one of all functions; no correction for the number of intervals.",
    ]
    if LOSS in kinds:
        notes.append(
            "Where losses are compared, below 1 the value has the lower one. Values may differ in "
            "trainable parameters, which stand beside the losses."
        )
    shared = [axis for axis in axes if is_shared(axis)]
    told = [axis for axis in shared if axis in set(table["setting"])]
    if told:
        notes.append(
            f"Another value of {', '.join(told)} is another task for all methods, so what is "
            f"compared is the loss over {BASELINE}'s at the same value: below 1 the method stands "
            f"better beside {BASELINE} at the value than at the first one. A method without such a "
            f"run of {BASELINE} has no row."
        )
    if untold := [axis for axis in shared if axis not in told]:
        notes.append(
            f"No effects of {', '.join(untold)}: another value is another task for all methods, "
            f"and no method has a run of {BASELINE} beside it at two of them."
        )
    notes += noise_note(frame, loss)
    if table[list(GAPS)].any(axis=None):
        notes.append(
            "k diverged, missing, failed or not asked for: of the runs that a ratio wants, which "
            "is therefore unknown."
        )
    if not_learnable(frame):
        notes.append(f"All functions: without those marked {NOT_LEARNABLE}.")
    if table["reading"].any():
        notes.append(STYLE_NOTE)
    return [*notes, *flags(frame), *unchecked(frame), *setting_notes(frame)]
