"""The claims answered block by block, as a long table and as a grid."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.claims.evidence import Evidence, Norms, evidence_of, left_out
from analysis.claims.paper import CLAIMS
from analysis.claims.rules import LITTLE, UNDECIDED, Answer, Claim, LackingError, verdict
from analysis.load import incomplete
from analysis.names import UNRESTRICTED, budget_order, budget_title
from analysis.notes import number
from analysis.render import NO_CELL, Grid, Section, Text
from analysis.tuning import Tuning

PAPER = "arXiv 2605.08423, "


def answer(frame: pd.DataFrame, norms: Norms, claims: Sequence[Claim] = CLAIMS) -> list[Answer]:
    """Every claim answered in every block of a loaded study."""
    budgets = sorted(frame["budget"].unique(), key=budget_order)
    blocks = [evidence_of(frame, budget, norms) for budget in budgets]
    return [_answer(claim, block) for block in blocks for claim in claims]


def _answer(claim: Claim, evidence: Evidence) -> Answer:
    try:
        finding = claim.compute(evidence)
    except LackingError as error:
        return Answer(claim, evidence.budget, remark=f"{error}; answered by {claim.answered_by}")
    runs = tuple(dict.fromkeys(finding.runs))
    found = verdict(claim, finding.effect, finding.part)
    remarks = [finding.remark] if finding.remark else []
    if finding.part < math.inf:
        remarks.append(f"the ratio in that part itself: {_ratio(finding.part)}")
    return Answer(claim, evidence.budget, found, finding.effect, runs, "; ".join(remarks))


def table(answers: Sequence[Answer]) -> pd.DataFrame:
    """One row an answer; effect, low and high are log ratios, runs are run_ids."""
    return pd.DataFrame(
        {
            "budget": answer.budget,
            "claim": answer.claim.name,
            "text": answer.claim.text,
            "source": answer.claim.source,
            "answer": answer.verdict,
            "effect": answer.effect.value,
            "low": answer.effect.low,
            "high": answer.effect.high,
            "measure": answer.claim.measure,
            "rule": answer.claim.rule,
            "smallest": answer.claim.smallest,
            "remark": answer.remark,
            "runs": " ".join(answer.runs),
        }
        for answer in answers
    )


def grid(answers: Sequence[Answer], frame: pd.DataFrame, study: str, tuning: Tuning) -> Grid:
    """Claims and answers, a section a budget; `tuning` made `frame`."""
    headers = [
        "claim",
        "answer",
        "effect",
        "95 % interval",
        "wanted",
        "measured as",
        "runs",
        "remark",
    ]
    budgets = list(dict.fromkeys(answer.budget for answer in answers))
    sections = [
        Section(budget_title(budget), [_texts(own) for own in answers if own.budget == budget])
        for budget in budgets
    ]
    notes = [*tuning.notes(), *_notes(frame)]
    return Grid("claims", f"Claims of the paper, study {study}", headers, sections, notes)


def _texts(answer: Answer) -> list[Text]:
    claim, effect, remark = answer.claim, answer.effect, answer.remark
    known = not math.isnan(effect.value)
    if math.isnan(effect.low) and known:
        remark = "; ".join(filter(None, [remark, "too few values for an interval"]))
    limits = NO_CELL if math.isnan(effect.low) else f"{_ratio(effect.low)} to {_ratio(effect.high)}"
    texts = [
        f"{claim.text} ({claim.source.removeprefix(PAPER)})",
        answer.verdict,
        _ratio(effect.value) if known else NO_CELL,
        limits,
        f"{1 / claim.smallest:.2f} to {claim.smallest:.2f}"
        if claim.rule == LITTLE
        else f"at least {claim.smallest:.2f}",
        claim.measure,
        str(len(answer.runs)),
        remark or NO_CELL,
    ]
    return [Text(text, bold=i == 1 and answer.verdict != UNDECIDED) for i, text in enumerate(texts)]


def _ratio(log: float) -> str:
    with np.errstate(over="ignore"):
        return number(float(np.exp(log)))


_UNCHECKED = (
    f"No run of {UNRESTRICTED} fine-tuning: whether the functions can be learnt was not checked."
)


def _notes(frame: pd.DataFrame) -> list[str]:
    left, gaps = left_out(frame), incomplete(frame)
    return [
        "Effects are ratios, above 1 in the claim's favour: geometric means over seeds, then over "
        "functions. Intervals: Welch's t on the logarithms, for new seeds on the same functions "
        "and, where a remark says so, over functions; no correction for the number of claims.",
        "Supported: the interval excludes 1 and the effect is at least what is wanted; not "
        "supported: the interval ends below it; undecided: else. Where little is claimed: the "
        "interval lies within what is wanted, outside of it, or else.",
        "A diverged run has loss inf, and an interval with such a run decides only where all runs "
        "say the same. The run_ids behind each answer are in the CSV of "
        "analysis.claims.",
        f"Left out: {'; '.join(left) if left else 'nothing'}.",
        *([] if UNRESTRICTED in set(frame["method"]) else [_UNCHECKED]),
        *([f"Gaps: {'; '.join(gaps)}."] if gaps else []),
    ]
