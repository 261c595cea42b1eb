"""What a number of seeds can show: the smallest effect that is found, and the seeds that find one.

An effect of size d is found where its 95 % interval leaves out 0. With a standard error e on f
degrees of freedom that happens with the chance P(|T| > t), T of Student's noncentral distribution
with noncentrality d / e and t its central 97.5 % point (Cohen 1988). From n to m seeds a function e
shrinks by sqrt(n / m), and f grows by (m - 1) / (n - 1). T squared is of the noncentral F
distribution, which scipy knows also where its `nct` gives NaN.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import ncfdtr, stdtrit

from analysis.stats.intervals import CONFIDENCE, Array, welch

CHANCE = 0.8  # with which an effect is to be found
MOST_SEEDS = 10_000
_CERTAIN = 1e4  # standard errors, beyond which a chance is 1 and scipy's number may not be


class Precision(NamedTuple):
    """Of an effect: its standard error, degrees of freedom, and the fewest seeds of a function."""

    error: float
    freedom: float
    seeds: int

    def chance(self, effect: float) -> float:
        """With which an effect of this size is found."""
        shift = min(abs(effect) / self.error, _CERTAIN)
        return float(1 - ncfdtr(1, self.freedom, shift**2, self._edge() ** 2))

    def detectable(self) -> float:
        """The smallest effect that is found with `CHANCE`."""
        most = (2 * self._edge() + 10) * self.error
        return float(brentq(lambda d: self.chance(d) - CHANCE, 0.0, most, xtol=1e-9 * most))

    def _edge(self) -> float:
        """How many standard errors from 0 an effect is told from it."""
        return float(stdtrit(self.freedom, (1 + CONFIDENCE) / 2))

    def with_seeds(self, seeds: int) -> "Precision":
        """What it would be with another number of seeds a function."""
        share = seeds / self.seeds
        freedom = self.freedom * (seeds - 1) / (self.seeds - 1)
        return Precision(self.error / math.sqrt(share), freedom, seeds)

    def seeds_for(self, effect: float) -> int | None:
        """The fewest seeds a function that find it with `CHANCE`; None: over `MOST_SEEDS`."""
        few, many = 1, MOST_SEEDS
        if self.with_seeds(many).chance(effect) < CHANCE:
            return None
        while many - few > 1:
            middle = (few + many) // 2
            enough = self.with_seeds(middle).chance(effect) >= CHANCE
            few, many = (few, middle) if enough else (middle, many)
        return many


def precision(groups: Sequence[Array], weights: Sequence[float]) -> Precision | None:
    """Of `analysis.stats.intervals.contrast` over groups (n,); None where it has no finite one."""
    weighted = [
        (w, np.asarray(g, float)[:, None]) for w, g in zip(weights, groups, strict=True) if w
    ]
    values = np.concatenate([g for _, g in weighted])
    if min(len(g) for _, g in weighted) < 2 or not np.isfinite(values).all():
        return None
    variance, freedom = (float(part[0]) for part in welch(weighted))
    if not variance > 0:
        return None
    return Precision(math.sqrt(variance), freedom, min(len(g) for _, g in weighted))
