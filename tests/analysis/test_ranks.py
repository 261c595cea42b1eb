"""Tests and ranks over functions, against plain loops, scipy and published tables."""

import itertools
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
    long_table,
    losses_of,
    pairs_of,
    plain_mean,
    plain_ratio,
    same,
)
from scipy import stats as scipy_stats

from analysis.stats.aggregates import improvement
from analysis.stats.ranks import (
    against_baseline,
    average_ranks,
    cliques,
    critical_difference,
    decidable,
    holm,
    signed_rank_p,
)


@given(st.lists(st.integers(-40, 40), min_size=1, max_size=7), st.booleans())
def test_the_signed_rank_test_counts_every_sign(numbers: list[int], infinite: bool) -> None:
    """Against all sign patterns, one by one: zeros are ranked and then have none."""
    values = [math.inf * n if infinite and abs(n) == 40 else float(n) for n in numbers]
    if not any(values):
        assert signed_rank_p(np.array(values)) == 1.0
        return
    ranks = scipy_stats.rankdata(np.abs(values))
    nonzero = [rank for rank, value in zip(ranks, values, strict=True) if value]

    def distance(signs: tuple[int, ...]) -> float:
        return abs(sum(sign * rank for sign, rank in zip(signs, nonzero, strict=True)))

    seen = distance(tuple(1 if value > 0 else -1 for value in values if value))
    patterns = list(itertools.product((-1, 1), repeat=len(nonzero)))
    share = sum(distance(signs) >= seen - 1e-9 for signs in patterns) / len(patterns)
    assert signed_rank_p(np.array(values)) == pytest.approx(share)


def test_the_signed_rank_test_agrees_with_scipy_exactly() -> None:
    for seed in range(20):
        values = np.random.default_rng(seed).normal(0.4, 1.0, 9)
        exact = scipy_stats.wilcoxon(values, method="exact").pvalue
        assert signed_rank_p(values) == pytest.approx(exact)
    assert signed_rank_p(np.arange(1.0, 10.0)) == pytest.approx(2 / 2**9)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm(p_values: list[float]) -> None:
    """The i-th smallest is rejected at level a where p_(j) <= a / (m - j) for all j <= i."""
    corrected = holm(p_values)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for place, index in enumerate(order):
        steps = [(len(p_values) - j) * p_values[order[j]] for j in range(place + 1)]
        assert corrected[index] == pytest.approx(min(1.0, max(steps)))


def test_tests_against_lora(frame: pd.DataFrame) -> None:
    table = against_baseline(pairs_of(frame))
    assert set(table["method"]) == {"dora", "queryable"}
    for own in table.itertuples():
        losses, base = (losses_of(frame, own.budget, name) for name in (own.method, "lora"))
        means = [
            plain_mean([plain_ratio(losses[name, s], base[name, s]) for s in SEEDS])
            for name in FUNCTIONS
        ]
        assert (own.better, own.worse, own.tied) == (
            sum(mean < 0 for mean in means),
            sum(mean > 0 for mean in means),
            sum(mean == 0 for mean in means),
        )
        assert own.p == pytest.approx(signed_rank_p(np.array(means)))
        assert own.mean == pytest.approx(plain_mean(means))  # the effect that p is of
        assert own.mean_low <= own.mean <= own.mean_high
        assert own.smallest_p == 2 / 2 ** len(FUNCTIONS)
    for _, block in table.groupby("budget"):
        smaller, larger = sorted(block["p"])
        assert sorted(block["p_holm"]) == pytest.approx(
            [min(1.0, 2 * smaller), min(1.0, max(2 * smaller, larger))]
        )


def test_a_reading_is_not_among_the_tests(frame: pd.DataFrame) -> None:
    marked = frame.assign(reading=frame["method"] == "dora")
    cells, alone = (pairs_of(table) for table in (marked, frame[frame["method"] != "dora"]))
    table, whole = against_baseline(cells), pairs_of(frame)
    others = table[table["method"] != "dora"]
    pd.testing.assert_frame_equal(others.reset_index(drop=True), against_baseline(alone))
    dora, before = (
        found[found["method"] == "dora"].drop(columns="p_holm")
        for found in (table, against_baseline(whole))
    )
    pd.testing.assert_frame_equal(dora, before)
    assert table.loc[table["method"] == "dora", "p_holm"].isna().all()
    same([improvement(cells), average_ranks(cells)], [improvement(whole), average_ranks(whole)])


def test_what_the_most_one_sided_losses_could_decide() -> None:
    for functions, tests in itertools.product(range(1, 11), range(1, 20)):
        p = signed_rank_p(np.arange(1.0, functions + 1))
        corrected = holm([p] * tests)
        table = pd.DataFrame({"p_holm": corrected, "smallest_p": p})
        assert decidable(table) == (min(corrected) < 0.05)
    assert not decidable(table.assign(p_holm=math.nan))


def test_ranks_of_every_function(frame: pd.DataFrame) -> None:
    cells = pairs_of(frame)
    table = average_ranks(cells)
    for budget in ("equal_rank", "lora_r4"):
        losses = {name: losses_of(frame, budget, name) for name in ADAPTERS}
        final = []
        for function in FUNCTIONS:
            sums = [0.0] * len(ADAPTERS)
            for seed in SEEDS:
                own = [losses[name][function, seed] for name in ADAPTERS]
                for i, loss in enumerate(own):
                    sums[i] += 1 + sum(x < loss for x in own) + (own.count(loss) - 1) / 2
            final.append([1 + sum(x < s for x in sums) + (sums.count(s) - 1) / 2 for s in sums])
        expected = np.mean(final, axis=0)
        block = table[table["budget"] == budget]
        assert dict(zip(block["method"], block["rank"], strict=True)) == pytest.approx(
            dict(zip(ADAPTERS, expected, strict=True))
        )
        oracle = scipy_stats.friedmanchisquare(*np.transpose(final))
        assert block["friedman"].iloc[0] == pytest.approx(oracle.statistic)
        assert block["friedman_p"].iloc[0] == pytest.approx(oracle.pvalue)


def test_critical_differences_are_demsars() -> None:
    """Table 5a of Demšar (2006)."""
    for rows, q in ((2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)):
        expected = q * math.sqrt(rows * (rows + 1) / (6 * 14))
        assert critical_difference(rows, 14) == pytest.approx(expected, rel=1e-3)


def test_too_little_to_rank() -> None:
    frame = long_table(infinite=0.0)
    cells = pairs_of(frame[frame["method"].isin(["lora", "dora"])])
    assert average_ranks(cells)["friedman_p"].isna().all()
    one = average_ranks(cells[cells["function"] == "levy"])
    assert one["critical_difference"].isna().all()
    same = cells.assign(loss=1.0)
    assert set(average_ranks(same)["rank"]) == {1.5}


@given(st.lists(st.floats(1, 9), min_size=1, max_size=8), st.floats(0.1, 5))
def test_cliques_are_the_longest_runs(ranks: list[float], difference: float) -> None:
    ranks = sorted(ranks)
    runs = [
        (i, j)
        for i in range(len(ranks))
        for j in range(i + 1, len(ranks))
        if ranks[j] - ranks[i] < difference
    ]
    longest = [
        (i, j) for i, j in runs if not any(a <= i and j <= b and (a, b) != (i, j) for a, b in runs)
    ]
    assert cliques(ranks, difference) == longest
