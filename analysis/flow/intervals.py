from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from analysis.flow.measures import Array
from analysis.statistics.intervals import welch_of_mean as _welch


@dataclass(frozen=True)
class Interval:
    value: Array
    low: Array
    high: Array

    def within_unit(self) -> "Interval":
        half, slope = self.high - self.value, self.value * (1 - self.value)
        wide = (half > 0) & (slope > 0)
        step = np.divide(half, slope, out=np.zeros_like(half), where=wide)
        low, high = (expit(logit(self.value) + sign * step) for sign in (-1, 1))
        return Interval(
            self.value,
            np.where(wide, low, np.clip(self.low, 0, 1)),
            np.where(wide, high, np.clip(self.high, 0, 1)),
        )

    def above_zero(self) -> "Interval":
        step = np.divide(
            self.high - self.value, self.value, out=np.zeros_like(self.value), where=self.value > 0
        )
        return Interval(self.value, self.value * np.exp(-step), self.value * np.exp(step))


def welch_of_mean(groups):
    return Interval(*_welch(groups))
