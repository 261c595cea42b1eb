"""The benchmark functions of two variables: one entry of `FUNCTIONS` each.

A new function is one more `Function` in the tuple at the end of this file, or is registered from
outside by `register`; configs, tables and tests find it there. Every coefficient of a nonlinear
term has a name, so that it can be shifted.

`domain` is the default box. It is the literature's (`standard_domain`) unless 3,000 samples cannot
show the function there: per side, at least seven samples should fall on a ripple's period. The
entries say why each box is what it is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qlexp.errors import UsageError

Array = NDArray[np.float64]
Coefficients = Mapping[str, float]
Box = tuple[tuple[float, float], tuple[float, float]]  # (x1 low, high), (x2 low, high)


@dataclass(frozen=True)
class Function:
    """A function of two variables and what is known of it.

    `minimum` and `minimizers` hold for the standard coefficients; the minimizers are all those in
    `domain`.
    """

    name: str
    title: str
    formula: str  # in x1, x2 and the coefficients' names; abbreviations follow a semicolon
    evaluate: Callable[[Array, Array, Coefficients], Array]  # (...), (...) -> (...)
    coefficients: Coefficients
    standard_domain: Box
    domain: Box
    minimum: float
    minimizers: tuple[tuple[float, float], ...]
    period: Callable[[Coefficients], float] | None  # shortest ripple period, in units of x
    source: str


def samples_per_period(
    function: Function,
    coefficients: Coefficients,
    domain: Sequence[Sequence[float]],
    n: int,
) -> float | None:
    """How many of `n` uniform samples fall on the shortest ripple, along the longer side.

    sqrt(n) samples a side over the side's number of periods; None where nothing ripples.
    """
    if function.period is None:
        return None
    longest = max(high - low for low, high in domain)
    return math.sqrt(n) * function.period(coefficients) / longest


def _square(half: float) -> Box:
    return ((-half, half), (-half, half))


def _wavelength(*frequencies: float) -> float:
    """The period of the fastest of the given angular frequencies; infinite if all are 0."""
    fastest = max(abs(frequency) for frequency in frequencies)
    return 2 * math.pi / fastest if fastest else math.inf


def _levy_w(x: Array) -> Array:
    return 1 + (x - 1) / 4


_SURVEY = "Jamil and Yang (2013), A literature survey of benchmark functions, IJMMNO 4(2)"
_LIBRARY = "Surjanovic and Bingham (2013), Virtual Library of Simulation Experiments"

_ENTRIES = (
    Function(
        name="drop_wave",
        title="Drop-Wave",
        formula="-(1 + amplitude*cos(frequency*rho)) / (decay*rho^2 + offset);"
        " rho = sqrt(x1^2 + x2^2)",
        evaluate=lambda x1, x2, c: (
            -(1 + c["amplitude"] * np.cos(c["frequency"] * np.hypot(x1, x2)))
            / (c["decay"] * (x1**2 + x2**2) + c["offset"])
        ),
        coefficients={"amplitude": 1.0, "frequency": 12.0, "decay": 0.5, "offset": 2.0},
        standard_domain=_square(5.12),
        domain=_square(2.0),  # 7.6 ripples a side; the standard box has 20
        minimum=-1.0,
        minimizers=((0.0, 0.0),),
        period=lambda c: _wavelength(c["frequency"]),
        source=_LIBRARY,
    ),
    Function(
        name="sin_cos",
        title="Sin-Cos",
        formula="amplitude*sin(frequency_1*x1)*cos(frequency_2*x2)",
        evaluate=lambda x1, x2, c: (
            c["amplitude"] * np.sin(c["frequency_1"] * x1) * np.cos(c["frequency_2"] * x2)
        ),
        coefficients={"amplitude": 1.0, "frequency_1": 1.0, "frequency_2": 1.0},
        standard_domain=_square(5.0),
        domain=_square(5.0),  # 1.6 waves a side
        minimum=-1.0,
        minimizers=(
            (-math.pi / 2, 0.0),
            (1.5 * math.pi, 0.0),
            (math.pi / 2, math.pi),
            (math.pi / 2, -math.pi),
            (-1.5 * math.pi, math.pi),
            (-1.5 * math.pi, -math.pi),
        ),
        period=lambda c: _wavelength(c["frequency_1"], c["frequency_2"]),
        source="A product of two waves; formula, coefficients and box are this project's reading",
    ),
    Function(
        name="matyas",
        title="Matyas",
        formula="quadratic*(x1^2 + x2^2) - product*x1*x2",
        evaluate=lambda x1, x2, c: c["quadratic"] * (x1**2 + x2**2) - c["product"] * x1 * x2,
        coefficients={"quadratic": 0.26, "product": 0.48},
        standard_domain=_square(10.0),
        domain=_square(10.0),  # a quadratic form looks the same in every box
        minimum=0.0,
        minimizers=((0.0, 0.0),),
        period=None,
        source=_SURVEY,
    ),
    Function(
        name="ackley",
        title="Ackley",
        formula="-amplitude*exp(-decay*sqrt((x1^2 + x2^2)/2)) + amplitude"
        " - ripple*exp((cos(frequency*x1) + cos(frequency*x2))/2) + ripple*exp(1)",
        evaluate=lambda x1, x2, c: (
            -c["amplitude"] * np.exp(-c["decay"] * np.sqrt((x1**2 + x2**2) / 2))
            - c["ripple"] * np.exp((np.cos(c["frequency"] * x1) + np.cos(c["frequency"] * x2)) / 2)
            + c["amplitude"]
            + c["ripple"] * math.e
        ),
        coefficients={"amplitude": 20.0, "decay": 0.2, "ripple": 1.0, "frequency": 2 * math.pi},
        standard_domain=_square(32.768),
        domain=_square(3.5),  # 7 ripples a side; the standard box has 66
        minimum=0.0,
        minimizers=((0.0, 0.0),),
        period=lambda c: _wavelength(c["frequency"]),
        source="Ackley (1987), A Connectionist Machine for Genetic Hillclimbing, Kluwer",
    ),
    Function(
        name="rastrigin",
        title="Rastrigin",
        formula="2*amplitude + quadratic*(x1^2 + x2^2)"
        " - amplitude*(cos(frequency*x1) + cos(frequency*x2))",
        evaluate=lambda x1, x2, c: (
            2 * c["amplitude"]
            + c["quadratic"] * (x1**2 + x2**2)
            - c["amplitude"] * (np.cos(c["frequency"] * x1) + np.cos(c["frequency"] * x2))
        ),
        coefficients={"amplitude": 10.0, "quadratic": 1.0, "frequency": 2 * math.pi},
        standard_domain=_square(5.12),
        domain=_square(2.56),  # half the standard box: 5.1 ripples a side in place of 10.2
        minimum=0.0,
        minimizers=((0.0, 0.0),),
        period=lambda c: _wavelength(c["frequency"]),
        source="Rastrigin (1974), Systems of Extremal Control, Mir",
    ),
    Function(
        name="griewank",
        title="Griewank",
        formula="quadratic*(x1^2 + x2^2) - amplitude*cos(frequency_1*x1)*cos(frequency_2*x2)"
        " + amplitude",
        evaluate=lambda x1, x2, c: (
            c["quadratic"] * (x1**2 + x2**2)
            - c["amplitude"] * np.cos(c["frequency_1"] * x1) * np.cos(c["frequency_2"] * x2)
            + c["amplitude"]
        ),
        coefficients={
            "quadratic": 1 / 4000,
            "amplitude": 1.0,
            "frequency_1": 1.0,
            "frequency_2": 1 / math.sqrt(2),
        },
        standard_domain=_square(600.0),
        domain=_square(
            15.0
        ),  # 4.8 ripples a side (standard: 191); the bowl still shows beside them
        minimum=0.0,
        minimizers=((0.0, 0.0),),
        period=lambda c: _wavelength(c["frequency_1"], c["frequency_2"]),
        source="Griewank (1981), Generalized descent for global optimization, JOTA 34(1)",
    ),
    Function(
        name="levy",
        title="Levy",
        formula="amplitude*sin(frequency*w1)^2"
        " + quadratic_1*(w1 - 1)^2 + ripple_1*(w1 - 1)^2*sin(frequency_1*w1 + 1)^2"
        " + quadratic_2*(w2 - 1)^2 + ripple_2*(w2 - 1)^2*sin(frequency_2*w2)^2;"
        " w1 = 1 + (x1 - 1)/4; w2 = 1 + (x2 - 1)/4",
        evaluate=lambda x1, x2, c: (
            c["amplitude"] * np.sin(c["frequency"] * _levy_w(x1)) ** 2
            + (_levy_w(x1) - 1) ** 2
            * (c["quadratic_1"] + c["ripple_1"] * np.sin(c["frequency_1"] * _levy_w(x1) + 1) ** 2)
            + (_levy_w(x2) - 1) ** 2
            * (c["quadratic_2"] + c["ripple_2"] * np.sin(c["frequency_2"] * _levy_w(x2)) ** 2)
        ),
        coefficients={
            "amplitude": 1.0,
            "frequency": math.pi,
            "quadratic_1": 1.0,
            "ripple_1": 10.0,
            "frequency_1": math.pi,
            "quadratic_2": 1.0,
            "ripple_2": 1.0,
            "frequency_2": 2 * math.pi,
        },
        standard_domain=_square(10.0),
        domain=_square(7.5),  # 7.5 of the fast ripples along x2; the standard box has 10
        minimum=0.0,
        minimizers=((1.0, 1.0),),
        # A squared sine has half its sine's period, and w moves a quarter as fast as x.
        period=lambda c: 2 * _wavelength(c["frequency"], c["frequency_1"], c["frequency_2"]),
        source="Levy and Montalvo (1985), SIAM J. Sci. Stat. Comput. 6(1); form of " + _LIBRARY,
    ),
    Function(
        name="six_hump_camel",
        title="Six-Hump Camel",
        formula="quadratic_1*x1^2 - quartic_1*x1^4 + sextic_1*x1^6 + product*x1*x2"
        " - quadratic_2*x2^2 + quartic_2*x2^4",
        evaluate=lambda x1, x2, c: (
            c["quadratic_1"] * x1**2
            - c["quartic_1"] * x1**4
            + c["sextic_1"] * x1**6
            + c["product"] * x1 * x2
            - c["quadratic_2"] * x2**2
            + c["quartic_2"] * x2**4
        ),
        coefficients={
            "quadratic_1": 4.0,
            "quartic_1": 2.1,
            "sextic_1": 1 / 3,
            "product": 1.0,
            "quadratic_2": 4.0,
            "quartic_2": 4.0,
        },
        standard_domain=((-3.0, 3.0), (-2.0, 2.0)),
        domain=((-2.0, 2.0), (-1.0, 1.0)),  # on the standard box x1^6 hides the humps
        minimum=-1.0316284534898774,
        minimizers=(
            (0.08984201368301331, -0.7126564032704135),
            (-0.08984201368301331, 0.7126564032704135),
        ),
        period=None,
        source="Dixon and Szego (1978), in Towards Global Optimisation 2, North-Holland",
    ),
    Function(
        name="himmelblau",
        title="Himmelblau",
        formula="(quadratic_1*x1^2 + x2 - offset_1)^2 + (x1 + quadratic_2*x2^2 - offset_2)^2",
        evaluate=lambda x1, x2, c: (
            (c["quadratic_1"] * x1**2 + x2 - c["offset_1"]) ** 2
            + (x1 + c["quadratic_2"] * x2**2 - c["offset_2"]) ** 2
        ),
        coefficients={"quadratic_1": 1.0, "offset_1": 11.0, "quadratic_2": 1.0, "offset_2": 7.0},
        standard_domain=_square(5.0),
        domain=_square(5.0),  # a quartic without ripples, all four minima inside
        minimum=0.0,
        minimizers=(
            (3.0, 2.0),
            (-2.805118086952745, 3.131312518250573),
            (-3.779310253377747, -3.283185991286170),
            (3.584428340330492, -1.848126526964404),
        ),
        period=None,
        source="Himmelblau (1972), Applied Nonlinear Programming, McGraw-Hill",
    ),
)

FUNCTIONS: dict[str, Function] = {entry.name: entry for entry in _ENTRIES}


def register(function: Function) -> None:
    """Adds a function from outside: see `qlexp.extensions` for where to call it.

    Raises:
        UsageError: another one has its name.
    """
    known = FUNCTIONS.setdefault(function.name, function)
    if (known.formula, known.title) != (function.formula, function.title):
        raise UsageError(
            f"The function '{function.name}' is there already ({known.title}): give yours another "
            "name."
        )
