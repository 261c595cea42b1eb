"""Tests and ranks over functions.

The unit here is the function. Seeds of one function share it: a method that suits a function suits
it with every seed, so (function, seed) cells are no independent evidence for "better on functions
like these", and a test over them would call chance among nine functions significant. Each function
therefore gives one number, a mean over its seeds. The price is resolution: with F functions no p
value is below 2 / 2^F (0.0039 for nine), and Holm multiplies that by the number of tests. So a
method whose formula is partly a reading, which claims leave out, is not among them.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.cells import ROW, by_budget
from analysis.rows import measured
from analysis.stats.intervals import welch_of_mean
from analysis.stats.pairs import BASELINE, common, extended_mean, groups

ALPHA = 0.05


def against_baseline(cells: pd.DataFrame) -> pd.DataFrame:
    """Wilcoxon's signed-rank test of each row against LoRA, Holm-corrected within a block.

    A row whose formula is partly a reading has a p of its own, outside of the correction.

    On the functions' mean normalised losses. Signed ranks, because one function can hold a tenfold
    difference where the others hold a tenth, and because an infinite difference is then simply the
    largest.

    Columns: budget, method, variant, test_functions, better, worse, tied (functions), mean (of the
    functions' means, a log: the effect that is tested), mean_low, mean_high (Welch's limits), p,
    p_holm (NaN for a reading), smallest_p (2 / 2^F). Blocks without LoRA have no rows.
    """
    rivals = cells[(cells["baseline"] == BASELINE) & (cells["method"] != BASELINE)]
    table = measured(rivals.dropna(subset="log_ratio"), _tested)
    if not table.empty:
        family = ~table.pop("reading")
        table.loc[family, "p_holm"] = table[family].groupby("budget")["p"].transform(holm)
    return table


def _tested(cells: pd.DataFrame) -> dict[str, Any]:
    logs = groups(cells, "log_ratio")
    means = np.array([extended_mean(seeds) for seeds in logs])
    return {
        "test_functions": len(means),
        "better": int((means < 0).sum()),
        "worse": int((means > 0).sum()),
        "tied": int((means == 0).sum()),
        **welch_of_mean(logs).named("mean", "mean_low", "mean_high"),
        "p": signed_rank_p(means),
        "p_holm": math.nan,
        "smallest_p": min(1.0, 2.0 ** (1 - len(means))),
        "reading": bool(cells["reading"].any()),
    }


def decidable(tests: pd.DataFrame) -> bool:
    """Whether a corrected p of one block can fall below `ALPHA`.

    Args:
        tests: rows of `against_baseline`.
    """
    family = tests[tests["p_holm"].notna()]
    return bool(len(family) * family["smallest_p"].min() < ALPHA)


def signed_rank_p(differences: np.ndarray) -> float:
    """The exact two-sided p value of Wilcoxon's signed-rank test over all 2^F patterns of signs.

    Ties share the mean of their ranks; zeros are ranked and then have no sign (Pratt 1959).
    `scipy.stats.wilcoxon` with a `PermutationMethod` gives the same p, but takes minutes for 20
    functions and refuses one.
    """
    doubled = np.rint(2 * stats.rankdata(np.abs(differences))).astype(int)  # inf ranks highest
    steps = doubled[differences != 0]
    counts = np.ones(1)  # of sign patterns, by the sum of their positive doubled ranks
    for step in steps:
        counts = np.pad(counts, (0, step)) + np.pad(counts, (step, 0))
    distance = np.abs(2 * np.arange(len(counts)) - steps.sum())
    seen = abs(2 * doubled[differences > 0].sum() - steps.sum())
    return float(counts[distance >= seen].sum() / counts.sum())


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's (1979) step-down correction, in the order given."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(p), 0, -1) * p[order]))
    return corrected


def function_ranks(block: pd.DataFrame) -> pd.DataFrame:
    """The rank of each row on each function, 1 the best; a column (method, variant).

    Rows are ranked in each cell that all have finished, the ranks averaged over a function's seeds
    and ranked again. So nothing but the order of losses counts: infinite ones share the last
    ranks of their cell, ties the mean of theirs.
    """
    in_cells = common(block).rank(axis=1)
    return in_cells.groupby(level="function").mean().rank(axis=1)


def average_ranks(cells: pd.DataFrame) -> pd.DataFrame:
    """Average ranks over functions, with Friedman's test and Nemenyi's critical difference.

    After Demšar 2006 (JMLR 7): two rows whose ranks differ by less than the critical difference,
    q sqrt(k (k + 1) / (6 F)), are not told apart at the 5 % level.

    Columns: budget, method, variant, rows (k), ranked_functions (F), rank, friedman (chi square),
    friedman_p, critical_difference; the last three, the same in all rows of a block, are NaN where
    there are too few rows (3, 3, 2) or functions (2).
    """
    found = []
    for budget, block in by_budget(cells):
        ranks = function_ranks(block)
        functions, rows = ranks.shape
        statistic, p = friedman(ranks)
        difference = critical_difference(rows, functions)
        table = ranks.mean().rename("rank").reset_index()
        table = table.assign(budget=budget, rows=rows, ranked_functions=functions)
        table = table[[*ROW, "rows", "ranked_functions", "rank"]]
        found.append(table.assign(friedman=statistic, friedman_p=p, critical_difference=difference))
    return pd.concat(found, ignore_index=True)


def friedman(ranks: pd.DataFrame) -> tuple[float, float]:
    """Friedman's chi square and its p value; NaN for fewer than 3 columns or 2 rows or all tied."""
    functions, rows = ranks.shape
    if rows < 3 or functions < 2 or (ranks.nunique(axis=1) == 1).all():
        return math.nan, math.nan
    result = stats.friedmanchisquare(*(ranks[name] for name in ranks))
    return float(result.statistic), float(result.pvalue)


def critical_difference(rows: int, functions: int) -> float:
    """Nemenyi's critical difference of average ranks at the 5 % level."""
    if rows < 2 or functions < 2:
        return math.nan
    q = stats.studentized_range.ppf(1 - ALPHA, rows, math.inf) / math.sqrt(2)
    return float(q * math.sqrt(rows * (rows + 1) / (6 * functions)))


def cliques(ranks: list[float], difference: float) -> list[tuple[int, int]]:
    """The longest runs (first, last) of ascending `ranks` that differ by less than `difference`."""
    runs: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = max(
            i for i in range(len(ranks)) if i == first or ranks[i] - ranks[first] < difference
        )
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs
