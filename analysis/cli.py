"""What the commands of this package share."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qlexp.errors import UsageError


def bare_parser(module: str, description: str, out: str) -> argparse.ArgumentParser:
    """A parser of `python -m <module>` that knows where to render to."""
    result = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    result.add_argument("--out", default=out, help="folder to render to (%(default)s)")
    return result


def parser(module: str, description: str) -> argparse.ArgumentParser:
    """A parser of `python -m <module>` with the options of a command that reads a study."""
    result = bare_parser(module, description, out="results")
    result.add_argument("--study", required=True, help="name of a stored study, such as quick")
    result.add_argument("--store", default="store", help="folder of the runs (%(default)s)")
    result.add_argument(
        "--allow-missing",
        action="store_true",
        help="render a study with missing or failed cells and name them",
    )
    return result


def exit_code(command: Callable[[], None]) -> int:
    """Runs `command`: 0, or 2 after a mistake of the user's, which is one sentence on stderr."""
    try:
        command()
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """Makes `folder`, to be written to.

    Raises:
        UsageError: it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        raise UsageError(
            f"Could not write to {folder} ({error.strerror}): name another folder with --out."
        ) from error
