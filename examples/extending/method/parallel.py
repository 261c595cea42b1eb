"""Parallel adapter: a bottleneck with an activation beside every frozen linear.

Source: He et al. 2021, arXiv 2110.04366, its scaled parallel form; there beside the MLP only.

    y = W h + s B act(A h),   s = alpha / rank
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from qlexp.adapters.base import AdaptedLinear, Adapter, LowRankConfig
from qlexp.config.checks import one_of
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear, lane_down, lane_linear_add


@dataclass
class ParallelConfig(LowRankConfig):
    """LoRA's fields and the activation."""

    activation: str = one_of("relu", "relu", "gelu", "tanh")


class ParallelLinear(AdaptedLinear):
    """A (L, rank, in) starts kaiming-uniform, B (L, out, rank) at zero."""

    def __init__(self, base: LaneLinear, config: ParallelConfig, draw: Draw) -> None:
        super().__init__(base)
        self.scale = config.scale
        self.activation = getattr(F, config.activation)
        self.A = draw.kaiming_uniform(config.rank, base.d_in)
        self.B = draw.constant(base.d_out, config.rank, value=0.0)

    def adapt(self, h: Tensor) -> Tensor:
        low = self.activation(lane_down(h, self.A))  # (L, N, T, rank)
        return lane_linear_add(self.base.project(h), low, self.B, self.scale)


class Parallel(Adapter):
    """A parallel adapter on every targeted linear."""

    Config: ClassVar = ParallelConfig

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> ParallelLinear:
        return ParallelLinear(base, self.config, draw)
