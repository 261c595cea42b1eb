"""Hydra launcher of `qlexp-lm`: every job of a sweep is checked before the first one runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from qlexp.sweep.jobs import job_return, print_states


@dataclass
class OneByOneConfig:
    _target_: str = "hydra_plugins.qlexp_one_by_one.OneByOneLauncher"


ConfigStore.instance().store(
    group="hydra/launcher", name="one_by_one", node=OneByOneConfig, provider="qlexp"
)


class OneByOneLauncher(Launcher):
    """Composes every job, refuses the sweep where one cannot work, and runs them in turn."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.loader, self.config = hydra_context.config_loader, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from qlexp.lm.jobs import LmJob, run_jobs  # noqa: PLC0415, an extra

        jobs = []
        for overrides in job_overrides:
            composed = self.loader.load_sweep_config(self.config, list(overrides))
            jobs.append(LmJob.of(composed, composed.hydra))
        summaries = run_jobs(jobs, goes_on=initial_job_idx > 0)
        print_states(summaries)
        return [job_return(*pair) for pair in zip(job_overrides, summaries, strict=True)]
