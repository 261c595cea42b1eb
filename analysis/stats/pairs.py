"""From the long table to paired cells: each adapter beside LoRA on the same function and seed.

The normalised loss of a cell is log(loss / LoRA's loss) in the same block, function and seed. Both
runs share backbone, samples and noise, so that what the pair has in common cancels; the scale of a
function cancels too, which (loss - full) / (frozen - full) would not do: there every adapter stands
near 0, and at or below it where full fine-tuning is not the best. Below 0 is better than LoRA, and
-0.01 is about 1 % lower. A block in which a row has no LoRA to stand beside is normalised by
the frozen backbone's loss instead, which every run's summary holds.

Rules for what is not a finite number: a diverged run has loss inf and comes last, and so does one
whose loss lies above the ceiling. Its normalised loss is inf, or -inf where LoRA's alone is
infinite; where both are, or both losses are 0, the two are tied at 0. An `extended_mean` is
infinite as soon as one of its values is; inf and -inf cancel one by one, and where as many are left
of each, which is none, the finite values decide.
"""

from collections.abc import Collection

import numpy as np
import pandas as pd

from analysis.benchmark import benchmark_of
from analysis.cells import ROW, rows_of
from analysis.load import finished
from analysis.names import FROZEN, row_label
from analysis.settings import condition_of

BASELINE = "lora"
CELL = ["function", "seed"]


def paired(frame: pd.DataFrame, loss: str) -> pd.DataFrame:
    """One row a finished cell of an adapter, over the functions that can be learnt.

    References are no adapters. A function that full fine-tuning could not learn with one of its
    seeds is left out with all of them: leaving out single seeds would choose runs by their test
    samples.

    Columns: budget, method, variant, reading (whether the method's formula is partly a reading),
    off_budget, function, seed, run_id, status, loss (inf where diverged or above the ceiling),
    baseline ("lora" or "frozen", one a budget), log_ratio (NaN where the baseline has no such
    cell).
    """
    cells = finished(frame)
    cells = cells[~cells["is_reference"] & ~cells["not_learnable"]]
    cells = cells.assign(reading=cells["reading"].eq(True), loss=cells[loss].astype(float))
    names = [*ROW, "reading", "off_budget", *CELL, "run_id", "status", "loss"]
    cells = cells.assign(frozen=cells[benchmark_of(frame).frozen_of(loss)].astype(float))
    cells = cells[[*names, "frozen"]]  # a wide table is slow to join
    parts = [_with_baseline(part) for _, part in cells.groupby("budget", sort=False)]
    names += ["baseline", "log_ratio"]
    return (pd.concat(parts) if parts else cells.reindex(columns=names))[names]


def _with_baseline(part: pd.DataFrame) -> pd.DataFrame:
    """The cells of one budget with their baseline and normalised loss."""
    own, partner = part[part["method"] == BASELINE], partners(part)
    if partner.isna().any():
        return part.assign(baseline=FROZEN, log_ratio=log_ratio(part["loss"], part["frozen"]))
    losses = own.set_index(["variant", *CELL])["loss"]
    wanted = pd.MultiIndex.from_arrays([partner, part["function"], part["seed"]])
    base = losses.reindex(wanted).to_numpy(float)
    return part.assign(baseline=BASELINE, log_ratio=log_ratio(part["loss"], base))


def partners(cells: pd.DataFrame) -> pd.Series:
    """Of each cell the variant of LoRA's row that it stands beside in its budget, None for none."""
    known = cells[cells["method"] == BASELINE].groupby("budget")["variant"].unique()
    rows = zip(cells["budget"], cells["variant"], strict=True)
    found = [partner_of(variant, known.get(budget, ())) for budget, variant in rows]
    return pd.Series(found, cells.index, dtype=object)


def partner_of(variant: str, known: Collection[str]) -> str | None:
    """Which of LoRA's `known` rows a row stands beside: that of its variant, or the only one under
    its condition (`analysis.settings`)."""
    if variant in known:
        return variant
    alike = [other for other in known if condition_of(other) == condition_of(variant)]
    return alike[0] if len(alike) == 1 else None


def log_ratio(loss: pd.Series | np.ndarray, base: pd.Series | np.ndarray) -> np.ndarray:
    """log(loss / base) elementwise; 0 where the two are equal, be they 0 or inf."""
    loss, base = np.asarray(loss, float), np.asarray(base, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(loss == base, 0.0, np.log(loss) - np.log(base))


def extended_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean along `axis` under the rules of this module; NaN for no value."""
    values = np.asarray(values, float)
    finite = np.isfinite(values)
    surplus = np.isposinf(values).sum(axis) - np.isneginf(values).sum(axis)
    total, count = np.where(finite, values, 0.0).sum(axis), finite.sum(axis)
    empty = np.where(values.shape[axis], 0.0, np.nan)  # nothing but pairs of inf and -inf: a tie
    mean = np.where(count > 0, total / np.maximum(count, 1), empty)
    return np.where(surplus == 0, mean, np.copysign(np.inf, surplus))


def groups(cells: pd.DataFrame, column: str) -> list[np.ndarray]:
    """The values of `column`, an array a function, seeds in order; NaN is no value."""
    known = cells.dropna(subset=column).sort_values(CELL)
    return [part.to_numpy(float) for _, part in known.groupby("function")[column]]


def by_cell(cells: pd.DataFrame) -> pd.DataFrame:
    """The losses of one budget, a column (method, variant), a row (function, seed), sorted."""
    return cells.pivot(index=CELL, columns=ROW[1:], values="loss").sort_index()


def common(cells: pd.DataFrame) -> pd.DataFrame:
    """`by_cell` where every row has finished: what is compared jointly is compared on the same
    data."""
    return by_cell(cells).dropna()[rows_of(cells)]


def unpaired(cells: pd.DataFrame) -> list[str]:
    """In words the cells that lack their baseline."""
    alone = cells[cells["log_ratio"].isna()]
    return [
        f"{row_label(cell.method, cell.variant)} on {cell.function} ({cell.budget}), "
        f"seed {cell.seed}"
        for cell in alone.itertuples()
    ]
