"""What the commands of this package share."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qlexp.errors import UsageError


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
