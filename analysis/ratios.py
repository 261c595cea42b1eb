"""Ratios of times that were taken in turns, round by round, so that a slow spell hits both."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import quantile_test

FEWEST_ROUNDS = 6  # with fewer, the whole range covers the median with less than 95 %


@dataclass(frozen=True)
class Ratio:
    """The median over rounds and its 95 % interval; NaN bounds below `FEWEST_ROUNDS` rounds.

    The interval lies between two order statistics and assumes nothing of the distribution.
    """

    median: float
    low: float
    high: float

    @property
    def above_one(self) -> bool:
        return self.low > 1

    @property
    def below_one(self) -> bool:
        return self.high < 1


def paired_ratio(seconds: Sequence[float], reference: Sequence[float]) -> Ratio:
    """`seconds` over `reference`; both hold one value a round, in the same order."""
    ratios = np.divide(seconds, reference)
    interval = quantile_test(ratios, p=0.5).confidence_interval(0.95)
    return Ratio(float(np.median(ratios)), float(interval.low), float(interval.high))
