"""A whole sweep: name its cells in the store, run what is missing, say what came of it."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qlexp.adapters.budget import reference_count
from qlexp.config.identity import run_id
from qlexp.config.schema import Config
from qlexp.store.manifest import Cell
from qlexp.store.store import Store
from qlexp.sweep.backends import Backend
from qlexp.sweep.execute import check_places, execute

_ROW_GROUPS = ("function", "method", "seed", "budget")


@dataclass(frozen=True)
class Job:
    """One job of a Hydra sweep: its checked config, and how its cell is called in the study."""

    config: Config
    budget: str
    overrides: tuple[str, ...]

    @classmethod
    def of(cls, config: Config, choices: Mapping[str, Any], overrides: Iterable[str]) -> "Job":
        """From a job's planned config, the options of its config groups and its overrides."""
        kept = (text for text in overrides if text.split("=")[0] not in _ROW_GROUPS)
        return cls(config, choices["budget"], tuple(kept))

    def cell(self) -> Cell:
        """The cell in its study."""
        config = self.config
        cell = (config.function.name, config.method.name, config.seed, self.budget)
        return Cell(run_id(config), *cell, self.overrides, reference_count(config))


def objective(summary: Mapping[str, Any]) -> float:
    """What a sweeper minimises: the validation loss, infinite where the run diverged."""
    return summary["validation_loss"] if summary["status"] == "done" else math.inf


def run_sweep(
    jobs: Sequence[Job], width: int | None, backend: Backend, goes_on: bool = False
) -> list[dict[str, Any]]:
    """Runs the jobs, at most `width` lanes a batch (None: what fits); their summaries, in order.

    Args:
        goes_on: whether the jobs continue a sweep whose cells are named already.
    """
    check_places([job.config for job in jobs])
    for place, study in {(job.config.store, job.config.study) for job in jobs}:
        members = [job for job in jobs if (job.config.store, job.config.study) == (place, study)]
        Store(place).write_study(study, [job.cell() for job in members], goes_on)
    summaries = execute([job.config for job in jobs], width, backend)
    states = Counter(summary["status"] for summary in summaries)
    print(", ".join(f"{count} {state}" for state, count in sorted(states.items())))
    return summaries
