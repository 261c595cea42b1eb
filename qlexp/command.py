"""What the commands have in common: their words for Hydra, and how they end."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from qlexp import extensions
from qlexp.errors import RunError, UsageError


def guarded(program: str, command: Callable[[], object]) -> None:
    """Runs a command: a mistake of the user's is one sentence on stderr and exit code 2.

    A run that raised an error is one sentence and exit code 1, after all others are stored.
    """
    try:
        command()
    except UsageError as error:
        _leave(program, error, 2)
    except RunError as error:
        _leave(program, error, 1)
    except KeyboardInterrupt:
        _leave(program, "stopped; finished runs are stored and a rerun skips them.", 130)


def hand_to_hydra(arguments: Sequence[str]) -> None:
    """Leaves in `sys.argv` what Hydra is to read, after the folders of extensions are loaded.

    Raises:
        UsageError: an extension cannot be loaded.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # lets Hydra's errors reach us
    sys.argv[1:] = hydra_words(extensions.load_named(arguments))


def hydra_words(arguments: Sequence[str]) -> list[str]:
    """The words of a command line in Hydra's order, the overrides last. A study is a sweep; Hydra
    1.4 no longer lets its YAML say so."""
    study = any(word.startswith("experiment=") for word in arguments)
    asked = any(word.startswith("hydra.mode=") for word in arguments)
    words = [*arguments, *["hydra.mode=MULTIRUN"] * (study and not asked)]
    return sorted(words, key=_is_override)


def _is_override(argument: str) -> bool:
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


@contextmanager
def refusal(program: str) -> Iterator[None]:
    """Prints a `UsageError` and leaves, inside Hydra, so that Hydra adds no words."""
    try:
        yield
    except UsageError as error:
        _leave(program, error, 2)


def _leave(program: str, reason: object, code: int) -> NoReturn:
    print(f"{program}: {reason}", file=sys.stderr)
    sys.exit(code)
