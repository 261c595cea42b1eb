"""From Hydra's composed config to one that is ready to run: bad input ends here."""

from omegaconf import DictConfig

from qlexp import environment, tracking
from qlexp.budget import with_budget
from qlexp.config import Config, resolve
from qlexp.stages import problem_of


def plan(composed: DictConfig) -> Config:
    """The checked config of a run, its method sized to its budget.

    Raises:
        UsageError: something in it cannot work; nothing has been computed yet.
    """
    config = with_budget(resolve(composed))
    environment.pick_device(config.device)
    tracking.check(config.tracking)
    problem_of(config)
    return config
