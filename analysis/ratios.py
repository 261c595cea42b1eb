"""Medians of times over rounds, and of their ratios taken round by round."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import quantile_test

LEVEL = 0.95  # of an interval that stands alone


@dataclass(frozen=True)
class Median:
    """The median over rounds and its interval; NaN bounds below `fewest_rounds` rounds.

    The interval lies between two order statistics and assumes nothing of the distribution.
    """

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratio(Median):
    """Of times that were taken in the same rounds, so that a slow spell hits both."""

    @property
    def above_one(self) -> bool:
        return self.low > 1

    @property
    def below_one(self) -> bool:
        return self.high < 1


def fewest_rounds(level: float = LEVEL) -> int:
    """With fewer rounds, the whole range covers the median with less than `level`."""
    return math.ceil(math.log2(2 / (1 - level)))


def median_of(values: Sequence[float], level: float = LEVEL) -> Median:
    """Of one value a round."""
    interval = quantile_test(values, p=0.5).confidence_interval(level)
    return Median(float(np.median(values)), float(interval.low), float(interval.high))


def paired_ratio(
    seconds: Sequence[float], reference: Sequence[float], level: float = LEVEL
) -> Ratio:
    """`seconds` over `reference`; both hold one value a round, in the same order."""
    found = median_of(np.divide(seconds, reference).tolist(), level)
    return Ratio(found.median, found.low, found.high)
