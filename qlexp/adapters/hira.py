"""HiRA: a low-rank matrix that multiplies the weights, entry by entry (Huang et al., ICLR 2025).

W' = W + s W ⊙ (B A),   s = alpha / rank

The change has a rank of up to W's own. The paper and peft have no scale: s is 1 in the YAML, and
stays 1 whatever the rank. W' is formed, and the input passes through it once.
"""

from typing import ClassVar

import torch
from torch import Tensor

from qlexp.adapters.base import Adapter, Look, LowRankConfig
from qlexp.adapters.lora import LoRALinear
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear


class HiRALinear(LoRALinear):
    """LoRA's factors, with LoRA's start."""

    def adapt(self, h: Tensor) -> Tensor:
        return self.base.project(h, self.merged())

    def merged(self) -> Tensor:
        W = self.base.weight
        return torch.addcmul(W, W, torch.bmm(self.B, self.A), value=self.scale)


class HiRA(Adapter):
    """HiRA on every targeted linear."""

    Config: ClassVar = LowRankConfig
    looks: ClassVar = {"hira": Look("#619702", group=3, order=55)}

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> HiRALinear:
        return HiRALinear(base, self.config, draw)
