"""Aggregates over functions and seeds: interquartile mean, improvement, profiles.

After Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(arXiv 2108.13264), on paired cells. Every function takes what `pairs.paired` returns, treats the
blocks of a budget apart, and returns a long table whose columns its docstring names.
"""

from itertools import combinations, permutations
from typing import Any

import numpy as np
import pandas as pd

from analysis.cells import ROW, by_budget, rows_of
from analysis.rows import measured
from analysis.stats.intervals import (
    NO_INTERVAL,
    Interval,
    bootstrap_of_mean,
    contrast,
    stratified_bootstrap,
)
from analysis.stats.pairs import by_cell, common, extended_mean, groups

FACTORS = np.round(np.geomspace(1.0, 2.0, 41), 6)  # of a performance profile


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
    return measured(cells, _pooled)


def _pooled(cells: pd.DataFrame) -> dict[str, Any]:
    values = groups(cells, "log_ratio")
    pooled = (
        stratified_bootstrap(values, lambda drawn: interquartile_mean(np.concatenate(drawn, 1)))
        if values
        else NO_INTERVAL
    )
    return {
        "reading": bool(cells["reading"].any()),
        "off_budget": bool(cells["off_budget"].any()),
        "baseline": cells["baseline"].iloc[0],
        "functions": len(values),
        "cells": len(cells),
        **_lost(cells),
        "unpaired": int(cells["log_ratio"].isna().sum()),
        **pooled.named("iqm"),
    }


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
    return measured(cells.dropna(subset="log_ratio"), _mean, by="function")


def _mean(cells: pd.DataFrame) -> dict[str, float]:
    mean = contrast([cells.sort_values("seed")["log_ratio"].to_numpy(float)], [1.0])
    return {"seeds": len(cells), **_lost(cells), **mean.named("mean")}


def improvement(cells: pd.DataFrame) -> pd.DataFrame:
    """P(X < Y) of each two rows: how often X has the lower loss, ties counted half.

    The share of seeds on which X's loss is the lower one, paired by seed (rliable compares all
    pairs of seeds; here X and Y of one seed share backbone and samples), averaged over functions.
    Two infinite losses are tied. Each pair of rows is compared where both have finished.

    Columns: budget, method, variant, other, other_variant, functions, cells, probability, low,
    high.
    """
    found = []
    for budget, block in by_budget(cells):
        table = by_cell(block)
        functions = pd.factorize(table.index.get_level_values("function"))[0]
        losses, rows = {row: table[row].to_numpy(float) for row in table}, rows_of(block)
        chances = {
            (x, y): _chance(losses[x], losses[y], functions) for x, y in combinations(rows, 2)
        }
        names = [*ROW, "other", "other_variant"]
        found += [
            dict(zip(names, (budget, *x, *y), strict=True))
            | (chances[x, y] if (x, y) in chances else _mirrored(chances[y, x]))
            for x, y in permutations(rows, 2)
        ]
    return pd.DataFrame(found)


def _chance(x: np.ndarray, y: np.ndarray, functions: np.ndarray) -> dict[str, float]:
    """P(x < y) of the losses (cells,) of two rows, NaN where a row has no such cell.

    Args:
        functions: the function of each cell, as a number from 0 on.
    """
    shared = ~(np.isnan(x) | np.isnan(y))
    wins = (x < y) + 0.5 * (x == y)
    shares = [wins[shared & (functions == name)] for name in np.unique(functions[shared])]
    chance = bootstrap_of_mean(shares) if shares else NO_INTERVAL
    counts = {"functions": len(shares), "cells": int(shared.sum())}
    return {**counts, **chance.named("probability")}


def _mirrored(chance: dict[str, float]) -> dict[str, float]:
    """P(y < x)."""
    mirrored = (1 - chance[end] for end in ("probability", "high", "low"))
    return chance | Interval(*mirrored).named("probability")


def profiles(cells: pd.DataFrame) -> pd.DataFrame:
    """Performance profiles (Dolan and Moré 2002, arXiv cs/0102001).

    The share of cells in which a row's loss is at most `factor` times that of the cell's best row,
    averaged over functions; an infinite loss is within no factor. Over the cells that all rows
    share.

    Columns: budget, method, variant, factor, share, low, high.
    """
    found = []
    for budget, block in by_budget(cells):
        losses = common(block)
        if losses.empty:
            continue
        values, best = losses.to_numpy(float), losses.min(axis=1).to_numpy(float)
        within = np.isfinite(values)[:, :, None] & (
            values[:, :, None] <= best[:, None, None] * FACTORS
        )  # (cells, rows, factors)
        places = losses.groupby(level="function").indices
        share = bootstrap_of_mean([within[places[name]].astype(float) for name in sorted(places)])
        rows = losses.columns.to_frame(index=False).assign(budget=budget)[ROW]
        points = rows.merge(pd.DataFrame({"factor": FACTORS}), how="cross")
        ends = {"share": share.value, "low": share.low, "high": share.high}  # (rows, factors) each
        found.append(points.assign(**{name: end.ravel() for name, end in ends.items()}))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()
