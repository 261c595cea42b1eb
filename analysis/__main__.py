"""`python -m analysis VIEW STUDY`, which is `qlexp show VIEW STUDY`: renders a view of a study."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.cli import exit_code, writing
from analysis.study import Study
from analysis.view import add_no_options, views
from analysis.words import worded, worded_shown
from qlexp import extensions
from qlexp.errors import UsageError

RENDERED = "rendered"  # where a user's own tables go, apart from the committed results/


def main(arguments: Sequence[str] | None = None, program: str = "python -m analysis") -> int:
    """The command; returns its exit code: 2 after a mistake of the user's."""
    options = _parser(program).parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    extensions.load(options.config_dir)
    study = Study.read(options.study, options)
    words = study.benchmark.words
    try:
        shown = worded_shown(options.show(study, options), words)
    except UsageError as error:
        raise UsageError(worded(str(error), words)) from error
    with writing(Path(options.out) / study.name) as folder:
        shown.write(folder)
    print(f"{len(study.frame)} cells -> {folder}")


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description="Render a view of a stored study.")
    choices = parser.add_subparsers(metavar="VIEW", required=True)
    for name, view in sorted(views().items()):
        summary = (view.__doc__ or "").splitlines()[0]
        command = choices.add_parser(
            name,
            help=summary,
            description=view.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_common(command)
        getattr(view, "add_options", add_no_options)(command)
        command.set_defaults(show=view.show)
    return parser


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("study", help="name of a stored study, such as quick")
    command.add_argument("--store", default="store", help="folder of the runs (%(default)s)")
    command.add_argument(
        "--runs",
        nargs="+",
        metavar="FILE",
        help="the study's runs.csv, read in the store's place; several: its parts, run apart",
    )
    command.add_argument(
        "--config-dir",
        action="append",
        default=[],
        metavar="FOLDER",
        help="methods and functions of your own that the study holds",
    )
    command.add_argument("--out", default=RENDERED, help="folder to render to (%(default)s)")
    command.add_argument(
        "--allow-missing",
        action="store_true",
        help="render a study with missing or failed cells and name them",
    )
    command.add_argument(
        "--tune",
        nargs="*",
        metavar="SETTING",
        help="settings whose values are trials, the best one by validation loss being shown (the "
        "learning rate, where it is swept); none: every trial is a row",
    )


if __name__ == "__main__":
    sys.exit(main())
