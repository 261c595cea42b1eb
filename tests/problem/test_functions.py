"""The nine functions against their formulas, known minima, symmetries and botorch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from botorch.test_functions import synthetic
from made_up import NINE

from qlexp.errors import UsageError
from qlexp.problem.functions import FUNCTIONS, Array, Box, Function, register, samples_per_period

EVERY = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def points(box: Box, n: int = 2000, seed: int = 0) -> tuple[Array, Array]:
    low, high = np.array(box).T
    x = np.random.default_rng(seed).uniform(low, high, size=(n, 2))
    return x[:, 0], x[:, 1]


def values(function: Function, x1: Array, x2: Array) -> Array:
    return function.evaluate(x1, x2, function.coefficients)


def test_the_nine_of_the_paper_are_there() -> None:
    assert set(NINE) <= FUNCTIONS.keys()
    assert {name for name, function in FUNCTIONS.items() if function.name != name} == set()


def test_two_functions_of_one_name_are_refused() -> None:
    register(FUNCTIONS["levy"])
    with pytest.raises(UsageError, match="'levy'"):
        register(replace(FUNCTIONS["levy"], title="Another"))
    assert FUNCTIONS["levy"].title == "Levy"


@EVERY
def test_the_printed_formula_is_what_is_evaluated(function: Function) -> None:
    x1, x2 = points(function.standard_domain)
    moved = {k: v * (1.1 + 0.05 * i) for i, (k, v) in enumerate(function.coefficients.items())}
    names = {"sin": np.sin, "cos": np.cos, "exp": np.exp, "sqrt": np.sqrt, "x1": x1, "x2": x2}
    main, *abbreviations = function.formula.replace("^", "**").split(";")
    scope = names | moved
    for abbreviation in abbreviations:
        name, expression = abbreviation.split("=")
        scope[name.strip()] = eval(expression.strip(), {}, scope)
    np.testing.assert_allclose(
        function.evaluate(x1, x2, moved), eval(main, {}, scope), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("ackley", synthetic.Ackley(dim=2)),
        ("drop_wave", synthetic.DropWave()),
        ("rastrigin", synthetic.Rastrigin(dim=2)),
        ("griewank", synthetic.Griewank(dim=2)),
        ("levy", synthetic.Levy(dim=2)),
        ("six_hump_camel", synthetic.SixHumpCamel()),
    ],
)
def test_agrees_with_botorch(name: str, oracle: synthetic.SyntheticTestFunction) -> None:
    function = FUNCTIONS[name]
    for box in (function.domain, function.standard_domain):
        x1, x2 = points(box)
        wanted = oracle(torch.tensor(np.stack([x1, x2], axis=1), dtype=torch.float64)).numpy()
        np.testing.assert_allclose(values(function, x1, x2), wanted, rtol=1e-10, atol=1e-10)
    # botorch prints SixHumpCamel's optimum to four decimals.
    assert function.minimum == pytest.approx(oracle.optimal_value, abs=1e-4)


def test_agrees_with_hand_computed_values() -> None:
    """The three that botorch lacks."""
    one, two = np.array([1.0]), np.array([2.0])
    assert values(FUNCTIONS["matyas"], one, two) == pytest.approx(0.26 * 5 - 0.48 * 2)
    assert values(FUNCTIONS["himmelblau"], one, two) == pytest.approx(8**2 + 2**2)
    assert values(FUNCTIONS["sin_cos"], one, two) == pytest.approx(math.sin(1) * math.cos(2))


@EVERY
def test_minimum_is_attained_at_the_minimizers(function: Function) -> None:
    assert function.minimizers
    for minimizer in function.minimizers:
        for coordinate, (low, high) in zip(minimizer, function.domain, strict=True):
            assert low <= coordinate <= high
        x = np.array(minimizer)
        assert values(function, x[:1], x[1:]) == pytest.approx(function.minimum, abs=1e-12)
        for step in (1e-5, 1e-2):
            around = x + step * np.random.default_rng(1).standard_normal((500, 2))
            assert values(function, *around.T).min() >= function.minimum - 1e-12
        # Ackley and Drop-Wave depend on the norm; a central difference is 0 at their cusp too.
        h = 1e-6
        for d1, d2 in ((h, 0.0), (0.0, h)):
            ahead = values(function, x[:1] + d1, x[1:] + d2)
            behind = values(function, x[:1] - d1, x[1:] - d2)
            assert (ahead - behind) / (2 * h) == pytest.approx(0.0, abs=1e-6)


@EVERY
def test_nothing_in_either_box_is_lower_than_the_minimum(function: Function) -> None:
    for box in (function.domain, function.standard_domain):
        found = values(function, *points(box, n=100_000)).min()
        assert found >= function.minimum - 1e-12


@EVERY
def test_all_minimizers_of_the_default_box_are_listed(function: Function) -> None:
    """A fine grid's near-minimal points all lie close to a listed minimizer."""
    sides = [np.linspace(low, high, 801) for low, high in function.domain]
    x1, x2 = (side.ravel() for side in np.meshgrid(*sides))
    grid = values(function, x1, x2)
    near = np.flatnonzero(grid <= function.minimum + 1e-3 * (grid.max() - function.minimum))
    listed = np.array(function.minimizers)  # (m, 2)
    spots = np.stack([x1[near], x2[near]], axis=1)  # (k, 2)
    scale = np.array([high - low for low, high in function.domain])
    distance = np.abs((spots[:, None] - listed[None]) / scale).max(axis=2)  # (k, m)
    assert set(distance.argmin(axis=1)) == set(range(len(listed)))
    assert distance.min(axis=1).max() < 0.15


