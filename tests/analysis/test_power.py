"""What a number of seeds can show, against scipy, plain loops and simulated studies."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from analysis.stats.intervals import contrast
from analysis.stats.power import CHANCE, MOST_SEEDS, Precision, precision

ERRORS = st.floats(1e-6, 10.0)
FREEDOMS = st.floats(1.0, 300.0)
SHIFTS = st.floats(0.0, 6.0)  # standard errors


@given(ERRORS, FREEDOMS, SHIFTS)
def test_the_chance_is_that_of_the_noncentral_t(error: float, freedom: float, shift: float) -> None:
    edge = stats.t.ppf(0.975, freedom)
    found = Precision(error, freedom, 3).chance(shift * error)
    oracle = stats.nct.sf(edge, freedom, shift) + stats.nct.cdf(-edge, freedom, shift)
    assume(math.isfinite(oracle))  # scipy's may be NaN
    assert found == pytest.approx(oracle, abs=1e-5)
    assert Precision(error, freedom, 3).chance(-shift * error) == found


@given(ERRORS, FREEDOMS, st.floats(0.0, 1e20), st.floats(0.0, 1e20))
def test_a_larger_effect_is_found_as_often_or_more(
    error: float, freedom: float, one: float, other: float
) -> None:
    own = Precision(error, freedom, 3)
    small, large = (own.chance(effect) for effect in sorted((one, other)))
    assert 0.05 - 1e-6 <= small <= large + 1e-9 <= 1 + 1e-6
    assert own.chance(0.0) == pytest.approx(0.05, abs=1e-6)


@given(ERRORS, FREEDOMS)
def test_what_is_detectable_is_found_with_the_chance_asked_for(
    error: float, freedom: float
) -> None:
    own = Precision(error, freedom, 3)
    assert own.chance(own.detectable()) == pytest.approx(CHANCE, abs=1e-6)
    twice = Precision(2 * error, freedom, 3)
    assert twice.detectable() == pytest.approx(2 * own.detectable(), rel=1e-6)


@given(ERRORS, FREEDOMS, st.integers(2, 20), st.floats(0.01, 30.0))
def test_the_seeds_that_find_an_effect_are_the_fewest(
    error: float, freedom: float, seeds: int, shift: float
) -> None:
    own, effect = Precision(error, freedom, seeds), shift * error
    wanted = own.seeds_for(effect)
    if wanted is None:
        assert own.with_seeds(MOST_SEEDS).chance(effect) < CHANCE
        return
    assert own.with_seeds(wanted).chance(effect) >= CHANCE
    assert wanted == 2 or own.with_seeds(wanted - 1).chance(effect) < CHANCE


@given(ERRORS, FREEDOMS, st.integers(2, 20))
def test_as_many_seeds_as_there_are_change_nothing(
    error: float, freedom: float, seeds: int
) -> None:
    own = Precision(error, freedom, seeds)
    assert own.with_seeds(seeds) == pytest.approx(own)
    more = own.with_seeds(4 * seeds)
    assert more.error == pytest.approx(error / 2)
    assert more.detectable() < own.detectable()
    assert (own.seeds_for(1.001 * own.detectable()) or math.inf) <= seeds


def simulated(
    deviations: Sequence[float], weights: Sequence[float], seeds: int, effect: float, repeats: int
) -> float:
    """How often the interval of a contrast leaves out 0: functions of different spread, an effect
    that is the same on all of weight above 0."""
    draw = np.random.default_rng([seeds, len(deviations)])
    groups = [
        effect * (weight > 0) + deviation * draw.normal(size=(seeds, repeats))
        for deviation, weight in zip(deviations, weights, strict=True)
    ]
    interval = contrast(groups, weights)
    return float(((interval.low > 0) | (interval.high < 0)).mean())


def planned(deviations: Sequence[float], weights: Sequence[float], seeds: int) -> Precision:
    """The precision of such a study, its true deviations being known."""
    shape = np.array([-1.0, *[0.0] * (seeds - 2), 1.0])
    shape /= shape.std(ddof=1)
    found = precision([deviation * shape for deviation in deviations], weights)
    assert found is not None
    return found


NINE = [0.05, 0.08, 0.1, 0.02, 0.06, 0.04, 0.12, 0.07, 0.05]


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(
    ("deviations", "weights"),
    [
        ([0.1], [1.0]),
        (NINE, [1 / 9] * 9),
        ([0.1, 0.1, 0.1], [1.0, -0.5, -0.5]),
    ],
)
def test_a_simulated_study_finds_an_effect_as_often_as_it_is_said(
    deviations: list[float], weights: list[float], seeds: int
) -> None:
    own = planned(deviations, weights, seeds)
    for effect in (0.0, own.detectable(), 0.6 * own.detectable()):
        share = simulated(deviations, weights, seeds, effect, repeats=4000)
        assert share < own.chance(effect) + 0.025
        few = len(deviations) > 1 and seeds == 3  # Welch's degrees of freedom are estimated
        assert share > own.chance(effect) - (0.08 if few else 0.03)


def test_more_seeds_find_what_a_study_is_said_to_want() -> None:
    """From three seeds it is told how many would find an effect, and that many do."""
    few = planned(NINE, [1 / 9] * 9, 3)
    effect = 0.4 * few.detectable()
    assert simulated(NINE, [1 / 9] * 9, 3, effect, 4000) < 0.4
    wanted = few.seeds_for(effect)
    assert wanted is not None
    assert simulated(NINE, [1 / 9] * 9, wanted, effect, 4000) == pytest.approx(CHANCE, abs=0.04)
    assert simulated(NINE, [1 / 9] * 9, wanted - 2, effect, 4000) < CHANCE


@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=2, max_size=6), min_size=1, max_size=5),
    st.data(),
)
def test_it_is_the_precision_of_the_contrast(
    values: list[list[float]], data: st.DataObject
) -> None:
    """The interval's half width is t standard errors."""
    weights = data.draw(
        st.lists(st.sampled_from([-0.5, 0.0, 0.3, 1.0]), min_size=len(values), max_size=len(values))
    )
    assume(any(weights))
    groups = [np.array(own) for own in values]
    found, interval = precision(groups, weights), contrast(groups, weights)
    if found is None:
        assert not interval.low < interval.high
        return
    edge = stats.t.ppf(0.975, found.freedom)
    assert interval.high - interval.value == pytest.approx(edge * found.error, rel=1e-6)
    counted = [len(own) for own, weight in zip(values, weights, strict=True) if weight]
    assert found.seeds == min(counted)
    assert found.freedom >= found.seeds - 1 - 1e-6


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "values", [[[1.0]], [[1.0, 2.0], [3.0]], [[1.0, math.inf]], [[2.0, 2.0]], [[1.0, math.nan]]]
)
def test_without_a_finite_interval_there_is_none(values: list[list[float]]) -> None:
    assert precision([np.array(own) for own in values], [1.0] * len(values)) is None


def test_what_has_no_weight_has_no_part() -> None:
    known, gone = np.array([1.0, 2.0, 4.0]), np.array([math.inf])
    assert precision([known, gone], [1.0, 0.0]) == precision([known], [1.0])
