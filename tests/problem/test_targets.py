"""Splits, streams, shift, rotation and standardisation of a problem."""

import dataclasses
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlexp.config.schema import DataConfig, FunctionConfig, ShiftConfig
from qlexp.errors import UsageError
from qlexp.problem.functions import FUNCTIONS
from qlexp.problem.seeding import seed_stream
from qlexp.problem.targets import (
    Problem,
    Split,
    check_problem,
    make_problem,
    rotate,
    served_shifts,
    unseen_shifts,
)

SPLITS = ("pretrain", "source_validation", "adapt", "validation", "test")
EVERY = pytest.mark.parametrize("name", FUNCTIONS)


def config(name: str, **changes: object) -> FunctionConfig:
    entry = FUNCTIONS[name]
    base = FunctionConfig(name, dict(entry.coefficients), [list(side) for side in entry.domain])
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def problem(
    name: str = "levy",
    shift: ShiftConfig | None = None,
    data: DataConfig | None = None,
    seed: int = 0,
    **changes: object,
) -> Problem:
    return make_problem(config(name, **changes), shift or ShiftConfig(), data or DataConfig(), seed)


def splits(of: Problem) -> dict[str, Split]:
    return {name: getattr(of, name) for name in SPLITS}


def assert_same(one: Problem, other: Problem, *fields: str) -> None:
    for name in SPLITS:
        for item in fields:
            np.testing.assert_array_equal(
                getattr(getattr(one, name), item), getattr(getattr(other, name), item), name
            )


@EVERY
def test_no_shift_is_the_source_exactly(name: str) -> None:
    unshifted = problem(name)
    x = unshifted.test.x
    np.testing.assert_array_equal(unshifted.target(x), unshifted.source(x))
    assert unshifted.target_coefficients == unshifted.source_coefficients
    assert unshifted.source_coefficients == FUNCTIONS[name].coefficients


@EVERY
def test_definition_of_the_target(name: str) -> None:
    """Against the formula written out, from raw values at unscaled points."""
    shift = ShiftConfig(strength=0.15, rotation=25.0)
    built = problem(name, shift)
    entry = FUNCTIONS[name]
    (low1, high1), (low2, high2) = entry.domain

    def raw(x: np.ndarray, factor: float) -> np.ndarray:
        x1 = (low1 + high1) / 2 + x[:, 0] * (high1 - low1) / 2
        x2 = (low2 + high2) / 2 + x[:, 1] * (high2 - low2) / 2
        return entry.evaluate(x1, x2, {k: v * factor for k, v in entry.coefficients.items()})

    sample = raw(built.pretrain.x, 1.0)
    x = built.test.x
    standard = (raw(x, 1.15) - sample.mean()) / sample.std()
    phi = math.radians(25)
    wanted = math.cos(phi) * standard + math.sin(phi) * x[:, 0]
    np.testing.assert_allclose(built.target(x), wanted, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(built.raw(built.source(x)), raw(x, 1.0), rtol=1e-9, atol=1e-9)


@EVERY
def test_standardised_by_the_clean_pretraining_sample(name: str) -> None:
    built = problem(name, ShiftConfig(strength=0.3), DataConfig(noise=0.5))
    assert built.pretrain.clean.mean() == pytest.approx(0.0, abs=1e-12)
    assert built.pretrain.clean.std() == pytest.approx(1.0, abs=1e-12)
    # Another sample's moments are those only up to sampling error: none is standardised by itself.
    for other in (built.source_validation, built.test):
        assert abs(other.clean.mean()) > 1e-9
    assert problem(name).mean == built.mean
    assert problem(name).deviation == built.deviation


def test_splits_hold_source_and_target_values_and_their_sizes() -> None:
    data = DataConfig(pretrain=50, adapt=40, validation=30, test=20)
    built = problem("ackley", ShiftConfig(strength=0.2, rotation=-40), data)
    sizes = dict(zip(SPLITS, (50, 30, 40, 30, 20), strict=True))
    for name, split in splits(built).items():
        clean = built.source if name in SPLITS[:2] else built.target
        assert split.x.shape == (sizes[name], 2)
        assert split.y.shape == split.clean.shape == (sizes[name],)
        assert split.x.dtype == split.y.dtype == split.clean.dtype == np.float64
        assert np.abs(split.x).max() <= 1
        np.testing.assert_array_equal(split.clean, clean(split.x))


def test_noise_is_normal_with_the_configured_deviation() -> None:
    data = DataConfig(pretrain=20_000, adapt=20_000, noise=0.3)
    built = problem("drop_wave", ShiftConfig(strength=0.1, rotation=60), data)
    for split in (built.pretrain, built.adapt):
        noise = (split.y - split.clean) / 0.3
        assert abs(noise.mean()) < 0.03
        assert noise.std() == pytest.approx(1.0, abs=0.02)
        assert (noise**4).mean() == pytest.approx(3.0, abs=0.25)
        assert abs(np.corrcoef(noise, split.clean)[0, 1]) < 0.03
    quiet = problem(data=DataConfig(noise=0.0))
    for split in splits(quiet).values():
        np.testing.assert_array_equal(split.y, split.clean)


@EVERY
def test_repeated_calls_agree_bit_for_bit(name: str) -> None:
    shift = ShiftConfig(strength=0.2, rotation=10)
    assert_same(
        problem(name, shift, spread=0.1, seed=3),
        problem(name, shift, spread=0.1, seed=3),
        "x",
        "y",
        "clean",
    )


def test_seeds_and_functions_give_other_data() -> None:
    builds = [problem(seed=0), problem(seed=1), problem("ackley", seed=0)]
    for one, other in combinations(builds, 2):
        for name in SPLITS:
            assert not np.isin(getattr(one, name).x, getattr(other, name).x).any()


def test_the_shift_moves_neither_inputs_nor_noise() -> None:
    plain = problem()
    for shift in (
        ShiftConfig(strength=0.4, rotation=30),
        ShiftConfig(strength=-0.5, coefficients=["ripple_1"]),
    ):
        moved = problem(shift=shift)
        assert_same(plain, moved, "x")
        for name in SPLITS:
            one, other = getattr(plain, name), getattr(moved, name)
            np.testing.assert_allclose(one.y - one.clean, other.y - other.clean, atol=1e-12)
        for name in SPLITS[:2]:
            np.testing.assert_array_equal(getattr(plain, name).y, getattr(moved, name).y)


@EVERY
@pytest.mark.parametrize("changed", ["adapt", "validation", "test"])
def test_the_size_of_a_split_changes_no_other(changed: str, name: str) -> None:
    data = DataConfig()
    plain = problem(name)
    larger = problem(name, data=dataclasses.replace(data, **{changed: getattr(data, changed) + 77}))
    grown = {"validation", "source_validation"} if changed == "validation" else {changed}
    for split, before in splits(plain).items():
        after = splits(larger)[split]
        assert len(after.y) == len(before.y) + (77 if split in grown else 0)
        for item in ("x", "y", "clean"):
            longer = getattr(after, item)[: len(before.y)]
            np.testing.assert_array_equal(longer, getattr(before, item))


def test_the_pretraining_size_changes_no_other_inputs() -> None:
    plain, larger = problem(), problem(data=DataConfig(pretrain=3500))
    np.testing.assert_array_equal(plain.pretrain.x, larger.pretrain.x[:3000])
    for name in SPLITS[1:]:
        np.testing.assert_array_equal(getattr(plain, name).x, getattr(larger, name).x)


def test_streams_are_independent() -> None:
    built = problem(data=DataConfig(3000, 3000, 3000, 3000, noise=1.0))
    for one, other in combinations(splits(built).values(), 2):
        assert not np.isin(one.x, other.x).any()
    columns = [column for s in splits(built).values() for column in (*s.x.T, s.y - s.clean)]
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlation).max() < 5 / math.sqrt(3000)


