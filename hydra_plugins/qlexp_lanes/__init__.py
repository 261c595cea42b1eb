"""Hydra launcher that trains the cells of a sweep in batches, and the grid sweeper beside it.

`hydra/launcher=lanes` works under any sweeper; `hydra/sweeper=lanes` with any launcher.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from qlexp.errors import UsageError
from qlexp.sweep.backends import Backend
from qlexp.sweep.compose import Composer
from qlexp.sweep.halving import Tuning
from qlexp.sweep.jobs import job_return, run_sweep
from qlexp.sweep.tuned import run_tuned


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
    tuning: Tuning = field(
        default_factory=Tuning
    )  # which setting's trials stop early, and how far its grid grows


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
        return [job_return(*pair) for pair in zip(job_overrides, summaries, strict=True)]

    def tune(self, grid: Sequence[Sequence[str]], tuning: Tuning) -> Sequence[JobReturn]:
        """Runs of a grid what `tuning` leaves, and what it adds."""
        jobs = [self.composer.job(overrides) for overrides in grid]
        every, summaries = run_tuned(jobs, tuning, self.composer.job, self.width, self.backend)
        return [
            job_return(*pair) for pair in zip((j.overrides for j in every), summaries, strict=True)
        ]


class GridSweeper(Sweeper):
    """Every combination of the swept values, in one launch; an empty grid is refused.

    `reference` adds a second grid: the first with these values in place and without what is swept
    below `method.`, so that a sweep of a field runs beside a method that has no such field.
    `tuning` makes the values of one setting trials, of which only the best are trained to the end.
    """

    def __init__(
        self,
        params: dict[str, str] | None,
        reference: dict[str, str] | None,
        tuning: DictConfig,
    ) -> None:
        self.params, self.reference = params or {}, reference or {}
        self.tuning = Tuning(**{str(key): value for key, value in tuning.items()})

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Any]:
        assert self.launcher is not None
        assert self.hydra_context is not None
        loader = self.hydra_context.config_loader
        grid = grid_of(loader, [*_words(self.params), *arguments], _words(self.reference))
        if not grid:
            raise UsageError("The sweep is empty: a glob() or range() of it matches nothing.")
        results = self._launched(self.launcher, grid)
        return [result.return_value for result in results]  # raises the error of a failed job

    def _launched(self, launcher: Launcher, grid: list[list[str]]) -> Sequence[JobReturn]:
        if not isinstance(launcher, LanesLauncher):
            if self.tuning.setting is not None:
                raise UsageError(
                    "hydra.sweeper.tuning stops trials on their way, which hydra/launcher=lanes "
                    "alone can do: leave the other launcher out, or tuning.setting=null."
                )
            self.validate_batch_is_legal(grid)  # LanesLauncher checks before it runs any job
        elif self.tuning.setting is not None:
            return launcher.tune(grid, self.tuning)
        return launcher.launch(grid, initial_job_idx=0)


def grid_of(
    loader: ConfigLoader, words: Sequence[str], reference: Sequence[str] = ()
) -> list[list[str]]:
    """The overrides of every job of a sweep, then of those of its reference."""
    parser = OverridesParser.create(config_loader=loader)
    overrides = parser.parse_overrides(list(words))
    grid = _product(overrides)
    if reference:
        instead = parser.parse_overrides(list(reference))
        grid += _product([*_without_swept_fields(overrides), *instead])
    return grid


def _words(values: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def _product(overrides: Sequence[Override]) -> list[list[str]]:
    """Every combination; of two overrides of one key the later counts."""
    axes = {item.get_key_element(): _values(item) for item in overrides}
    return [list(job) for job in product(*([f"{k}={v}" for v in vs] for k, vs in axes.items()))]


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise UsageError(
            f"{override.input_line} is no list of values: a grid wants one, such as 1,2,3 or "
            "range(0,3); an interval is for hydra/sweeper=optuna."
        )
    return list(override.sweep_string_iterator())


def _without_swept_fields(overrides: list[Override]) -> list[Override]:
    """`overrides` without the fields of the method that any of them sweeps."""
    swept = {item.key_or_group for item in overrides if item.is_sweep_override()}
    fields = {key for key in swept if key.startswith("method.")}
    return [item for item in overrides if item.key_or_group not in fields]
