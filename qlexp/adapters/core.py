"""LoRA with a trained core between its factors: queryable LoRA without a bank and without a route.

    y = W h + s B (I + C) A h,   s = alpha / rank

A control of ours. C (rank, rank) is the same for every input; `shared_by` says who has one: every
linear, every block of `block_size` layers, or the network. C starts Gaussian with the deviation
`initial` / sqrt(rank): at 0.25 as g R starts in queryable LoRA, where a gate of 0.5 meets an even
mixture of four atoms.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from qlexp.adapters.base import Adapter, Look, LowRankConfig
from qlexp.adapters.lora import LoRALinear
from qlexp.config.checks import bounded, one_of
from qlexp.model.backbone import Backbone
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear, lane_down, lane_linear, lane_linear_add


@dataclass
class CoreConfig(LowRankConfig):
    """LoRA's fields, who shares a core, and the core's start."""

    shared_by: str = one_of("linear", "linear", "block", "network")
    block_size: int = bounded(2, minimum=1)
    initial: float = bounded(0.25, minimum=0.0)


class CoreLinear(LoRALinear):
    """LoRA's factors and a core C (L, rank, rank), which may be other linears' too."""

    def __init__(self, base: LaneLinear, config: CoreConfig, C: nn.Parameter, draw: Draw) -> None:
        super().__init__(base, config, draw)
        self.C = C

    def adapt(self, h: Tensor) -> Tensor:
        low = lane_down(h, self.A)
        low = low + lane_linear(low, self.C)
        return lane_linear_add(self.base.project(h), low, self.B, self.scale)

    def merged(self) -> Tensor:
        return self.base.weight + self.scale * self.B @ (self.A + self.C @ self.A)


class Core(Adapter):
    """The first linear of those that share a core makes it; the others tie to it."""

    Config: ClassVar = CoreConfig
    looks: ClassVar = {
        "core": Look("#c01432", group=3, order=134),
        "core_block": Look("#e1626c", group=3, order=135),
        "core_network": Look("#a9396d", group=3, order=136),
    }

    def __init__(self, backbone: Backbone, config: CoreConfig, draw: Draw) -> None:
        self._shared: dict[Hashable, nn.Parameter] = {}
        super().__init__(backbone, config, draw)

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> CoreLinear:
        sharers: dict[str, Hashable] = {
            "linear": (layer, name),
            "block": layer // self.config.block_size,
            "network": "all",
        }
        key, rank = sharers[self.config.shared_by], self.config.rank
        if key not in self._shared:
            self._shared[key] = draw.normal(rank, rank, std=self.config.initial * rank**-0.5)
        return CoreLinear(base, self.config, self._shared[key], draw)
