"""Hydra launcher that trains the cells of a sweep in batches, and the grid sweeper beside it.

`hydra/launcher=lanes` works under any sweeper; `hydra/sweeper=lanes` with any launcher.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from qlexp.errors import RunError, UsageError
from qlexp.sweep.backends import Backend
from qlexp.sweep.compose import Composer
from qlexp.sweep.jobs import objective, run_sweep


@dataclass
class LanesConfig:
    _target_: str = "hydra_plugins.qlexp_lanes.LanesLauncher"
    width: int | None = None  # the most runs in one batch; null: what fits into the free memory
    backend: str = "local"  # local, joblib, submitit_local, submitit_slurm or ray
    workers: int = 1  # batches at a time, for all backends but local
    options: dict[str, Any] = field(default_factory=dict)  # the backend's own


@dataclass
class GridConfig:
    _target_: str = "hydra_plugins.qlexp_lanes.GridSweeper"
    params: dict[str, str] | None = None  # what is swept, as on the command line
    # a second grid of methods beside, without the swept method.*
    reference: dict[str, str] | None = field(default_factory=dict)


for group, node in (("hydra/launcher", LanesConfig), ("hydra/sweeper", GridConfig)):
    ConfigStore.instance().store(group=group, name="lanes", node=node, provider="qlexp")


class LanesLauncher(Launcher):
    """Composes every job, refuses the sweep where one cannot work, and runs all in lanes."""

    def __init__(
        self, width: int | None, backend: str, workers: int, options: Mapping[str, Any]
    ) -> None:
        if width is not None and width < 1:
            raise UsageError(f"hydra.launcher.width={width} must be at least 1, or null.")
        self.width = width
        self.backend = Backend(backend, workers, dict(options))

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.composer = Composer(hydra_context.config_loader, config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        jobs = [self.composer.job(overrides) for overrides in job_overrides]
        summaries = run_sweep(jobs, self.width, self.backend, goes_on=initial_job_idx > 0)
        return [
            _job_return(overrides, summary)
            for overrides, summary in zip(job_overrides, summaries, strict=True)
        ]


class GridSweeper(BasicSweeper):
    """Hydra's grid, composed once and not twice, an empty one refused, and no file left behind.

    `reference` adds a second grid: the first with these values in place and without what is swept
    below `method.`, so that a sweep of a field runs beside a method that has no such field.
    """

    def __init__(self, params: dict[str, str] | None, reference: dict[str, str] | None) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.reference = reference or {}

    def sweep(self, arguments: list[str]) -> list[Any]:
        assert self.hydra_context is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        grid = self._jobs(overrides)
        if self.reference:
            instead = parser.parse_overrides([f"{k}={v}" for k, v in self.reference.items()])
            grid += self._jobs([*_without_swept_fields(overrides), *instead])
        if not grid:
            raise UsageError("The sweep is empty: a glob() or range() of it matches nothing.")
        if not isinstance(self.launcher, LanesLauncher):  # which checks before it runs any job
            self.validate_batch_is_legal(grid)
        results = self.launcher.launch(grid, initial_job_idx=0)
        return [result.return_value for result in results]  # raises the error of a failed job

    def _jobs(self, overrides: list[Override]) -> list[list[str]]:
        return [job for batch in self.split_arguments(overrides, None) for job in batch]


def _without_swept_fields(overrides: list[Override]) -> list[Override]:
    """`overrides` without the fields of the method that any of them sweeps."""
    swept = {item.key_or_group for item in overrides if item.is_sweep_override()}
    fields = {key for key in swept if key.startswith("method.")}
    return [item for item in overrides if item.key_or_group not in fields]


def _job_return(overrides: Sequence[str], summary: dict[str, Any]) -> JobReturn:
    failed = summary["status"] == "failed"
    return JobReturn(
        overrides=overrides,
        status=JobStatus.FAILED if failed else JobStatus.COMPLETED,
        _return_value=RunError.of(summary) if failed else objective(summary),
    )
