"""LoRA: a low-rank update beside every frozen linear (Hu et al. 2021, arXiv 2106.09685).

y = W h + s B A h,   s = alpha / rank
"""

from typing import ClassVar

from torch import Tensor

from qlexp.adapters.base import AdaptedLinear, Adapter, Look, LowRankConfig
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear, lane_down, lane_linear_add


class LoRALinear(AdaptedLinear):
    """A (L, rank, in) starts kaiming-uniform, B (L, out, rank) at zero."""

    def __init__(self, base: LaneLinear, config: LowRankConfig, draw: Draw) -> None:
        super().__init__(base)
        self.scale = config.scale
        self.A = draw.kaiming_uniform(config.rank, base.d_in)
        self.B = draw.constant(base.d_out, config.rank, value=0.0)

    def adapt(self, h: Tensor) -> Tensor:
        return lane_linear_add(self.base.project(h), lane_down(h, self.A), self.B, self.scale)

    def merged(self) -> Tensor:
        return self.base.weight + self.scale * self.B @ self.A


class LoRA(Adapter):
    """LoRA on every targeted linear."""

    Config: ClassVar = LowRankConfig
    looks: ClassVar = {"lora": Look("#0068d3", group=0, order=10)}

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> LoRALinear:
        return LoRALinear(base, self.config, draw)
