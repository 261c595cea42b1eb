"""Aggregates over functions and seeds: interquartile mean, improvement, profiles.

After Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(arXiv 2108.13264), on paired cells. Every function takes what `pairs.paired` returns, treats the
blocks of a budget apart, and returns a long table whose columns its docstring names.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, permutations

import numpy as np
import pandas as pd

from analysis.cells import cells_of, rows_of
from analysis.names import budget_order
from analysis.stats.intervals import bootstrap_of_mean, contrast, stratified_bootstrap
from analysis.stats.pairs import CELL, ROW, common, extended_mean, groups

FACTORS = np.round(np.geomspace(1.0, 2.0, 41), 6)  # of a performance profile


def blocks_of(cells: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The cells of each budget, in the order of the tables."""
    yield from sorted(cells.groupby("budget"), key=lambda item: budget_order(item[0]))


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """The mean of the middle half along the last axis, floor(n / 4) values cut from each end.

    inf and -inf are the ends of the order; in the middle half `extended_mean`'s rules hold.
    """
    cut = values.shape[-1] // 4
    return extended_mean(np.sort(values, -1)[..., cut : values.shape[-1] - cut])


def iqm(cells: pd.DataFrame) -> pd.DataFrame:
    """The interquartile mean of the normalised loss of each row, over all functions and seeds.

    Columns: budget, method, variant, reading, off_budget, baseline, functions, cells, diverged
    (runs), infinite (losses: theirs and those above the ceiling), unpaired, iqm, low, high (logs,
    NaN without a value).
    """
    found = []
    for budget, block in blocks_of(cells):
        for row in rows_of(block):
            own = cells_of(block, row)
            values = groups(own, "log_ratio")
            value, low, high = (
                stratified_bootstrap(values, lambda g: interquartile_mean(np.concatenate(g, 1)))
                if values
                else (np.nan, np.nan, np.nan)
            )
            found.append(
                {
                    "budget": budget,
                    "method": row[0],
                    "variant": row[1],
                    "reading": bool(own["reading"].any()),
                    "off_budget": bool(own["off_budget"].any()),
                    "baseline": own["baseline"].iloc[0],
                    "functions": len(values),
                    "cells": len(own),
                    **_lost(own),
                    "unpaired": int(own["log_ratio"].isna().sum()),
                    "iqm": float(value),
                    "low": float(low),
                    "high": float(high),
                }
            )
    return pd.DataFrame(found)


def _lost(cells: pd.DataFrame) -> dict[str, int]:
    return {
        "diverged": int((cells["status"] == "diverged").sum()),
        "infinite": int(np.isinf(cells["loss"]).sum()),
    }


def by_function(cells: pd.DataFrame) -> pd.DataFrame:
    """The mean normalised loss of each row on each function, with its t interval over seeds.

    Columns: budget, method, variant, function, seeds, diverged and infinite (as in `iqm`), mean,
    low, high (logs).
    """
    found = []
    for budget, block in blocks_of(cells):
        known = block.dropna(subset="log_ratio")
        for row in rows_of(known):
            for function, part in cells_of(known, row).groupby("function", sort=False):
                interval = contrast([part.sort_values("seed")["log_ratio"].to_numpy(float)], [1.0])
                found.append(
                    {
                        "budget": budget,
                        "method": row[0],
                        "variant": row[1],
                        "function": function,
                        "seeds": len(part),
                        **_lost(part),
                        "mean": interval.value,
                        "low": interval.low,
                        "high": interval.high,
                    }
                )
    return pd.DataFrame(found)


def improvement(cells: pd.DataFrame) -> pd.DataFrame:
    """P(X < Y) of each two rows: how often X has the lower loss, ties counted half.

    The share of seeds on which X's loss is the lower one, paired by seed (rliable compares all
    pairs of seeds; here X and Y of one seed share backbone and samples), averaged over functions.
    Two infinite losses are tied. Each pair of rows is compared where both have finished.

    Columns: budget, method, variant, other, other_variant, functions, cells, probability, low,
    high.
    """
    found = []
    for budget, block in blocks_of(cells):
        table = block.pivot(index=CELL, columns=ROW, values="loss").sort_index()
        functions = pd.factorize(table.index.get_level_values("function"))[0]
        losses = {row: table[row].to_numpy(float) for row in table}
        rows = rows_of(block)
        chances = {
            (row, other): _chance(losses[row], losses[other], functions)
            for row, other in combinations(rows, 2)
        }
        for row, other in permutations(rows, 2):
            own = chances.get((row, other)) or chances[other, row].mirrored
            found.append(
                {
                    "budget": budget,
                    "method": row[0],
                    "variant": row[1],
                    "other": other[0],
                    "other_variant": other[1],
                    **vars(own),
                }
            )
    return pd.DataFrame(found)


@dataclass(frozen=True)
class _Chance:
    """P(X < Y) on the functions and cells that X and Y share."""

    functions: int
    cells: int
    probability: float
    low: float
    high: float

    @property
    def mirrored(self) -> "_Chance":
        """P(Y < X)."""
        probability, low, high = 1 - self.probability, 1 - self.high, 1 - self.low
        return replace(self, probability=probability, low=low, high=high)


def _chance(x: np.ndarray, y: np.ndarray, functions: np.ndarray) -> _Chance:
    """P(x < y) of the losses (cells,) of two rows, NaN where a row has no such cell.

    Args:
        functions: the function of each cell, as a number from 0 on.
    """
    shared = ~(np.isnan(x) | np.isnan(y))
    wins = (x < y) + 0.5 * (x == y)
    shares = [wins[shared & (functions == name)] for name in np.unique(functions[shared])]
    if not shares:
        return _Chance(0, 0, np.nan, np.nan, np.nan)
    limits = map(float, bootstrap_of_mean(shares))
    return _Chance(len(shares), int(shared.sum()), *limits)


def profiles(cells: pd.DataFrame) -> pd.DataFrame:
    """Performance profiles (Dolan and Moré 2002, arXiv cs/0102001).

    The share of cells in which a row's loss is at most `factor` times that of the cell's best row,
    averaged over functions; an infinite loss is within no factor. Over the cells that all rows
    share.

    Columns: budget, method, variant, factor, share, low, high.
    """
    found = []
    for budget, block in blocks_of(cells):
        losses = common(block)
        if losses.empty:
            continue
        best = losses.min(axis=1).to_numpy(float)
        within = np.isfinite(losses.to_numpy(float))[:, :, None] & (
            losses.to_numpy(float)[:, :, None] <= best[:, None, None] * FACTORS
        )  # (cells, rows, factors)
        places = losses.groupby(level="function").indices
        shares = [within[places[name]].astype(float) for name in sorted(places)]
        value, low, high = bootstrap_of_mean(shares)
        found += [
            {
                "budget": budget,
                "method": row[0],
                "variant": row[1],
                "factor": factor,
                "share": value[i, j],
                "low": low[i, j],
                "high": high[i, j],
            }
            for i, row in enumerate(losses)
            for j, factor in enumerate(FACTORS)
        ]
    return pd.DataFrame(found)
