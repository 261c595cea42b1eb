"""ShareLoRA: LoRA whose A, B or both are one tensor for all layers (arXiv 2406.10785).

Tensors are shared among linears of the same projection type, which have equal shapes. `share: A` is
the paper's default.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from qlexp.adapters.base import Adapter, Look, LowRankConfig
from qlexp.adapters.lora import LoRALinear
from qlexp.config.checks import one_of
from qlexp.model.backbone import Backbone
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear


@dataclass
class SharedLoRAConfig(LowRankConfig):
    """LoRA's fields and which factors are shared."""

    share: str = one_of("A", "A", "B", "both")


class SharedLoRA(Adapter):
    """The first layer's linear of a type makes the shared factor; the other layers tie to it."""

    Config: ClassVar = SharedLoRAConfig
    looks: ClassVar = {"shared_lora": Look("#08a05a", group=0, order=40)}

    def __init__(self, backbone: Backbone, config: SharedLoRAConfig, draw: Draw) -> None:
        self._shared: dict[str, nn.Parameter] = {}
        super().__init__(backbone, config, draw)

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> LoRALinear:
        linear = LoRALinear(base, self.config, draw)
        for factor in ("A", "B") if self.config.share == "both" else (self.config.share,):
            own = getattr(linear, factor)
            setattr(linear, factor, self._shared.setdefault(f"shared.{name}.{factor}", own))
        return linear

    def trainable(self) -> dict[str, nn.Parameter]:
        """A shared tensor is called after its projection type, not after one of its layers."""
        shared = {id(parameter): name for name, parameter in self._shared.items()}
        return {shared.get(id(p), name): p for name, p in super().trainable().items()}
