"""A claim, what is found about it, and the rule that answers it, fixed before any number is seen.

Every effect is the logarithm of a ratio of one method over another, with a 95 % interval over new
seeds (`analysis.stats.intervals.contrast`). `smallest` is the smallest factor of interest, above 1.

    BELOW     supported      the interval lies below 1 and the ratio is at most 1 / `smallest`
              not supported  the interval lies above 1 / `smallest`: a gain of interest is ruled out
    ABOVE     the same with all sides turned: of what is claimed to be larger
    LITTLE    supported      the interval lies between 1 / `smallest` and `smallest`
              not supported  the interval lies outside of them
    NO_WORSE  supported      the interval lies below `smallest`
              not supported  the interval lies above `smallest`
    KEPT      supported      the interval lies below `smallest`, and a gain is there (`part`)
              not supported  the interval lies above `smallest`: what was gained is lost
    else      undecided      also where the study lacks what the claim needs, or where the runs are
                             in doubt (`analysis.doubts`), with the reason

Where more help is claimed in one part than in another, there must be help in that part: a `part`
that would not be supported by itself leaves undecided what would be. So a wide interval decides
nothing, in either direction, and a certain but tiny gain supports no claim of a gain. Nor does an
interval without width of finite values: that seeds agree is no measure of how far new ones would.
Claims are answered one by one, without a correction for their number.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.stats.intervals import NO_INTERVAL, Interval
from analysis.stats.power import Precision

SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
BELOW, ABOVE, LITTLE, KEPT, NO_WORSE = "below", "above", "little", "kept", "no worse"


class LackingError(Exception):
    """The study lacks what a claim needs; the text says what."""


@dataclass(frozen=True)
class Finding:
    """What a study says about a claim.

    Attributes:
        effect: the logarithm of a ratio, method over other.
        runs: the run_ids behind it.
        remark: what a reader should know beside it.
        part: of a claim of more help in one part, the log ratio of the help there.
        beside: the run_ids that had a part in the choice of `runs`.
        precision: of the effect, where its interval is one over seeds.
    """

    effect: Interval
    runs: Sequence[str]
    remark: str = ""
    part: Interval | None = None
    beside: Sequence[str] = ()
    precision: Precision | None = None


@dataclass(frozen=True)
class Claim:
    """One sentence about methods, made measurable.

    Attributes:
        name: short and unique.
        text: the claim.
        source: where it comes from: the work and, after a comma, the place in it.
        measure: what the effect is the ratio of.
        compute: the finding; takes an `Evidence`, raises `LackingError`.
        answered_by: what to run where the study lacks the data, or "".
        rule: `BELOW`, `ABOVE`, `LITTLE`, `NO_WORSE` or `KEPT`.
        smallest: the smallest factor of interest, above 1.
    """

    name: str
    text: str
    source: str
    measure: str
    compute: Callable[[Any], Finding]
    answered_by: str = ""
    rule: str = BELOW
    smallest: float = 1.02


@dataclass(frozen=True)
class Answer:
    """A claim with its answer, and the budgets of the blocks that give it from the same runs.

    `doubts` are why the runs decide nothing, whatever their interval says; `precision` is that of
    the effect.
    """

    claim: Claim
    verdict: str = UNDECIDED
    effect: Interval = NO_INTERVAL
    runs: tuple[str, ...] = ()
    remark: str = ""
    doubts: tuple[str, ...] = ()
    precision: Precision | None = None
    budgets: tuple[str, ...] = ()


def verdict(claim: Claim, effect: Interval, part: Interval | None = None) -> str:
    """The answer that the rule of `claim` gives; NaN limits decide nothing.

    Args:
        part: as in `Finding`.
    """
    limit = math.log(claim.smallest)
    if effect.low == effect.high and math.isfinite(effect.low):
        return UNDECIDED
    if claim.rule == LITTLE:
        within = -limit < effect.low and effect.high < limit
        return _answer(within, effect.low > limit or effect.high < -limit)
    if claim.rule == NO_WORSE:
        return _answer(effect.high < limit, effect.low > limit)
    if claim.rule == KEPT:
        gained = part is not None and _is_there(-part, limit)
        return _answer(effect.high < limit and gained, effect.low > limit)
    if claim.rule == BELOW:
        effect, part = -effect, None if part is None else -part
    helped = part is None or _is_there(part, limit)
    return _answer(_is_there(effect, limit) and helped, effect.high < limit)


def _is_there(effect: Interval, limit: float) -> bool:
    """Whether a gain of interest is told from none; no interval without width tells any."""
    told = effect.low > 0 and effect.value >= limit
    return told and (effect.low < effect.high or math.isinf(effect.low))


def _answer(supported: bool, not_supported: bool) -> str:
    if supported:
        return SUPPORTED
    return NOT_SUPPORTED if not_supported else UNDECIDED
