"""Seconds of a call, contenders in turns."""

import math
import random
from collections.abc import Callable, Mapping

import torch
from torch.utils.benchmark import Timer

TURN = 0.1  # seconds that a turn of the reference should last at least


def in_turns(
    calls: Mapping[str, Callable[[], object]], reference: str, repeats: int
) -> dict[str, list[float]]:
    """Mean seconds of a call of each contender in every one of `repeats` rounds.

    A round times all of them, in an order of its own; each turn warms up and then makes the same
    number of calls. torch's Timer waits for a CUDA device to finish.
    """
    timers = {
        name: Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
        for name, call in calls.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():  # compiles, where there is something to compile
        call()
    quickest = min(timers[reference].timeit(3).mean for _ in range(5))  # a slow spell hits a few
    number = max(1, math.ceil(TURN / quickest))
    for repeat in range(repeats):
        for name in random.Random(repeat).sample(list(timers), len(timers)):
            seconds[name].append(timers[name].timeit(number).mean)
    return seconds