@pytest.mark.parametrize(
    "name", ["drop_wave", "matyas", "ackley", "rastrigin"], ids="swap-{}".format
)
def test_swapping_the_inputs_changes_nothing(name: str) -> None:
    function = FUNCTIONS[name]
    x1, x2 = points(function.domain)
    np.testing.assert_allclose(values(function, x1, x2), values(function, x2, x1), atol=1e-12)


@pytest.mark.parametrize("name", ["drop_wave", "ackley", "rastrigin", "griewank"])
def test_even_in_each_input(name: str) -> None:
    function = FUNCTIONS[name]
    x1, x2 = points(function.domain)
    for other in ((-x1, x2), (x1, -x2)):
        np.testing.assert_array_equal(values(function, x1, x2), values(function, *other))


@pytest.mark.parametrize("name", ["matyas", "six_hump_camel"])
def test_unchanged_by_a_point_reflection(name: str) -> None:
    function = FUNCTIONS[name]
    x1, x2 = points(function.domain)
    np.testing.assert_allclose(values(function, x1, x2), values(function, -x1, -x2), atol=1e-10)


def test_sin_cos_is_odd_in_x1_and_even_in_x2() -> None:
    function = FUNCTIONS["sin_cos"]
    x1, x2 = points(function.domain)
    np.testing.assert_array_equal(values(function, -x1, -x2), -values(function, x1, x2))


def test_drop_wave_depends_on_the_radius_alone() -> None:
    function = FUNCTIONS["drop_wave"]
    x1, x2 = points(function.domain)
    turned = (0.6 * x1 - 0.8 * x2, 0.8 * x1 + 0.6 * x2)
    np.testing.assert_allclose(values(function, x1, x2), values(function, *turned), atol=1e-10)


@pytest.mark.parametrize("name", ["rastrigin", "levy"])
def test_separable(name: str) -> None:
    function = FUNCTIONS[name]
    x1, x2 = points(function.domain)
    y1, y2 = points(function.domain, seed=1)
    np.testing.assert_allclose(
        values(function, x1, x2) + values(function, y1, y2),
        values(function, x1, y2) + values(function, y1, x2),
        atol=1e-10,
    )


@EVERY
def test_every_coefficient_can_be_seen(function: Function) -> None:
    """A fifth more of any one coefficient moves the values on the default box by at least 1 % of
    their deviation; those below 5 % are printed (`pytest -s`)."""
    x1, x2 = points(function.domain)
    before = values(function, x1, x2)
    for name, value in function.coefficients.items():
        after = function.evaluate(x1, x2, {**function.coefficients, name: 1.2 * value})
        change = float(np.sqrt(np.mean((after - before) ** 2)) / before.std())
        if change < 0.05:
            print(f"weak: {function.name}.{name} moves the values by {change:.3f} deviations")
        assert change > 0.01, (function.name, name, change)


@EVERY
def test_default_box_is_sampled_finely_enough(function: Function) -> None:
    count = samples_per_period(function, function.coefficients, function.domain, 3000)
    assert (count is None) == (function.period is None)
    assert count is None or count >= 7


@EVERY
def test_the_default_box_lies_in_the_standard_one(function: Function) -> None:
    for (low, high), (outer_low, outer_high) in zip(
        function.domain, function.standard_domain, strict=True
    ):
        assert outer_low <= low < high <= outer_high


def test_samples_per_period() -> None:
    drop_wave = FUNCTIONS["drop_wave"]
    domain = [[-2.0, 2.0], [0.0, 1.0]]
    count = samples_per_period(drop_wave, drop_wave.coefficients, domain, 3000)
    assert count is not None
    assert count == pytest.approx(math.sqrt(3000) / (4 / (2 * math.pi / 12)))
    faster = {**drop_wave.coefficients, "frequency": -24.0}
    assert samples_per_period(drop_wave, faster, domain, 3000) == pytest.approx(count / 2)
    still = {**drop_wave.coefficients, "frequency": 0.0}
    assert samples_per_period(drop_wave, still, domain, 3000) == math.inf
    unrippled = replace(drop_wave, period=None)
    assert samples_per_period(unrippled, drop_wave.coefficients, domain, 3000) is None


@pytest.mark.parametrize(
    ("name", "flat", "axis"),
    [
        ("drop_wave", {"decay": 0.0}, 0),
        ("sin_cos", {}, 0),
        ("sin_cos", {}, 1),
        ("ackley", {"amplitude": 0.0}, 1),
        ("rastrigin", {"quadratic": 0.0}, 0),
        ("griewank", {"quadratic": 0.0}, 0),
        ("levy", {"quadratic_2": 0.0, "ripple_1": 0.0, "quadratic_1": 0.0, "amplitude": 0.0}, 1),
    ],
)
def test_period_is_that_of_the_ripple_without_its_bowl(
    name: str, flat: dict[str, float], axis: int
) -> None:
    """A ripple repeats after `period` along its axis, and after no simple part of it."""
    function = FUNCTIONS[name]
    assert function.period is not None
    period = function.period(function.coefficients)
    coefficients = {**function.coefficients, **flat}

    def ripple(step: float) -> Array:
        along = [np.full(1000, 0.0 if name == "drop_wave" else 0.3)] * 2
        along[axis] = np.linspace(5.0, 15.0, 1000) + step  # off the bowl's and the cusp's centre
        height = ((along[1] - 1) / 4) ** 2 if name == "levy" else 1.0
        return function.evaluate(along[0], along[1], coefficients) / height

    spread = ripple(0.0).std()
    np.testing.assert_allclose(ripple(period), ripple(0.0), atol=1e-9)
    for part in (2, 3, 5):
        assert np.abs(ripple(period / part) - ripple(0.0)).max() > 0.5 * spread
