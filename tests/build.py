"""Small networks, adapters and samples for tests, without a command line or a store."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache

import torch
from hydra import compose, initialize_config_dir

from qlexp.adapters import probe
from qlexp.adapters.probe import F64, adapted, inputs, jolt, optimizer_of, points, values
from qlexp.config.resolve import resolve
from qlexp.config.schema import BackboneConfig, Config, StageConfig, register_schema
from qlexp.main import CONF
from qlexp.model.backbone import Backbone
from qlexp.model.evaluate import Samples

__all__ = [
    "CONSTANT",
    "F64",
    "METHODS",
    "TINY",
    "adapted",
    "composed",
    "inputs",
    "jolt",
    "network",
    "of_method",
    "optimizer_of",
    "points",
    "samples",
    "values",
]

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
TINY = BackboneConfig(depth=4, width=16, heads=2, mlp_ratio=2, frequencies=3)
CONSTANT = StageConfig(epochs=1, learning_rate=1e-2, schedule="constant", warmup=0.0)


@cache
def composed(*overrides: str) -> Config:
    """The checked config of `overrides`, not yet sized to a budget."""
    register_schema()
    with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        return resolve(compose("config", overrides=list(overrides)))


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