def test_inputs_fill_the_square_evenly() -> None:
    x = problem(data=DataConfig(pretrain=40_000)).pretrain.x
    counts, _, _ = np.histogram2d(x[:, 0], x[:, 1], bins=4, range=[[-1, 1], [-1, 1]])
    assert counts.sum() == 40_000
    assert np.abs(counts - 2500).max() < 5 * math.sqrt(2500)


def test_named_coefficients_alone_are_shifted() -> None:
    built = problem("rastrigin", ShiftConfig(strength=0.5, coefficients=["frequency"]))
    assert built.target_coefficients == {
        "amplitude": 10.0,
        "quadratic": 1.0,
        "frequency": 3 * math.pi,
    }
    built = problem("rastrigin", ShiftConfig(strength=0.5, rotation=5, coefficients=[]))
    assert built.target_coefficients == built.source_coefficients


def test_configured_coefficients_and_domain_are_used() -> None:
    built = problem("matyas", coefficients={"quadratic": 1.0}, domain=[[0.0, 2.0], [4.0, 8.0]])
    corner = np.array([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    wanted = [16.0, 4 + 64 - 0.48 * 16, 1 + 36 - 0.48 * 6]
    np.testing.assert_allclose(built.raw(built.source(corner)), wanted, rtol=1e-12)


def test_spread_draws_the_source_coefficients_per_seed() -> None:
    standard = FUNCTIONS["levy"].coefficients
    draws = []
    for seed in range(200):
        built = problem(spread=0.2, seed=seed, data=DataConfig(2, 1, 2, 2))
        draws.append(
            [math.log(built.source_coefficients[k] / v) / 0.2 for k, v in standard.items()]
        )
    assert np.abs(np.mean(draws, axis=0)).max() < 4 / math.sqrt(200)
    assert np.abs(np.std(draws, axis=0) - 1).max() < 0.25
    correlation = np.corrcoef(np.transpose(draws)) - np.eye(len(standard))
    assert np.abs(correlation).max() < 5 / math.sqrt(200)
    spread, plain = problem(spread=0.2), problem()
    assert_same(spread, plain, "x")
    assert spread.pretrain.clean.std() == pytest.approx(1.0)
    shifted = problem("levy", ShiftConfig(strength=0.1), spread=0.2)
    assert shifted.source_coefficients == spread.source_coefficients


def test_places_are_served_in_their_order_and_unseen_ones_lie_between() -> None:
    shift = ShiftConfig(places=[[0.2, 0], [0.1, 30], [-0.2, 10]], order="sequence")
    assert (shift.targets, shift.tasks) == (3, 3)
    served = [(own.strength, own.rotation) for own in served_shifts(shift)]
    assert served == [(0.2, 0.0), (0.1, 30.0), (-0.2, 10.0)]
    between = [(own.strength, own.rotation) for own in unseen_shifts(shift)]
    assert between == [(0.15, 15.0), (-0.05, 20.0), (0.0, 5.0)]
    built = problem("levy", shift)
    for task, own in enumerate(served_shifts(shift)):
        alone = problem("levy", ShiftConfig(own.strength, own.rotation))
        rows = built.test.target == task
        noise = built.test.y[rows] - alone.target(built.test.x[rows])
        assert abs(noise).max() < 0.05 * 6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"places": [[0.2, 0]]}, "two or more"),
        ({"places": [0.2, 0.1]}, "two or more"),
        ({"places": [[0.2, "left"], [0, 0]]}, "two or more"),
        ({"places": [[0.2, 0, 1], [0, 0]]}, "two or more"),
        ({"places": [[-1.5, 0], [0, 0]]}, "strength"),
        ({"places": [[0.2, 95], [0, 0]]}, "rotation"),
        ({"places": [[0.2, 0], [0, 0]], "targets": 3}, "contradict"),
    ],
)
def test_places_that_are_none_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ShiftConfig(**fields)


