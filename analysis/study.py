"""A stored study as the views take it: its long table, and the trials kept of it."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from analysis.benchmark import Benchmark, benchmark_of
from analysis.load import joined_runs, open_store, require_complete
from analysis.table import read_table, with_columns
from analysis.tuning import Tuning, tune
from qlexp.errors import UsageError, unknown_name
from qlexp.store.store import Store


@dataclass(frozen=True)
class Study:
    """A study that was read.

    Attributes:
        stored: the store of its runs; None where a `runs.csv` was read.
        frame: the long table of every cell, trials and gaps included (`analysis.table`).
        tuned: the settings that are trials; None: the learning rate, where it is swept.
    """

    name: str
    stored: Store | None
    frame: pd.DataFrame
    tuned: Sequence[str] | None = None

    @classmethod
    def read(cls, name: str, options: Namespace) -> "Study":
        """The study as `options` of the command name it: from its store, or from a `runs.csv`.

        Raises:
            UsageError: there is no such study or function, it is not readable, or cells are missing
                or failed and `options` do not allow that.
        """
        store, frame = _read(name, options)
        if (function := getattr(options, "only", None)) is not None:
            if function not in (known := set(frame["function"])):
                raise unknown_name(f"function of study {name}", function, known)
            frame = frame[frame["function"] == function]
        if not options.allow_missing:
            require_complete(frame, name)
        return cls(name, store, frame, options.tune)

    @property
    def store(self) -> Store:
        """The store of its runs.

        Raises:
            UsageError: a `runs.csv` was read.
        """
        if self.stored is None:
            raise UsageError(
                "A runs.csv holds what the runs ended with, and this view wants their curves or "
                "weights: leave --runs out and name their store by --store."
            )
        return self.stored

    @cached_property
    def benchmark(self) -> Benchmark:
        """What its runs are of."""
        return benchmark_of(self.frame)

    def require(self, benchmark: Benchmark, what: str) -> None:
        """Raises a `UsageError` where the study is of another benchmark, and so has no `what`."""
        if self.benchmark is not benchmark:
            raise UsageError(
                f"Study '{self.name}' is of the benchmark '{self.benchmark.name}', which has no "
                f"{what}: that is for studies of '{benchmark.name}'."
            )

    @cached_property
    def kept(self) -> tuple[pd.DataFrame, Tuning]:
        """The table of the best trials, and how they were chosen.

        Raises:
            UsageError: see `analysis.tuning.tune`.
        """
        return tune(self.frame, self.tuned)


def _read(name: str, options: Namespace) -> tuple[Store | None, pd.DataFrame]:
    if options.runs is not None:
        return None, with_columns(joined_runs(options.runs))
    store = open_store(options.store)
    try:
        return store, read_table(store, name)
    except OSError as error:
        raise UsageError(
            f"Could not read the store at {store.root} ({error}): check its disk and permissions."
        ) from error
