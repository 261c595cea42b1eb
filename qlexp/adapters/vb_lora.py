"""VB-LoRA: LoRA's factors mixed from one bank of vectors (Li et al. 2024, arXiv 2405.15179).

The rows of A and the columns of B are cut into sub-vectors of length b, and each sub-vector is

    sum over m of w_m v_m,   w = softmax over the k largest of its logits, 0 elsewhere

with v_1 .. v_h the bank, shared by all linears, and h logits for every sub-vector. Bank and logits
start random, so B A is not 0 at first. Here the starting change is taken off,

    y = W h + s (B A - B0 A0) h = W h + s ((B - B0) A + B0 (A - A0)) h,

and the right side is 0 to the last bit where A = A0 and B = B0: the start is the frozen backbone
exactly. A0 and B0 are not trained, counted or saved: the run's seed draws them again, so `load`
needs an adapter that was drawn from the seed of the run that saved. s = alpha / rank, as in LoRA;
the published update is not scaled, which is alpha = rank. The paper counts what it stores, k
weights and indices a sub-vector; here, as for every method, all trainable numbers count.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from qlexp.adapters.base import AdaptedLinear, Adapter, Look, LowRankConfig
from qlexp.config.checks import bounded, require_at_most
from qlexp.config.schema import BackboneConfig
from qlexp.errors import UsageError
from qlexp.model.backbone import Backbone, linear_shapes
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear, lane_down, lane_linear, lane_linear_add


@dataclass
class VBLoRAConfig(LowRankConfig):
    """LoRA's fields, and the bank's. A budget chooses the number of vectors."""

    sized_by: ClassVar = "vectors"

    vectors: int = bounded(8, minimum=2)  # h
    vector_length: int = bounded(8, minimum=1)  # b
    top_k: int = bounded(2, minimum=2)  # a softmax over one has no gradient
    bank_bound: float = bounded(0.02, above=0.0)
    logits_std: float = bounded(0.1, above=0.0)

    def check(self, backbone: BackboneConfig) -> None:
        super().check(backbone)
        require_at_most("method.top_k", self.top_k, "the bank", "method.vectors", self.vectors)
        shapes = linear_shapes(backbone)
        common = math.gcd(*(side for target in self.targets for side in shapes[target]))
        if common % self.vector_length:
            raise UsageError(
                f"method.vector_length={self.vector_length} does not cut the linears into whole "
                f"sub-vectors: it must divide {common}, the greatest common divisor of their sides."
            )

    def sub_vectors(self, d_out: int, d_in: int) -> int:
        """How many one rank-one term of a linear has."""
        return (d_out + d_in) // self.vector_length

    def sizes(self, backbone: BackboneConfig) -> range:
        """Up to a vector for every sub-vector."""
        shapes = linear_shapes(backbone)
        layer = sum(self.rank * self.sub_vectors(*shapes[target]) for target in self.targets)
        return range(self.top_k, max(self.top_k, backbone.depth * layer) + 1)

    def sized(self, size: int) -> "VBLoRAConfig":
        return replace(self, vectors=size)


class VBLoRALinear(AdaptedLinear):
    """Logits (L, rank, sub-vectors, h), N(0, logits_std²): A's sub-vectors first, then B's."""

    start: Tensor  # A0 beside B0ᵀ, (L, rank, in + out)

    def __init__(
        self, base: LaneLinear, config: VBLoRAConfig, bank: nn.Parameter, draw: Draw
    ) -> None:
        super().__init__(base)
        self.scale = config.scale
        self.top_k = config.top_k
        self.bank = bank
        self.logits = draw.normal(
            config.rank,
            config.sub_vectors(base.d_out, base.d_in),
            config.vectors,
            std=config.logits_std,
        )
        self.register_buffer("start", self.pairs().detach(), persistent=False)

    def pairs(self) -> Tensor:
        """A beside Bᵀ, (L, rank, in + out)."""
        largest, chosen = self.logits.topk(self.top_k, dim=-1)
        weights = torch.zeros_like(self.logits).scatter(-1, chosen, largest.softmax(-1))
        return lane_linear(weights, self.bank.mT).flatten(-2)

    def factors(self) -> tuple[Tensor, Tensor]:
        """(L, 2 rank, in) and (L, out, 2 rank), whose product is B A - B0 A0."""
        pairs = self.pairs()
        moved = pairs - self.start
        d_in = self.base.d_in
        down = torch.cat([pairs[..., :d_in], moved[..., :d_in]], dim=1)
        up = torch.cat([moved[..., d_in:], self.start[..., d_in:]], dim=1)
        return down, up.mT

    def adapt(self, h: Tensor) -> Tensor:
        down, up = self.factors()
        return lane_linear_add(self.base.project(h), lane_down(h, down), up, self.scale)

    def merged(self) -> Tensor:
        down, up = self.factors()
        return self.base.weight + self.scale * up @ down


class VBLoRA(Adapter):
    """The adapter owns the bank (L, h, b), which starts uniform in ±bank_bound."""

    Config: ClassVar = VBLoRAConfig
    looks: ClassVar = {"vb_lora": Look("#7d7a1a", group=1, order=60)}

    def __init__(self, backbone: Backbone, config: VBLoRAConfig, draw: Draw) -> None:
        bank = draw.uniform(config.vectors, config.vector_length, bound=config.bank_bound)
        self._shared = {"bank": bank}
        super().__init__(backbone, config, draw)
        self.bank = bank

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> VBLoRALinear:
        return VBLoRALinear(base, self.config, self._shared["bank"], draw)
