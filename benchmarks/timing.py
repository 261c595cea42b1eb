"""Contenders timed in turns: seconds of every round, medians, and ratios taken round by round."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from timeit import Timer

import numpy as np
import pandas as pd
from scipy.stats import quantile_test
from torch.utils.benchmark import timer

from analysis.stats.intervals import Interval

TURN = 0.1  # seconds that a turn of the reference should last at least
LEVEL = 0.95  # of an interval that stands alone
_WARM_UP = 3  # calls before anything is timed: they compile, where there is something to compile


def in_turns(
    calls: Mapping[str, Callable[[], object]], reference: str, repeats: int
) -> pd.DataFrame:
    """Mean seconds of a call: a row for each of `repeats` rounds, a column a contender.

    A round times all of them, in an order of its own, so that a slow spell hits all. Each turn
    makes the same number of calls, after a warm-up where one call does not fill the turn. The
    clock waits for a CUDA device to finish.
    """
    for call in calls.values():
        for _ in range(_WARM_UP):
            call()
    clocks = {name: Timer(call, timer=timer) for name, call in calls.items()}
    quickest = min(clocks[reference].repeat(repeat=5, number=1))  # a slow spell hits a few
    number = max(1, math.ceil(TURN / quickest))
    rounds = []
    for index in range(repeats):
        seconds = {}
        for name in random.Random(index).sample(list(clocks), len(clocks)):
            clocks[name].timeit(min(2, number - 1))
            seconds[name] = clocks[name].timeit(number) / number
        rounds.append(seconds)
    return pd.DataFrame(rounds, columns=list(calls))


def fewest_rounds(level: float = LEVEL) -> int:
    """With fewer rounds, the whole range covers the median with less than `level`."""
    return math.ceil(math.log2(2 / (1 - level)))


def median_of(values: Sequence[float] | np.ndarray | pd.Series, level: float = LEVEL) -> Interval:
    """The median of one value a round; limits are NaN below `fewest_rounds` rounds.

    The interval lies between two order statistics and assumes nothing of the distribution.
    """
    interval = quantile_test(np.asarray(values), p=0.5).confidence_interval(level)
    return Interval(float(np.median(values)), float(interval.low), float(interval.high))
