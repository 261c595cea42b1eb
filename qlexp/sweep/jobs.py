"""A whole sweep: name its cells in the store, run what is missing, say what came of it."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from qlexp.adapters.budget import reference_count
from qlexp.config.identity import plain, run_id
from qlexp.config.schema import Config
from qlexp.config.settings import told
from qlexp.errors import RunError
from qlexp.store.manifest import Cell
from qlexp.store.store import Store
from qlexp.sweep.backends import Backend
from qlexp.sweep.execute import check_places, execute
from qlexp.sweep.plan import plan


@dataclass(frozen=True)
class Job:
    """One job of a Hydra sweep: its checked config, and what makes its cell in the study.

    Attributes:
        choices: what was chosen of each of Hydra's groups.
        overrides: the job's words of the command line.
        extension: how many values were added to its row's grid before it, itself included; 0: it
            is in the grid that was asked for.
    """

    config: Config
    choices: Mapping[str, str | None]
    overrides: Sequence[str]
    extension: int = 0

    @classmethod
    def of(cls, composed: DictConfig, hydra: Any) -> "Job":
        """From the composed config of a job and its `hydra` node."""
        return cls(plan(composed), hydra.runtime.choices, hydra.overrides.task)

    def cell(self) -> Cell:
        """The cell in its study."""
        config = self.config
        return Cell(
            run_id(config),
            config.function.name,
            config.method.name,
            config.seed,
            str(self.choices["budget"]),
            *told(plain(config), self.choices, self.overrides),
            reference_count(config),
            self.extension,
        )


def objective(summary: Mapping[str, Any]) -> float:
    """What a sweeper minimises: the validation loss, infinite where the run diverged."""
    return summary["validation_loss"] if summary["status"] == "done" else math.inf


def job_return(overrides: Sequence[str], summary: Mapping[str, Any]) -> JobReturn:
    """What a launcher gives back of a run; its value is what sweepers minimise."""
    failed = summary["status"] == "failed"
    return JobReturn(
        overrides=overrides,
        status=JobStatus.FAILED if failed else JobStatus.COMPLETED,
        _return_value=RunError.of(summary) if failed else objective(summary),
    )


def run_sweep(
    jobs: Sequence[Job], width: int | None, backend: Backend, goes_on: bool = False
) -> list[dict[str, Any]]:
    """Runs the jobs, at most `width` lanes a batch (None: what fits); their summaries, in order.

    Args:
        goes_on: whether the jobs continue a sweep whose cells are named already.
    """
    configs = [job.config for job in jobs]
    check_places(configs)
    name_cells(jobs, goes_on)
    summaries = execute(configs, width, backend)
    print_states(summaries)
    return summaries


def name_cells(jobs: Sequence[Any], goes_on: bool = False) -> None:
    """Lists the cells of `jobs` in the manifests of their studies; `goes_on` as `run_sweep`'s."""
    for place, study in {(job.config.store, job.config.study) for job in jobs}:
        members = [job for job in jobs if (job.config.store, job.config.study) == (place, study)]
        Store(place).write_study(study, [job.cell() for job in members], goes_on)


def print_states(summaries: Sequence[Mapping[str, Any]]) -> None:
    """Says how many runs came to what."""
    states = Counter(summary["status"] for summary in summaries)
    print(", ".join(f"{count} {state}" for state, count in sorted(states.items())))
