"""Numbers as a table prints them."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from analysis.render import NO_CELL


def number(value: float, digits: int = 3) -> str:
    """`digits` significant digits, trailing zeros kept."""
    return f"{value:#.{digits}g}".rstrip(".") if math.isfinite(value) else f"{value:g}"


def interval_text(value: float, low: float, high: float) -> str:
    """`0.970 [0.910, 1.02]`; the value alone where there is no interval."""
    if math.isnan(value):
        return NO_CELL
    if math.isnan(low):
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def ratio_text(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """`0.970 [0.910, 1.02]`, as `interval_text`, from logarithms."""
    with np.errstate(over="ignore"):
        return interval_text(*(float(np.exp(end)) for end in (value, low, high)))


def spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation; the mean alone of one value, `inf (1/3)` with infinite
    ones, `unknown` without any."""
    if not values:
        return "unknown"
    infinite = [value for value in values if not math.isfinite(value)]
    if infinite:
        return f"{infinite[0]} ({len(infinite)}/{len(values)})"
    if len(values) == 1:
        return number(values[0])
    return f"{number(statistics.fmean(values))} ± {number(statistics.stdev(values), 2)}"


def cell_text(cell: Mapping[str, Any]) -> str:
    """`0.123 ± 0.004`, `inf (1/3)`, `missing`, `0.123 ± 0.004, 1 failed`."""
    parts = []
    if cell["infinite"]:
        parts = [f"{cell['mean']} ({cell['infinite']}/{cell['seeds']})"]
    elif cell["seeds"]:
        own = number(cell["mean"])
        parts = [own if cell["seeds"] == 1 else f"{own} ± {number(cell['deviation'], 2)}"]
    for word in ("missing", "failed"):
        if cell[word]:
            parts.append(f"{cell[word]} {word}" if cell["seeds"] else word)
    return ", ".join(parts)


def cost_text(cost: str, value: float) -> str:
    """What a run costs, by the name of the column: parameters in full, all else in its unit."""
    if math.isnan(value):
        return NO_CELL
    return f"{value:,.0f}" if cost.endswith("parameters") else number(value / unit_of(cost))


def unit_of(cost: str) -> int:
    """The unit in which a column of costs is shown: MiB for bytes."""
    return 2**20 if cost.endswith("bytes") else 1


def listed(numbers: Iterable[int]) -> str:
    """`0, 1, 2`, ascending, each once."""
    return ", ".join(map(str, sorted(set(numbers))))


def seed_list(seeds: Iterable[int]) -> str:
    """`seed 0` or `seeds 0, 2`."""
    text = listed(seeds)
    return f"seed{'s' * (',' in text)} {text}"
