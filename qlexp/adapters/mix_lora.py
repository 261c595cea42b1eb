"""Conditional MixLoRA: factors picked for every input (Shen et al. 2024, arXiv 2402.15896).

    y = W h + s sum_i b_i (a_i · h)

Every adapted linear has a pool of vectors a and one of vectors b. Its routers see the mean of its
input over the tokens: p_A = softmax(R_A mean h) picks the `rank` largest for a_1, a_2, ..., and
p_B = (softmax(R_B mean h) + softmax(C c)) / 2 the b_1, b_2, ..., where c marks A's choice; the i-th
of one goes with the i-th of the other. The update and both routers follow the paper and its code,
which know two conditions on A (its choice, or the vectors chosen); this is the first, the choice's
embedding and the map behind it in one matrix C. A reading is the routers' gradient: the chosen
vectors weigh exactly 1 and pass the gradient on to their probabilities (straight through).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qlexp.adapters.base import AdaptedLinear, Adapter, LowRankConfig
from qlexp.checks import bounded
from qlexp.context import Context
from qlexp.initial import Draw
from qlexp.linear import LaneLinear, lane_down, lane_linear_add, lane_softmax


@dataclass
class MixLoRAConfig(LowRankConfig):
    """LoRA's fields and how much there is to choose from."""

    pool_per_rank: int = bounded(2, minimum=2)

    @property
    def pool(self) -> int:
        """Vectors in each pool."""
        return self.pool_per_rank * self.rank


class MixLoRALinear(AdaptedLinear):
    """Pools A (L, pool, in), B (L, out, pool); routers R_A, R_B (L, pool, in), C (L, pool, pool).

    The pools start as LoRA's factors do.
    """

    def __init__(self, base: LaneLinear, config: MixLoRAConfig, draw: Draw) -> None:
        super().__init__(base)
        self.scale = config.scale
        self.rank = config.rank
        self.A = draw.kaiming_uniform(config.pool, base.d_in)
        self.B = draw.constant(base.d_out, config.pool, value=0.0)
        self.R_A = draw.kaiming_uniform(config.pool, base.d_in)
        self.R_B = draw.kaiming_uniform(config.pool, base.d_in)
        self.C = draw.kaiming_uniform(config.pool, config.pool)

    def forward(self, h: Tensor, context: Context) -> tuple[Tensor, Context]:
        seen = context.token_mean(h)  # (L, N, in)
        p_A = lane_softmax(seen, self.R_A)
        chosen_A, weight_A = self.pick(p_A)
        choice = torch.zeros_like(p_A).scatter(-1, chosen_A, weight_A)
        conditional = lane_softmax(choice, self.C)
        p_B = (lane_softmax(seen, self.R_B) + conditional) / 2
        chosen_B, weight_B = self.pick(p_B)

        low = lane_down(h, self.A)  # every a · h, (L, N, T, pool)
        tokens = (-1, -1, low.shape[2], -1)
        products = low.gather(-1, chosen_A.unsqueeze(2).expand(tokens))
        products = products * (weight_A * weight_B).unsqueeze(2)
        low = products.new_zeros(low.shape)
        low = low.scatter(-1, chosen_B.unsqueeze(2).expand(tokens), products)
        return lane_linear_add(self.base.project(h), low, self.B, self.scale), context

    def pick(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """The largest of p (L, N, pool), in order, and their weights: (L, N, rank) each."""
        largest, chosen = p.topk(self.rank, dim=-1)
        return chosen, 1 + (largest - largest.detach())


class MixLoRA(Adapter):
    """Conditional MixLoRA on every targeted linear."""

    Config: ClassVar = MixLoRAConfig
    reading: ClassVar = True

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> MixLoRALinear:
        return MixLoRALinear(base, self.config, draw)
