"""Interleaved timing of long calls: contenders take turns, so that a slow spell hits all of them.

Short calls, which want a warm-up in every turn, are timed by `analysis.inference.timing`.
"""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def interleaved(
    contenders: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 2
) -> dict[str, float]:
    """Median seconds of one call of each contender, over `repeats` rounds."""
    for call in contenders.values():
        for _ in range(warmup):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, call in contenders.items():
            _synchronise()
            started = time.perf_counter()
            call()
            _synchronise()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
