"""The jobs of a sweep over language models: name its cells, run what is missing, one by one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from tqdm import tqdm

from qlexp import tracking
from qlexp.config.identity import plain
from qlexp.config.settings import told
from qlexp.lm.identity import run_id
from qlexp.lm.methods import reference_count
from qlexp.lm.plan import model_of, plan
from qlexp.lm.run import check_data, execute, stored, updates
from qlexp.lm.schema import LmConfig
from qlexp.store.manifest import Cell
from qlexp.store.store import Store
from qlexp.sweep.jobs import name_cells


@dataclass(frozen=True)
class LmJob:
    """One job of a Hydra sweep; attributes as in `qlexp.sweep.jobs.Job`."""

    config: LmConfig
    choices: Mapping[str, str | None]
    overrides: Sequence[str]

    @classmethod
    def of(cls, composed: DictConfig, hydra: Any) -> "LmJob":
        """From the composed config of a job and its `hydra` node."""
        return cls(plan(composed), hydra.runtime.choices, hydra.overrides.task)

    def cell(self) -> Cell:
        """The cell in its study; its function is the task."""
        config = self.config
        return Cell(
            run_id(config),
            config.task.name,
            config.method.name,
            config.seed,
            str(self.choices["budget"]),
            *told(plain(config), self.choices, self.overrides),
            reference_count(config, model_of(config)[0]),
        )


def run_jobs(jobs: Sequence[LmJob], goes_on: bool = False) -> list[dict[str, Any]]:
    """Runs the jobs one by one; their summaries, in order.

    Args:
        goes_on: whether the jobs continue a sweep whose cells are named already.

    Raises:
        UsageError: the mirror or the store cannot work, or a task's source is not to be had.
    """
    todo = [job.config for job in jobs if not _finished(job.config)]
    for job in jobs:
        tracking.check(job.config.tracking)
    check_data(todo)
    name_cells(jobs, goes_on)
    total = sum(map(updates, todo))
    with tqdm(total=total, unit="update", disable=not total, smoothing=0.05) as progress:
        for config in todo:
            progress.set_description(f"{config.task.name}/{config.method.name}/s{config.seed}")
            execute(config, progress.update)
    return [stored(job.config) for job in jobs]


def _finished(config: LmConfig) -> bool:
    return Store(config.store).finished(run_id(config))


def line(summary: Mapping[str, Any]) -> str:
    """A finished run in one line."""
    cell = f"{summary['function']}/{summary['method']}/s{summary['seed']}"
    return (
        f"{cell}  {summary['status']}  accuracy {summary['frozen_accuracy']:.1%} -> "
        f"{summary['accuracy']:.1%}  test_loss {summary['frozen_loss']:.4g} -> "
        f"{summary['test_loss'] or float('inf'):.4g}  run_id {summary['run_id']}"
    )


def register_schema() -> None:
    """Makes the schema known to Hydra."""
    ConfigStore.instance().store(name="lm_schema", node=LmConfig)
