"""From a function, a shift and a seed to the data of one two-stage problem.

Inputs are scaled to [-1, 1]^2 over the domain. The source is f(x; theta_0), standardised by the
mean and deviation of its clean values on the pre-training sample (written f~). The target moves
coefficients and rotates outputs:

    target(x) = cos(phi) f~(x; theta_1) + sin(phi) x_1,    theta_1 = theta_0 (1 + strength),

with x_1 the scaled first input and the source's own mean and deviation. "Rotated outputs" is a
reading of arXiv 2605.08423, which gives no formula.

Every split, and the noise of every split, has its own random stream, named by the function and the
seed alone. So all methods and all shifts of a cell see the same inputs and the same noise, and a
larger split begins with the samples of a smaller one and leaves the others' inputs as they were.

Several targets share the samples of a split and take turns. In a sequence each has the configured
number of samples of its own, one target's after the other's; so the first has those of a run that
serves it alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qlexp.config.schema import Config, DataConfig, FunctionConfig, ShiftConfig
from qlexp.errors import UsageError, unknown_name
from qlexp.problem.functions import FUNCTIONS, Array, Coefficients
from qlexp.problem.seeding import seed_stream


@dataclass(frozen=True, eq=False)
class Split:
    """Samples of the source or of the target, standardised; all arrays are float64."""

    x: Array  # (n, 2), in [-1, 1]
    y: Array  # (n,), clean plus noise
    clean: Array  # (n,)
    target: NDArray[np.intp]  # which of `shifts` each sample is of, (n,)
    shifts: tuple[ShiftConfig, ...] = ()  # the targets that the samples are of; none: the source


@dataclass(frozen=True, eq=False)
class Problem:
    """One function, shift and seed: the source and the target, and samples of both.

    `mean` and `deviation` are those of the clean source on the pre-training sample, in raw units.
    """

    pretrain: Split  # source
    source_validation: Split  # source
    adapt: Split  # target, as are the next two
    validation: Split
    test: Split
    unseen: Split  # targets between those of adapt; the target itself where there is only one
    mean: float
    deviation: float
    source_coefficients: Coefficients
    target_coefficients: Coefficients
    function: FunctionConfig
    shift: ShiftConfig

    def source(self, x: Array) -> Array:
        """The clean standardised source at scaled points: (n, 2) -> (n,)."""
        values = _raw_values(self.function, x, self.source_coefficients)
        return (values - self.mean) / self.deviation

    def target(self, x: Array, turn: int = 0) -> Array:
        """The clean standardised target, of several the one at `turn`: points (n, 2) -> (n,)."""
        shift = self.adapt.shifts[turn]
        moved = _shifted(self.function.name, self.source_coefficients, shift)
        values = _raw_values(self.function, x, moved)
        return rotate((values - self.mean) / self.deviation, x[:, 0], shift.rotation)

    def raw(self, values: Array) -> Array:
        """Standardised values in the function's own units."""
        return values * self.deviation + self.mean


def rotate(values: Array, x1: Array, degrees: float) -> Array:
    """cos(phi) values + sin(phi) x1, for |phi| < 90 degrees; `x1` scaled to [-1, 1]."""
    phi = math.radians(degrees)
    return math.cos(phi) * values + math.sin(phi) * x1


def problem_of(config: Config) -> Problem:
    """The samples of a config's cell; the same for every method."""
    return make_problem(config.function, config.shift, config.data, config.seed)


def make_problem(
    function: FunctionConfig, shift: ShiftConfig, data: DataConfig, seed: int
) -> Problem:
    """Draw the coefficients and the five splits of one problem.

    Raises `UsageError` for a shift of unknown coefficients, and for a function that is constant or
    not finite on its domain.
    """
    source = _source_coefficients(function, seed)

    x_pretrain = _inputs(function.name, seed, "pretrain", data.pretrain)
    raw = _raw_values(function, x_pretrain, source)
    mean, deviation = _moments(function, raw, source)

    def surface(x: Array, moved: ShiftConfig) -> Array:
        values = _raw_values(function, x, _shifted(function.name, source, moved))
        return rotate((values - mean) / deviation, x[:, 0], moved.rotation)

    def split(
        name: str, n: int, shifts: tuple[ShiftConfig, ...] = (), apart: bool = False
    ) -> Split:
        targets = shifts or (UNMOVED,)
        target = np.repeat(np.arange(len(targets)), n) if apart else np.arange(n) % len(targets)
        x = _inputs(function.name, seed, name, len(target))
        clean = np.empty(len(target))
        for turn, moved in enumerate(targets):
            rows = target == turn
            clean[rows] = surface(x[rows], moved)
        noise = _generator(function.name, seed, f"{name}.noise").standard_normal(len(target))
        return Split(x, clean + data.noise * noise, clean, target, shifts)

    served, apart = served_shifts(shift), shift.tasks > 1
    return Problem(
        pretrain=split("pretrain", data.pretrain),
        source_validation=split("source_validation", data.validation),
        adapt=split("adapt", data.adapt, served, apart),
        validation=split("validation", data.validation, served, apart),
        test=split("test", data.test, served, apart),
        unseen=split("unseen", data.test, unseen_shifts(shift)),
        mean=mean,
        deviation=deviation,
        source_coefficients=source,
        target_coefficients=_shifted(function.name, source, shift),
        function=function,
        shift=shift,
    )


