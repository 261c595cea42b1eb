"""Effects of swept settings: the loss, or its ratio to LoRA's, at each value over the first one.

These are the main effects of a factorial. Runs of one method, budget, function and seed are paired
where their other settings agree. Within a seed the log ratios are averaged over the other settings
at which both values were asked for. A function has the mean over seeds with Student's interval, all
functions together the mean over functions with Welch's (`analysis.stats.intervals.contrast`).

A setting that changes what all methods share (`analysis.settings`), such as the noise, changes
how hard the task is. Its effect is that on the loss over LoRA's (`analysis.stats.beside`):
whether the method bears the change better than LoRA does. A ratio is unknown as soon as one run
behind it diverged, is missing, failed or has no partner.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis.names import ALL
from analysis.rows import by_row, in_order
from analysis.settings import joined, order, with_settings
from analysis.stats.beside import UNASKED, Logs, geometric_mean, learnable, with_lora
from analysis.stats.pairs import BASELINE, extended_mean, log_ratio
from qlexp.config.settings import is_shared

CHANGE = ["setting", "of", "value", "first"]
LOSS, RATIO = "loss", "ratio"  # in the column `of`: the loss, or that over LoRA's
GAPS = {
    "infinite": "diverged",
    "missing": "missing",
    "failed": "failed",
    "unasked": "not asked for",
}  # what a ratio may lack, by the column of its count
COUNTS = ("seeds", "pairs", *GAPS)
Pairs = tuple[Logs, Counter[str]]  # of one function: its mean log ratios, and its `COUNTS`


def effects(cells: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """One row a budget, method, setting, value and function, and one over `ALL` functions.

    Columns: budget, method, variant (other overrides), reading, setting, of (what is compared:
    `LOSS` or `RATIO`), value, first (the first of the method's own values), function; ratio,
    low, high (NaN: unknown); and counts: seeds, pairs, and of the runs that the ratio wants those
    infinite, missing, failed and unasked. A row of `ALL` takes the functions that can be learnt:
    its counts are sums, and its ratio is known where all of theirs are. Where nothing can be
    compared there is no row.

    Args:
        cells: the long table with a column `loss` and those of `analysis.table`.
        axes: the swept settings.
    """
    learnt = learnable(cells)
    runs = with_lora(with_settings(cells, axes), axes)
    rows = []
    for row, own in by_row(runs):
        reading = bool(own["reading"].eq(True).any())
        for change, both in _changes(own, axes):
            found = {function: _pairs(part) for function, part in both.groupby("function")}
            wanted = [found.get(name, (None, Counter())) for name in learnt.get(row["budget"], ())]
            parts = {name: [found[name]] for name in in_order(found)} | {ALL: wanted}
            rows += [
                {**row, "reading": reading, **change, "function": function, **_effect(pairs)}
                for function, pairs in parts.items()
            ]
    return pd.DataFrame(rows)


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
    base, gap = np.ones(len(own)), _gaps(own["loss"], own["status"])
    if of == RATIO:
        base = own["base_loss"]
        gap = gap.where(gap != "", _gaps(base, own["base_status"]))
    return own.assign(log=log_ratio(own["loss"], base), gap=gap)


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
    counts = Counter(gap for gap in runs["gap"] if gap)
    counts.update(seeds=len(logs), pairs=logs.size // 2, unasked=logs.size - len(runs))
    if not logs.size or np.isnan(logs).any() or any(counts[gap] for gap in GAPS):
        return None, counts
    later, first = np.split(logs, 2, axis=1)
    with np.errstate(invalid="ignore"):
        return extended_mean(np.where(later == first, 0.0, later - first)), counts


def _effect(parts: Sequence[Pairs]) -> dict[str, float]:
    """The mean over functions as a ratio with its interval, and the sums of the counts."""
    ratio = geometric_mean([logs for logs, _ in parts]).named("ratio")
    return ratio | {name: sum(counts[name] for _, counts in parts) for name in COUNTS}
