"""Lanes to try a method on: a network, an adapter around it, and samples.

What a lane gets is drawn from its own seed, so that the same seeds make the same lanes in any
batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from qlexp.adapters.base import Adapter
from qlexp.config.schema import BackboneConfig, Config
from qlexp.model.backbone import Backbone
from qlexp.model.evaluate import Samples
from qlexp.model.initial import Draw

F64 = torch.float64


def jolt(module: nn.Module, seeds: Sequence[int], std: float = 0.1) -> None:
    """Adds noise to what `module` trains, so that no start value hides a mistake."""
    trained = [p for p in module.parameters() if p.requires_grad]
    draw = Draw(seeds, trained[0].dtype if trained else F64)
    for parameter in trained:
        parameter.data += draw.normal(*parameter.shape[1:], std=std).data


def network(seeds: Sequence[int], shape: BackboneConfig, dtype: torch.dtype = F64) -> Backbone:
    """A backbone as pretraining might leave it: no bias is 0, no norm's weight 1."""
    backbone = Backbone(shape, Draw(seeds, dtype))
    jolt(backbone, [seed + 1000 for seed in seeds])
    return backbone


def adapted(config: Config, seeds: Sequence[int], dtype: torch.dtype = F64) -> Adapter:
    """The method of `config` at its start, around the network of the same seeds."""
    backbone = network(seeds, config.backbone, dtype)
    method = config.method
    return method.kind(backbone, method.config, Draw([seed + 2000 for seed in seeds], dtype))


def points(seeds: Sequence[int], n: int = 6, dtype: torch.dtype = F64) -> Tensor:
    """Points (L, n, 2) in [-1, 1]²."""
    return Draw([seed + 3000 for seed in seeds], dtype).uniform(n, 2, bound=1.0).data


def inputs(
    config: Config, seeds: Sequence[int], n: int = 6, dtype: torch.dtype = F64
) -> tuple[Tensor, Tensor | None]:
    """Points, and an encoded instruction (L, n, d_e) where the method of `config` reads one."""
    size, x = config.method.config.instruction_size, points(seeds, n, dtype)
    if size is None:
        return x, None
    return x, Draw([seed + 5000 for seed in seeds], dtype).normal(n, size).data


def samples(config: Config, seeds: Sequence[int], n: int = 6, dtype: torch.dtype = F64) -> Samples:
    """Noisy values of a ripple, with the instructions that the method of `config` reads."""
    x, instruction = inputs(config, seeds, n, dtype)
    noise = Draw([seed + 4000 for seed in seeds], dtype).normal(n, std=0.1).data
    return Samples(x, torch.sin(3 * x[..., 0]) * x[..., 1] + noise, instruction)


def optimizer_of(config: Config, parameters: Sequence[nn.Parameter], rates: Tensor) -> Optimizer:
    """The optimiser that `config` adapts with."""
    return config.optimizer.kind(list(parameters), lr=rates, config=config.optimizer.config)


def values(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters by name."""
    return {name: p.detach().clone() for name, p in module.named_parameters()}
