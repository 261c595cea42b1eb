"""Errors that a user can mend: one sentence that says what is wrong and what would be right."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


class UsageError(Exception):
    """Bad input. The command line prints the sentence and exits with code 2, before any compute."""


class StoreError(UsageError):
    """The store cannot be written to; going on would lose results."""


class RunError(RuntimeError):
    """A run raised an error; it is stored as failed, and the next start tries it again."""

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> "RunError":
        """From the summary of a failed run."""
        cell = f"{summary['function']}/{summary['method']}/s{summary['seed']}"
        return cls(f"{cell} failed: {summary['error']}")


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> UsageError:
    """The error for a `name` that is no `kind`: the nearest valid name first, then all of them."""
    options = sorted(valid)
    near = get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UsageError(f"Unknown {kind} '{name}'.{hint} Valid names: {', '.join(options)}.")
