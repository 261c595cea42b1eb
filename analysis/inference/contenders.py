"""The models that are timed: every method on the same backbone, merged and not."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qlexp.adapters.base import Adapter
from qlexp.adapters.stored import build_adapter
from qlexp.cell import configure
from qlexp.config.schema import Config
from qlexp.errors import UsageError
from qlexp.model.backbone import COORDINATES, Backbone
from qlexp.model.initial import Draw
from qlexp.train.compilation import compiled_apart

JOLT = 0.02  # deviation of the noise on every trained weight: no adapter is left at its zero start

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Contender:
    """A method at a size, one lane, float32.

    Attributes:
        model: points (1, N, 2), and e(z) (1, N, d_e) where the method reads it, to (1, N).
        inputs: those of one batch.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]

    def call(self, compiled: bool) -> Call:
        """A forward pass of the batch; compiled for this model and this batch alone."""
        if not compiled:
            return lambda: self.model(*self.inputs)
        run = compiled_apart(self.model.forward, self.inputs[0].device)
        return lambda: run(*self.inputs)


def config_of(method: str, backbone: str, rank: int) -> Config:
    """`conf/method/<method>.yaml` on `conf/backbone/<backbone>.yaml`; one with a rank takes `rank`.

    Raises:
        UsageError: a name is unknown, or the rank does not fit the backbone.
    """
    sized = [f"budget.rank={rank}", "budget.by=rank", "budget.enforce=false"]
    return configure([f"method={method}", f"backbone={backbone}", *sized, "tracking=none"])


def build(config: Config, device: torch.device) -> Adapter:
    """The method of `config` as training might leave it: every trained weight moved."""
    backbone = Backbone(config.backbone, Draw([config.seed]))
    adapter = build_adapter([config], backbone)
    draw = Draw([config.seed + 1])
    for parameter in adapter.trainable().values():
        parameter.data += draw.normal(*parameter.shape[1:], std=JOLT).data
    return adapter.to(device).requires_grad_(False)


def merged(config: Config, device: torch.device) -> Backbone | None:
    """The same with its change folded into the weights; None where the method cannot be merged."""
    try:
        return build(config, device).merge()
    except UsageError:  # the only mistake that a built adapter can meet here
        return None


def batch_of(config: Config, rows: int, device: torch.device) -> tuple[Tensor, ...]:
    """Points (1, rows, 2), and e(z) (1, rows, d_e) where the method reads one."""
    inputs = [Draw([0]).uniform(rows, COORDINATES, bound=1.0).data]
    size = config.method.config.instruction_size
    if size is not None:
        inputs.append(Draw([1]).normal(rows, size).data)
    return tuple(tensor.to(device) for tensor in inputs)
