"""rsLoRA: LoRA with a scale that keeps large ranks learning (Kalajdzievski 2023, arXiv 2312.03732).

y = W h + s B A h,   s = alpha / sqrt(rank)
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from qlexp.adapters.base import Look, LowRankConfig
from qlexp.adapters.lora import LoRA


@dataclass
class RsLoRAConfig(LowRankConfig):
    """LoRA's fields. A budget that chooses the rank leaves alpha alone: the root is the method."""

    @property
    def scale(self) -> float:
        return self.alpha / math.sqrt(self.rank)

    def ranked(self, rank: int) -> "RsLoRAConfig":
        return replace(self, rank=rank)


class RsLoRA(LoRA):
    """rsLoRA on every targeted linear."""

    Config: ClassVar = RsLoRAConfig
    looks: ClassVar = {"rslora": Look("#169ce1", group=1, order=20)}
