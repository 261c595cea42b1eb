"""Answers the paper's claims from a stored study: `python -m analysis.claims --study quick`.

    results/<study>/claims.md     claim, answer, effect, interval, runs; a section a budget
    results/<study>/claims.csv    the same in full, with the run_ids behind each answer

Answers are supported, not supported or undecided, by the rule of `analysis.claims.rules`; the
claims and how each is measured: `analysis.claims.paper`. Functions that full fine-tuning could not
learn and methods whose formula is partly a reading are left out, and named. A study with missing or
failed cells is refused unless `--allow-missing` is given. The same store gives the same bytes.

Cells that differ in the learning rate alone (or in the settings that `--tune` names) are trials, as
in `analysis.tables`: each method stands at its best one by validation loss. A study whose cells
differ in data, shift or function settings is refused: see `analysis.ablation`.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.claims.evidence import Evidence, Norms, evidence_of, left_out, stored_norms
from analysis.claims.paper import CLAIMS
from analysis.claims.rules import LITTLE, UNDECIDED, Answer, Claim, LackingError, verdict
from analysis.cli import exit_code, tuned_parser, writing
from analysis.conditions import require_one
from analysis.load import incomplete, load_study, open_store, require_complete
from analysis.names import budget_order, budget_title
from analysis.notes import number
from analysis.render import NO_CELL, Grid, Section, Text, markdown
from analysis.tuning import UNTUNED, Tuning, tune

PAPER = "arXiv 2605.08423, "


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    command = tuned_parser("analysis.claims", "Answer the paper's claims from a stored study.")
    options = command.parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    store = open_store(options.store)
    frame = load_study(store, options.study)
    if not options.allow_missing:
        require_complete(frame, options.study)
    require_one(frame, options.study, backbones=False)
    frame, tuning = tune(frame, options.tune)
    answers = answer(frame, stored_norms(store))
    with writing(Path(options.out) / options.study) as folder:
        table(answers).to_csv(folder / "claims.csv", index=False, lineterminator="\n")
        text = markdown(grid(answers, frame, options.study, tuning))
        (folder / "claims.md").write_text(text, encoding="utf-8", newline="\n")
    print(f"{len(answers)} answers -> {folder / 'claims.md'}")


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
    found = verdict(claim, finding.effect)
    return Answer(claim, evidence.budget, found, finding.effect, runs, finding.remark)


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


def grid(
    answers: Sequence[Answer], frame: pd.DataFrame, study: str, tuning: Tuning = UNTUNED
) -> Grid:
    """Claims and answers, a section a budget."""
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
        "say the same. The run_ids behind each answer are in claims.csv.",
        f"Left out: {'; '.join(left) if left else 'nothing'}.",
        *([f"Gaps: {'; '.join(gaps)}."] if gaps else []),
    ]


if __name__ == "__main__":
    sys.exit(main())
