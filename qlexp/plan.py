"""From Hydra's composed config to one that is ready to run: bad input ends here."""

from dataclasses import fields

from omegaconf import DictConfig, OmegaConf

from qlexp import environment
from qlexp.budget import with_budget
from qlexp.complaints import unknown_key
from qlexp.config import Config, resolve
from qlexp.stages import problem_of


def plan(composed: DictConfig) -> Config:
    """The checked config of a run, its method sized to its budget.

    Raises:
        UsageError: something in it cannot work; nothing has been computed yet.
    """
    names = [item.name for item in fields(Config)]
    for key in composed:
        if key not in (*names, "hydra"):
            raise unknown_key(str(key), OmegaConf.masked_copy(composed, names))
    config = with_budget(resolve(composed))
    environment.pick_device(config.device)
    problem_of(config)
    return config