def test_unknown_shifted_coefficient_is_refused() -> None:
    shift = ShiftConfig(strength=0.1, coefficients=["frequncy"])
    for refuse in (problem, checked):
        with pytest.raises(UsageError, match=r"coefficient of ackley 'frequncy'.*'frequency'"):
            refuse("ackley", shift)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("levy", {"domain": [[0.0, math.inf], [0.0, 1.0]]}, "two finite sides"),
        ("drop_wave", {"coefficients": {"offset": 0.0, "decay": 0.0}}, "is not finite"),
        ("sin_cos", {"coefficients": {"amplitude": math.nan}}, "is not finite"),
        ("sin_cos", {"coefficients": {"amplitude": 0.0}}, "does not vary"),
        ("rastrigin", {"coefficients": {"frequency": 0.0, "quadratic": 0.0}}, "does not vary"),
    ],
)
def test_functions_without_usable_values_are_refused(
    name: str, changes: dict[str, object], message: str
) -> None:
    for refuse in (problem, checked):
        with pytest.raises(UsageError, match=message):
            refuse(name, **changes)


def test_a_target_that_is_not_finite_is_refused() -> None:
    several = ShiftConfig(places=[[0.1, 0], [1e308, 0]])
    for refuse in (problem, checked):
        for shift in (ShiftConfig(strength=1e308), several):
            with pytest.raises(UsageError, match="is not finite"):
                refuse("six_hump_camel", shift)


@EVERY
def test_what_can_be_drawn_is_not_refused_before(name: str) -> None:
    checked(name, ShiftConfig(0.3, 20.0, targets=5), spread=0.1, seed=4)


def checked(name: str, shift: ShiftConfig | None = None, seed: int = 0, **changes: object) -> None:
    check_problem(config(name, **changes), shift or ShiftConfig(), seed)


FINITE = st.floats(-1e3, 1e3)


def unrotate(values: np.ndarray, x1: np.ndarray, degrees: float) -> np.ndarray:
    """The inverse of `rotate`."""
    phi = math.radians(degrees)
    return (values - math.sin(phi) * x1) / math.cos(phi)


@given(FINITE, st.floats(-1, 1), st.floats(-89, 89))
def test_unrotate_is_the_inverse_of_rotate(value: float, x1: float, degrees: float) -> None:
    values, first = np.array([value]), np.array([x1])
    for one, other in ((rotate, unrotate), (unrotate, rotate)):
        back = other(one(values, first, degrees), first, degrees)
        np.testing.assert_allclose(back, values, rtol=1e-9, atol=1e-9)


@given(FINITE, st.floats(-1, 1))
def test_no_rotation_is_the_identity(value: float, x1: float) -> None:
    assert rotate(np.array([value]), np.array([x1]), 0.0) == value


@given(st.lists(st.integers() | st.text(), min_size=1, max_size=4), st.integers() | st.text())
def test_seed_stream_tells_its_parts_apart(parts: list[str | int], extra: str | int) -> None:
    seed = seed_stream(*parts)
    assert 0 <= seed < 2**64
    assert seed == seed_stream(*parts)
    assert seed != seed_stream(*parts, extra)
    assert seed != seed_stream("".join(map(str, parts)), "joined")


def test_seed_stream_is_stable_and_typed() -> None:
    assert seed_stream("levy", 0, "adapt") == 1105792486494701006
    assert (
        len({seed_stream(1, "a"), seed_stream("1", "a"), seed_stream("1a"), seed_stream("a", 1)})
        == 4
    )
    assert seed_stream(0) != seed_stream(1)
