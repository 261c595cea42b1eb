"""Renders the report of a study: `python -m analysis.report --study quick`.

    results/<study>/report.html    one page: losses, claims, statistics, ablation, targets in
                                   sequence, learning curves, gradients, routing, targets,
                                   backbones, diverged cells, settings, gaps

What a study has nothing to say about is left out. Only the theory of `analysis.theory`, which
trains again, has no place on the page, and of many runs that route the first seeds have one.
`--tune` is that of `analysis.tables`: losses, claims and statistics are those of the best trials,
and all else shows every trial.

The page asks the network for nothing, so that it can be mailed, archived or opened from a disk. Its
tables can be sorted, and each holds its LaTeX (booktabs). All of it is computed from the store:
files that other commands wrote are not read. A study with missing or failed cells is refused unless
`--allow-missing` is given; the page then begins with them. The same store and the same versions
give the same bytes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.cli import exit_code, parser, read_study, writing
from analysis.report.chapters import CHAPTERS
from analysis.report.page import page
from analysis.study import Study
from analysis.style import figure_style
from analysis.table import with_columns
from analysis.tuning import add_option


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    command = parser("analysis.report", "Render the report of a study, one HTML page.")
    add_option(command)
    options = command.parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    store, frame = read_study(options)
    study = Study(options.study, store, with_columns(frame), options.tune)
    with figure_style():
        text = page(study, [chapter for make in CHAPTERS if (chapter := make(study)) is not None])
    with writing(Path(options.out) / study.name) as folder:
        path = folder / "report.html"
        path.write_text(text, encoding="utf-8", newline="\n")
    print(path)


if __name__ == "__main__":
    sys.exit(main())
