"""Effects of swept settings: the loss at each value over the loss at the first one.

These are the main effects of a factorial. Runs of one method, budget, function and seed are paired
where their other settings agree. Within a seed the log ratios are averaged over the other settings
at which both values were asked for. A function has the mean over seeds with Student's interval, all
functions together the mean over functions with Welch's (`analysis.statistics.intervals.contrast`).

A setting that changes what all methods share (`analysis.conditions`), such as the noise, changes
how hard the task is. Its effect is that on the loss over LoRA's loss of the same budget, function,
seed and settings: whether the method bears the change better than LoRA does. A ratio is unknown as
soon as one run behind it diverged, is missing, failed or has no partner.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.cells import not_learnable
from analysis.conditions import is_shared
from analysis.names import (
    ALL,
    STYLE,
    STYLE_NOTE,
    budget_order,
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
    setting_notes,
    unchecked,
)
from analysis.overrides import joined, order, with_settings
from analysis.render import NO_CELL, Grid, Section, Text
from analysis.statistics.intervals import CONFIDENCE, NO_INTERVAL, contrast
from analysis.statistics.pairs import BASELINE, extended_mean, log_ratio

ROW = ["budget", "method", "variant"]
CHANGE = ["setting", "of", "value", "first"]
LOSS, OVER_LORA = "loss", f"loss / {BASELINE}'s"  # in the column `of`
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

    logs: np.ndarray | None = None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))


def effects(cells: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """One row a budget, method, setting, value and function, and one over `ALL` functions.

    Columns: budget, method, variant (other overrides), reading, setting, of (what is compared:
    `LOSS` or `OVER_LORA`), value, first (the first of the method's own values), function; ratio,
    low, high (NaN: unknown); and counts: seeds, pairs, and of the runs that the ratio wants those
    infinite, missing, failed and unasked. A row of `ALL` takes the functions that can be learnt:
    its counts are sums, and its ratio is known where all of theirs are. Where nothing can be
    compared there is no row.

    Args:
        cells: the long table with a column `loss`, as `analysis.ablation.with_loss` gives it.
        axes: the swept settings.
    """
    unlearnt = list(not_learnable(cells))
    learnt = cells[~cells["function"].isin(unlearnt)].groupby("budget")["function"].unique()
    runs = with_settings(cells, axes)
    runs = runs.drop_duplicates([*ROW, *axes, "function", "seed", "run_id"])
    beside = over_lora(runs, axes)
    rows: list[dict[str, object]] = []
    for key, own in sorted(runs.groupby(ROW), key=lambda item: _row_order(*item[0])):
        row = dict(zip(ROW, key, strict=True)) | {"reading": bool(own["reading"].eq(True).any())}
        relative = beside[(beside[ROW] == key).all(axis="columns")]
        for change, both in _changes(own, relative, axes):
            found = {function: _pairs(part) for function, part in both.groupby("function")}
            wanted = [found.get(function, Pairs()) for function in learnt.get(key[0], ())]
            for function in sorted(found, key=function_order):
                rows.append(row | change | {"function": function} | _effect([found[function]]))
            rows.append(row | change | {"function": ALL} | _effect(wanted))
    return pd.DataFrame(rows)


def _row_order(budget: str, method: str, variant: str) -> tuple[object, ...]:
    return budget_order(budget), method_order(method), variant


def over_lora(runs: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """The runs of other methods that LoRA has a run beside, with the loss over LoRA's.

    That is LoRA's run of the same budget, function, seed and settings, of those settings of which
    it has several values. The loss is inf where one of the two diverged, NaN where one is lacking,
    and `status` is that of the one.
    """
    lora = runs[runs["method"] == BASELINE]
    keys = ["budget", "function", "seed", *(axis for axis in axes if lora[axis].nunique() > 1)]
    if lora.duplicated(keys).any():  # several rows, none of which is the one to stand beside
        return runs[:0]
    both = runs[runs["method"] != BASELINE].merge(
        lora[[*keys, "loss", "status"]], on=keys, suffixes=("", "_lora")
    )
    infinite = np.isinf(both["loss"]) | np.isinf(both["loss_lora"])
    return both.assign(
        loss=(both["loss"] / both["loss_lora"]).mask(infinite, np.inf),
        status=both["status"].where(both["status"] != "done", both["status_lora"]),
    )


def _changes(
    own: pd.DataFrame, relative: pd.DataFrame, axes: Sequence[str]
) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """The changes of setting within one method, each with the runs at both values.

    Their column `is_first` tells the values apart, `rest` holds the other settings as a text.

    Args:
        own: the runs of the method.
        relative: the same as `over_lora` gives them, for settings that the methods share.
    """
    for axis in axes:
        of, runs = (OVER_LORA, relative) if is_shared(axis) else (LOSS, own)
        values = sorted(set(runs[axis]) - {""}, key=order)
        if len(values) < 2:
            continue
        others = runs[[name for name in axes if name != axis]].to_dict("records")
        runs = runs.assign(is_first=runs[axis] == values[0], rest=[joined(rest) for rest in others])
        for value in values[1:]:
            change = dict(zip(CHANGE, (axis, of, value, values[0]), strict=True))
            yield change, runs[runs[axis].isin((value, values[0]))]


def _pairs(runs: pd.DataFrame) -> Pairs:
    """The pairs of one function: `rest` must have both values, and then each of its seeds too."""
    sides = (set(runs.loc[runs["is_first"] == first, "rest"]) for first in (True, False))
    common = sorted(set.intersection(*sides))
    runs = runs[runs["rest"].isin(common)]
    places = pd.MultiIndex.from_product([(False, True), common])
    losses = runs.pivot(index="seed", columns=["is_first", "rest"], values="loss")
    losses = losses.reindex(columns=places).to_numpy(float)  # (seeds, 2 * rests)
    counts = {
        "seeds": len(losses),
        "pairs": losses.size // 2,
        "infinite": int(np.isinf(runs["loss"]).sum()),
        "missing": int((runs["status"] == "missing").sum()),
        "failed": int((runs["status"] == "failed").sum()),
        "unasked": losses.size - len(runs),
    }
    if not losses.size or not np.isfinite(losses).all():
        return Pairs(None, counts)
    return Pairs(extended_mean(log_ratio(*np.split(losses, 2, axis=1))), counts)


def _effect(parts: Sequence[Pairs]) -> dict[str, float]:
    """The mean over functions as a ratio with its interval, and the sums of the counts."""
    logs = [part.logs for part in parts if part.logs is not None]
    known = bool(logs) and len(logs) == len(parts)
    found = contrast(logs, [1 / len(logs)] * len(logs)) if known else NO_INTERVAL
    with np.errstate(over="ignore"):
        ends = np.exp([found.value, found.low, found.high])
    counts = {name: sum(part.counts[name] for part in parts) for name in COUNTS}
    return dict(zip(("ratio", "low", "high"), map(float, ends), strict=True)) | counts


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
    headers = ["method", "setting", "of", "value", "over", *titles]
    several = table["budget"].nunique() > 1
    sections = [
        Section(str(budget) if several else "", _rows(block, functions))
        for budget, block in table.groupby("budget", sort=False)
    ]
    settings = list(dict.fromkeys(table["setting"]))
    caption = f"Effects on the {loss.replace('_', ' ')} of {', '.join(settings)}, study {study}"
    return Grid(label, caption, headers, sections, _notes(frame, table, axes, loss))


def _rows(block: pd.DataFrame, functions: Sequence[str]) -> list[list[Text]]:
    rows = []
    for (method, variant, *change), part in block.groupby([*ROW[1:], *CHANGE], sort=False):
        by_function = part.set_index("function").to_dict("index")
        label = row_label(method, variant) + STYLE * bool(part["reading"].any())
        texts = [_text(by_function[name]) if name in by_function else NO_CELL for name in functions]
        rows.append([Text(text) for text in (label, *change, *texts)])
    return rows


def _text(effect: dict) -> str:
    gaps = [f"{effect[name]} {word}" for name, word in GAPS.items() if effect[name]]
    return ", ".join(gaps) or interval_text(effect["ratio"], effect["low"], effect["high"])


def _notes(frame: pd.DataFrame, table: pd.DataFrame, axes: Sequence[str], loss: str) -> list[str]:
    notes = [
        f"{loss} at a value over that at the setting's first one, at the same function, seed and "
        "other settings: geometric mean over the other settings, then over seeds "
        f"[{CONFIDENCE:.0%} interval, Student's t on the log ratios of the seeds]; all functions: "
        "geometric mean over functions [Welch's t]; no correction for the number of intervals. "
        "Below 1 the value has the lower loss.",
        "Values may differ in trainable parameters, which stand beside the losses.",
    ]
    compared = set(table.loc[table["of"] == OVER_LORA, "setting"])
    if compared:
        notes.append(
            f"Another value of {_listed(compared, axes)} is another task for all methods, so what "
            f"is compared is the loss over {BASELINE}'s at the same value: below 1 the method "
            f"stands better beside {BASELINE} at the value than at the first one."
        )
    if shared := {axis for axis in axes if is_shared(axis)} - compared:
        notes.append(
            f"No effects of {_listed(shared, axes)}: another value is another task for all "
            f"methods, and no run of {BASELINE} stands beside another method's."
        )
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


def _listed(settings: set[str], axes: Sequence[str]) -> str:
    return ", ".join(axis for axis in axes if axis in settings)
