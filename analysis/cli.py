"""What the commands of this package share."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from analysis.load import open_store, require_complete
from analysis.table import read_table
from qlexp.errors import UsageError
from qlexp.store.store import Store


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


def open_study(options: argparse.Namespace) -> tuple[Store, pd.DataFrame]:
    """The store and the long table of the study that `options` name, gaps included.

    Raises:
        UsageError: there is no such study, or it is not readable.
    """
    store = open_store(options.store)
    try:
        frame = read_table(store, options.study)
    except OSError as error:
        raise UsageError(
            f"Could not read the store at {store.root} ({error}): check its disk and permissions."
        ) from error
    return store, frame


def read_study(options: argparse.Namespace) -> tuple[Store, pd.DataFrame]:
    """`open_study`, refused where cells are missing or failed and `options` do not allow that."""
    store, frame = open_study(options)
    if not options.allow_missing:
        require_complete(frame, options.study)
    return store, frame


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
