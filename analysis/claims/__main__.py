"""Answers the paper's claims from a stored study: `python -m analysis.claims --study quick`.

    results/<study>/claims.md     claim, answer, effect, interval, runs; a section a budget
    results/<study>/claims.csv    the same in full, with the run_ids behind each answer

Answers are supported, not supported or undecided, by the rule of `analysis.claims.rules`; the
claims and how each is measured: `analysis.claims.paper`. Functions that full fine-tuning could not
learn and methods whose formula is partly a reading are left out, and named. Of a tuned study the
trials count that `analysis.tables` shows, by the same `--tune`. A study with missing or
failed cells is refused unless `--allow-missing` is given, and one that differs in data, shift or
function settings in any case: see `analysis.ablation`. The same store gives the same bytes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.claims.answers import answer, grid, table
from analysis.claims.evidence import stored_norms
from analysis.cli import exit_code, parser, read_study, writing
from analysis.outputs import write_csv, write_markdown
from analysis.settings import require_one
from analysis.tuning import add_option, tune


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    command = parser("analysis.claims", "Answer the paper's claims from a stored study.")
    add_option(command)
    options = command.parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    store, frame = read_study(options)
    require_one(frame, options.study, backbones=False)
    frame, tuning = tune(frame, options.tune)
    answers = answer(frame, stored_norms(store))
    with writing(Path(options.out) / options.study) as folder:
        write_csv(folder / "claims.csv", table(answers))
        write_markdown(folder / "claims.md", grid(answers, frame, options.study, tuning))
    print(f"{len(answers)} answers -> {folder / 'claims.md'}")


if __name__ == "__main__":
    sys.exit(main())
