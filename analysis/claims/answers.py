"""Claims answered block by block, as a long table and as a grid."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from analysis.benchmark import benchmark_of
from analysis.claims.evidence import Evidence, Norms, evidence_of, left_out
from analysis.claims.rules import (
    ABOVE,
    BELOW,
    KEPT,
    LITTLE,
    NO_WORSE,
    UNDECIDED,
    Answer,
    Claim,
    LackingError,
    verdict,
)
from analysis.legend import deciding_note
from analysis.load import incomplete
from analysis.names import budget_order, budget_title
from analysis.render import NO_CELL, Grid, Section, Text
from analysis.stats.intervals import Interval
from analysis.stats.power import CHANCE
from analysis.text import ratio_text
from analysis.tuning import Tuning

_HEADERS = (
    *("claim", "answer", "ratio", "95 % interval", "could show", "seeds"),
    *("wanted", "measured as", "runs", "remark"),
)
_NOTES = (
    "Ratios are method over other: geometric means over seeds, then over functions. Intervals: "
    "Welch's t on the logarithms, for new seeds on the same functions and, where a remark says so, "
    "over functions; no correction for the number of claims.",
    f"Could show: the ratio nearest to 1 that these seeds tell from 1 with {CHANCE:.0%} chance, or "
    "some 75% where they are three. Seeds: how many a function would tell a ratio as far from 1 as "
    "is wanted from 1 as surely, by the spread seen here; of hundreds take the size alone.",
    "Supported: the interval excludes 1 and the ratio is as far from it as is wanted; not "
    "supported: the interval ends before that; undecided: else. Where little is claimed: the "
    "interval lies within what is wanted, outside of it, or else. More help in one part is "
    "supported only where help in that part is, too, and what was gained in training can be kept "
    "only where there is such a gain. Runs in doubt, as a remark says, decide nothing.",
    "A diverged run has loss inf, and an interval with such a run decides only where all runs "
    "say the same. The run_ids behind each answer are in the CSV.",
)


_NO_WORSE = (
    "Where no harm is claimed: supported, the interval lies below what is wanted; not supported, "
    "above it; undecided, else."
)


def answer(frame: pd.DataFrame, norms: Norms, claims: Sequence[Claim]) -> list[Answer]:
    """Every claim answered in every block of a long table; blocks of the same runs are one."""
    budgets = sorted(frame["budget"].unique(), key=budget_order)
    blocks: dict[tuple[tuple[object, ...], ...], list[Answer]] = {}
    for budget in budgets:
        evidence = evidence_of(frame, budget, norms)
        found = [_answer(claim, evidence) for claim in claims]
        same = blocks.setdefault(tuple((own.runs, own.remark) for own in found), found)
        same[:] = [replace(own, budgets=(*own.budgets, budget)) for own in same]
    return [own for block in blocks.values() for own in block]


def _answer(claim: Claim, evidence: Evidence) -> Answer:
    try:
        finding = claim.compute(evidence)
    except LackingError as error:
        mend = f"; answered by {claim.answered_by}" if claim.answered_by else ""
        return Answer(claim, remark=f"{error}{mend}")
    effect, part = finding.effect, finding.part
    remarks = [finding.remark] if finding.remark else []
    if part is not None:
        remarks.append(
            f"the ratio in that part itself: {ratio_text(part.value, part.low, part.high)}"
        )
    if effect.low == effect.high and math.isfinite(effect.low):
        remarks.append("all seeds agree, which gives no interval")
    elif math.isnan(effect.low):
        remarks.append("too few values for an interval")
    doubts = evidence.doubts([*finding.runs, *finding.beside])
    found = UNDECIDED if doubts else verdict(claim, effect, part)
    runs = tuple(dict.fromkeys(finding.runs))
    return Answer(claim, found, effect, runs, "; ".join(remarks), tuple(doubts), finding.precision)


def table(answers: Sequence[Answer]) -> pd.DataFrame:
    """One row an answer, runs being run_ids.

    `effect`, `low`, `high`, `half_width` and `detectable` are logarithms of ratios; `seeds` are
    those of a function, `seeds_wanted` those that would tell `smallest`.
    """
    return pd.DataFrame(
        {
            "budget": " / ".join(answer.budgets),
            "claim": answer.claim.name,
            "text": answer.claim.text,
            "source": answer.claim.source,
            "answer": answer.verdict,
            "effect": answer.effect.value,
            "low": answer.effect.low,
            "high": answer.effect.high,
            "half_width": half_width(answer.effect),
            "detectable": detectable(answer),
            "seeds": answer.precision.seeds if answer.precision else None,
            "seeds_wanted": seeds_wanted(answer),
            "measure": answer.claim.measure,
            "rule": answer.claim.rule,
            "smallest": answer.claim.smallest,
            "doubt": "; ".join(answer.doubts),
            "remark": answer.remark,
            "runs": " ".join(answer.runs),
        }
        for answer in answers
    )


def half_width(effect: Interval) -> float:
    """Half the interval's width: how far from 0 an effect must lie to be told from it."""
    return (effect.high - effect.low) / 2 if math.isfinite(effect.high - effect.low) else math.nan


