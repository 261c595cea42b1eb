"""Aggregates over functions against plain loops and scipy."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_tables import (
    ADAPTERS,
    FUNCTIONS,
    SEEDS,
    VALUES,
    diverged_of,
    long_table,
    losses_of,
    pairs_of,
    plain_mean,
    plain_ratio,
    row,
)
from scipy import stats as scipy_stats

from analysis.stats.aggregates import by_function, improvement, interquartile_mean, iqm, profiles
from analysis.stats.intervals import bootstrap_of_mean


@given(st.lists(VALUES, min_size=1, max_size=12))
def test_interquartile_mean(values: list[float]) -> None:
    cut = len(values) // 4
    middle = sorted(values)[cut : len(values) - cut]
    assert float(interquartile_mean(np.array(values))) == pytest.approx(
        plain_mean(middle), abs=1e-9
    )
    if all(map(math.isfinite, values)):
        trimmed = scipy_stats.trim_mean(values, 0.25)
        assert float(interquartile_mean(np.array(values))) == pytest.approx(trimmed, abs=1e-9)


def test_iqm_of_every_row(frame: pd.DataFrame) -> None:
    table = iqm(pairs_of(frame))
    assert len(table) == 2 * len(ADAPTERS)
    for own in table.itertuples():
        losses, base = (losses_of(frame, own.budget, name) for name in (own.method, "lora"))
        ratios = sorted(plain_ratio(losses[cell], base[cell]) for cell in losses)
        cut = len(ratios) // 4
        assert own.iqm == pytest.approx(plain_mean(ratios[cut : len(ratios) - cut]))
        assert own.infinite == sum(map(math.isinf, losses.values()))
        assert own.diverged == len(diverged_of(frame, own.budget, own.method))
        assert own.low <= own.iqm <= own.high


def test_by_function_agrees_with_scipy(frame: pd.DataFrame) -> None:
    for own in by_function(pairs_of(frame)).itertuples():
        losses, base = (losses_of(frame, own.budget, name) for name in (own.method, "lora"))
        pairs = [(losses[own.function, seed], base[own.function, seed]) for seed in SEEDS]
        ratios = [plain_ratio(*pair) for pair in pairs]
        assert own.mean == pytest.approx(plain_mean(ratios))
        assert own.infinite == sum(math.isinf(loss) for loss, _ in pairs)
        assert own.diverged == diverged_of(frame, own.budget, own.method).count(own.function)
        if np.isfinite(ratios).all() and np.ptp(ratios):
            limits = scipy_stats.ttest_1samp(ratios, 0.0).confidence_interval(0.95)
            assert (own.low, own.high) == pytest.approx(tuple(limits))
        elif np.isinf(ratios).all() and len(set(ratios)) == 1:
            assert own.low == own.high == ratios[0]
        elif np.isinf(ratios).any():
            assert (own.low, own.high) == (-math.inf, math.inf)


def test_improvement_of_every_two_rows(frame: pd.DataFrame) -> None:
    table = improvement(pairs_of(frame))
    assert len(table) == 2 * len(ADAPTERS) * (len(ADAPTERS) - 1)
    for own in table.itertuples():
        mine, other = (losses_of(frame, own.budget, name) for name in (own.method, own.other))
        shares = []
        for function in FUNCTIONS:
            wins = 0.0
            for seed in SEEDS:
                x, y = mine[function, seed], other[function, seed]
                wins += 1.0 if x < y else 0.5 if x == y else 0.0
            shares.append(wins / len(SEEDS))
        assert own.probability == pytest.approx(sum(shares) / len(shares))
        assert 0 <= own.low <= own.probability <= own.high <= 1
        back = row(table, budget=own.budget, method=own.other, other=own.method)
        assert own.probability + back["probability"] == pytest.approx(1.0)


def test_every_two_rows_are_resampled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = pairs_of(long_table())
    calls: list[int] = []

    def counted(shares: list[np.ndarray]) -> tuple:
        calls.append(len(shares))
        return bootstrap_of_mean(shares)

    monkeypatch.setattr("analysis.stats.aggregates.bootstrap_of_mean", counted)
    table = improvement(cells)
    assert len(calls) == len(table) / 2
    for own in table.itertuples():
        back = row(table, budget=own.budget, method=own.other, other=own.method)
        assert (own.low, own.high) == pytest.approx((1 - back["high"], 1 - back["low"]))


def test_profiles_of_every_row(frame: pd.DataFrame) -> None:
    table = profiles(pairs_of(frame))
    for own in table.iloc[::7].itertuples():
        losses = {name: losses_of(frame, own.budget, name) for name in ADAPTERS}
        shares = []
        for function in FUNCTIONS:
            within = 0
            for seed in SEEDS:
                best = min(losses[name][function, seed] for name in ADAPTERS)
                loss = losses[own.method][function, seed]
                within += math.isfinite(loss) and loss <= own.factor * best
            shares.append(within / len(SEEDS))
        assert own.share == pytest.approx(sum(shares) / len(shares))
    for _, part in table.groupby(["budget", "method"]):
        assert part["share"].is_monotonic_increasing