def check_problem(function: FunctionConfig, shift: ShiftConfig, seed: int) -> None:
    """Raises the errors of `make_problem`, judged at fixed points: no sample is drawn.

    A function that fails nowhere but at a sample of its own still fails there.
    """
    source = _source_coefficients(function, seed)
    _moments(function, _raw_values(function, _PROBE, source), source)
    for moved in {repr(s): s for s in (*served_shifts(shift), *unseen_shifts(shift))}.values():
        _raw_values(function, _PROBE, _shifted(function.name, source, moved))


def _probe(n: int) -> Array:
    """The corners of [-1, 1]^2 and n points that fill it evenly, those of the R2 sequence."""
    golden = 1.32471795724474602596  # g^3 = g + 1
    even = np.outer(np.arange(1, n + 1), [1 / golden, 1 / golden**2]) % 1
    return np.concatenate([[[-1, -1], [-1, 1], [1, -1], [1, 1]], 2 * even - 1])


_PROBE = _probe(1000)
UNMOVED = ShiftConfig()


def served_shifts(shift: ShiftConfig) -> tuple[ShiftConfig, ...]:
    """The targets that one adapter serves: `shift` itself, `shift.places` in their order, or
    `shift.targets` of them.

    Those lie evenly on the ellipse whose half-axes are the strength and the rotation, so that
    neither alone tells two targets apart: (cos(a) strength, sin(a) rotation), a = 0, ....
    """
    return _several(shift, 0.0) if shift.targets > 1 else (shift,)


def unseen_shifts(shift: ShiftConfig) -> tuple[ShiftConfig, ...]:
    """Targets half-way between neighbours among those served; none of them is trained on."""
    return _several(shift, 0.5) if shift.targets > 1 else (shift,)


def _several(shift: ShiftConfig, offset: float) -> tuple[ShiftConfig, ...]:
    """`offset`: how far from each target to the next, the first being the last one's next."""
    places = _on_ellipse(shift, offset) if shift.places is None else _between(shift.places, offset)
    return tuple(
        replace(shift, strength=round(strength, 3), rotation=round(rotation, 1), places=None)
        for strength, rotation in places
    )


def _on_ellipse(shift: ShiftConfig, offset: float) -> list[tuple[float, float]]:
    angles = [2 * math.pi * (turn + offset) / shift.targets for turn in range(shift.targets)]
    return [(shift.strength * math.cos(a), shift.rotation * math.sin(a)) for a in angles]


def _between(places: Sequence[Sequence[float]], offset: float) -> list[tuple[float, float]]:
    onward = [*places[1:], places[0]]
    return [
        (s + offset * (next_s - s), r + offset * (next_r - r))
        for (s, r), (next_s, next_r) in zip(places, onward, strict=True)
    ]


def _source_coefficients(function: FunctionConfig, seed: int) -> dict[str, float]:
    """theta_0: the configured coefficients, each times exp(spread N(0, 1)) of its own stream."""
    coefficients = {**FUNCTIONS[function.name].coefficients, **function.coefficients}
    for name, value in coefficients.items():
        draw = _generator(function.name, seed, f"coefficient.{name}").standard_normal()
        coefficients[name] = float(value) * math.exp(function.spread * draw)
    return coefficients


def _shifted(function: str, source: Mapping[str, float], shift: ShiftConfig) -> dict[str, float]:
    """theta_1: the named coefficients (all, where none are named) times 1 + strength."""
    moved = source if shift.coefficients is None else shift.coefficients
    for name in moved:
        if name not in source:
            raise unknown_name(f"coefficient of {function}", name, source)
    return {
        name: value * (1 + shift.strength) if name in moved else value
        for name, value in source.items()
    }


def _raw_values(function: FunctionConfig, x: Array, coefficients: Coefficients) -> Array:
    """f at scaled points, in raw units: (n, 2) -> (n,)."""
    low, high = np.array(function.domain, dtype=np.float64).T  # (2,), (2,)
    points = low + (x + 1) / 2 * (high - low)
    with np.errstate(all="ignore"):
        values = FUNCTIONS[function.name].evaluate(points[:, 0], points[:, 1], coefficients)
    if not np.isfinite(values).all():
        raise UsageError(
            f"Function {function.name} is not finite on domain {function.domain} with coefficients"
            f" {dict(coefficients)}: choose a domain and coefficients for which it is."
        )
    return values


def _moments(
    function: FunctionConfig, raw: Array, coefficients: Coefficients
) -> tuple[float, float]:
    """Mean and deviation of raw values."""
    mean, deviation = float(raw.mean()), float(raw.std())
    if not math.isfinite(deviation) or deviation <= 1e-12 * float(np.abs(raw).max()):
        raise UsageError(
            f"Function {function.name} does not vary on domain {function.domain} with coefficients"
            f" {dict(coefficients)}: choose a domain and coefficients for which it does."
        )
    return mean, deviation


def _inputs(function: str, seed: int, split: str, n: int) -> Array:
    """`n` uniform points in [-1, 1]^2: (n, 2)."""
    return _generator(function, seed, split).uniform(-1.0, 1.0, size=(n, 2))


def _generator(function: str, seed: int, stream: str) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed_stream(function, seed, stream)))