def detectable(answer: Answer) -> float:
    """The smallest effect that the runs would have found, as a log ratio; NaN: not known."""
    return answer.precision.detectable() if answer.precision else math.nan


def seeds_wanted(answer: Answer) -> int | None:
    """How many seeds a function would find the claim's smallest effect; None: not known, or more
    than are worth saying."""
    wanted = math.log(answer.claim.smallest)
    return answer.precision.seeds_for(wanted) if answer.precision else None


def grid(
    answers: Sequence[Answer], frame: pd.DataFrame, tuning: Tuning, study: str, label: str, of: str
) -> Grid:
    """The claims that the study answers, a section a block; the notes name the others.

    Args:
        frame: the study's table; `tuning` made it.
        of: whose the claims are.
    """
    blocks: dict[tuple[str, ...], list[Answer]] = {}
    for own in answers:
        blocks.setdefault(own.budgets, []).append(own)
    sections = [
        Section(_title(budgets), [_texts(own) for own in block if own.runs])
        for budgets, block in blocks.items()
        if any(own.runs for own in block)
    ]
    left, gaps = left_out(frame), incomplete(frame)
    command = benchmark_of(frame).command
    more = [_more_seeds(command, study)] if any(map(seeds_wanted, answers)) else []
    kept = [_NO_WORSE] * any(own.claim.rule == NO_WORSE for own in answers)
    notes = [*tuning.notes(), *_NOTES, *kept, *deciding_note(frame), *more]
    notes += [f"Left out: {'; '.join(left) or 'nothing'}."]
    notes += [f"Gaps: {'; '.join(gaps)}."] if gaps else []
    caption = f"Claims of {of}, study {study}"
    return Grid(label, caption, _HEADERS, sections, [*notes, *_not_asked(blocks)])


def _more_seeds(command: str, study: str) -> str:
    return (
        f"To run N seeds: {command} experiment={study} 'seed=range(0,N)', or the command that made "
        "the study with these seeds. What is stored is kept."
    )


def _title(budgets: Sequence[str]) -> str:
    same = " (the same runs)" if len(budgets) > 1 else ""
    return "; ".join(map(budget_title, budgets)) + same


def _texts(answer: Answer) -> list[Text]:
    claim, effect = answer.claim, answer.effect
    place = claim.source.partition(", ")[2] or claim.source
    low, high = (ratio_text(end) for end in (effect.low, effect.high))
    wanted = {
        BELOW: f"at most {1 / claim.smallest:.2f}",
        ABOVE: f"at least {claim.smallest:.2f}",
        LITTLE: f"{1 / claim.smallest:.2f} to {claim.smallest:.2f}",
        **dict.fromkeys((KEPT, NO_WORSE), f"at most {claim.smallest:.2f}"),
    }[claim.rule]
    sign, seeds = (1 if claim.rule in (ABOVE, KEPT, NO_WORSE) else -1), seeds_wanted(answer)
    texts = [
        f"{claim.text} ({place})",
        answer.verdict,
        ratio_text(effect.value),
        NO_CELL if math.isnan(effect.low) else f"{low} to {high}",
        ratio_text(sign * detectable(answer)),
        NO_CELL if seeds is None else str(seeds),
        wanted,
        claim.measure,
        str(len(answer.runs)),
        "; ".join(filter(None, [*answer.doubts, answer.remark])) or NO_CELL,
    ]
    return [Text(text, bold=i == 1 and answer.verdict != UNDECIDED) for i, text in enumerate(texts)]


def _not_asked(blocks: Mapping[tuple[str, ...], Sequence[Answer]]) -> Iterator[str]:
    """Which claims a block leaves open for want of runs, those with one reason together."""
    for budgets, block in blocks.items():
        reasons: dict[str, list[str]] = {}
        for own in block:
            if not own.runs:
                reasons.setdefault(own.remark, []).append(own.claim.text)
        place = f" ({' / '.join(budgets)})" if len(blocks) > 1 else ""
        for reason, texts in reasons.items():
            yield f"Undecided{place}, since {reason}: {'; '.join(texts)}."
