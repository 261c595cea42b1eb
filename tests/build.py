"""Small networks, adapters and samples for tests, without a command line or a store."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor

from qlexp.adapters import probe
from qlexp.adapters.lora import LoRA
from qlexp.adapters.probe import F64, adapted, inputs, jolt, optimizer_of, points, values
from qlexp.config.resolve import resolve
from qlexp.config.schema import BackboneConfig, Config, StageConfig, register_schema
from qlexp.main import CONF
from qlexp.model.backbone import Backbone
from qlexp.model.evaluate import Samples
from qlexp.sweep.plan import plan

__all__ = [
    "CONSTANT",
    "F64",
    "METHODS",
    "NARROW",
    "TINY",
    "Broken",
    "adapted",
    "composed",
    "inputs",
    "jolt",
    "network",
    "of_method",
    "optimizer_of",
    "planned",
    "points",
    "samples",
    "values",
]

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
TINY = BackboneConfig(depth=4, width=16, heads=2, mlp_ratio=2, frequencies=3)
NARROW = (
    *("backbone.depth=3", "backbone.width=8", "backbone.heads=2", "backbone.frequencies=4"),
    *("trainer=smoke", "trainer.adapt.batch_size=16", "data.pretrain=64", "data.adapt=32"),
    *("tracking=none", "budget.enforce=false"),
)  # overrides of a run that takes a moment
CONSTANT = StageConfig(epochs=1, learning_rate=1e-2, schedule="constant", warmup=0.0)


class Broken(LoRA):
    """A method whose forward pass raises."""

    def forward(self, x: Tensor) -> Tensor:
        raise ArithmeticError("no forward pass today")


@cache
def composed(*overrides: str) -> Config:
    """The checked config of `overrides`, not yet sized to a budget."""
    return resolve(_compose(overrides))


def planned(*overrides: str) -> Config:
    """The config of `overrides` as a run has it, sized to its budget."""
    return plan(_compose(overrides))


def _compose(overrides: Sequence[str]) -> DictConfig:
    register_schema()
    with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def of_method(name: str, shape: BackboneConfig = TINY) -> Config:
    """The config of `conf/method/<name>.yaml` on a tiny network."""
    config = deepcopy(composed(f"method={name}"))
    return replace(config, backbone=shape)


def network(
    seeds: Sequence[int], shape: BackboneConfig = TINY, dtype: torch.dtype = F64
) -> Backbone:
    """A backbone as pretraining might leave it: no bias is 0, no norm's weight 1."""
    return probe.network(seeds, shape, dtype)


def samples(
    seeds: Sequence[int], n: int = 6, dtype: torch.dtype = F64, config: Config | None = None
) -> Samples:
    """Noisy values of a ripple, with the instructions that the method of `config` reads."""
    return probe.samples(config or of_method("lora"), seeds, n, dtype)
