"""A stored study as the views take it: its long table, and the trials kept of it."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from analysis.load import open_store, require_complete
from analysis.table import read_table
from analysis.tuning import Tuning, tune
from qlexp.errors import UsageError, unknown_name
from qlexp.store.store import Store


@dataclass(frozen=True)
class Study:
    """A study that was read.

    Attributes:
        frame: the long table of every cell, trials and gaps included (`analysis.table`).
        tuned: the settings that are trials; None: the learning rate, where it is swept.
    """

    name: str
    store: Store
    frame: pd.DataFrame
    tuned: Sequence[str] | None = None

    @classmethod
    def read(cls, name: str, options: Namespace) -> "Study":
        """The study as `options` of the command name it, of views with `--function` that one alone.

        Raises:
            UsageError: there is no such study or function, it is not readable, or cells are missing
                or failed and `options` do not allow that.
        """
        store = open_store(options.store)
        try:
            frame = read_table(store, name)
        except OSError as error:
            raise UsageError(
                f"Could not read the store at {store.root} ({error}): check its disk and "
                "permissions."
            ) from error
        if (function := getattr(options, "function", None)) is not None:
            if function not in (known := set(frame["function"])):
                raise unknown_name(f"function of study {name}", function, known)
            frame = frame[frame["function"] == function]
        if not options.allow_missing:
            require_complete(frame, name)
        return cls(name, store, frame, options.tune)

    @cached_property
    def kept(self) -> tuple[pd.DataFrame, Tuning]:
        """The table of the best trials, and how they were chosen.

        Raises:
            UsageError: see `analysis.tuning.tune`.
        """
        return tune(self.frame, self.tuned)
