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

from qlexp.adapters.base import AdaptedLinear, Adapter, Look, LowRankConfig
from qlexp.config.checks import bounded
from qlexp.model.context import Context
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear, lane_linear, lane_linear_add, lane_softmax


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
        pool = self.A.shape[1]
        # One product for all: the mean over tokens comes after the routers, which are linear.
        products = lane_linear(h, torch.cat([self.A, self.R_A, self.R_B], dim=1))
        low, scores = products.split([pool, 2 * pool], dim=-1)  # low: every a · h, (L, N, T, pool)
        scores_A, scores_B = context.token_mean(scores).chunk(2, dim=-1)  # (L, N, pool) each
        p_A = scores_A.softmax(-1)
        chosen_A, weight_A = self.pick(p_A)
        choice = torch.zeros_like(p_A).scatter(-1, chosen_A, weight_A)
        p_B = (scores_B.softmax(-1) + lane_softmax(choice, self.C)) / 2
        chosen_B, weight_B = self.pick(p_B)

        partner = chosen_A.new_zeros(p_B.shape).scatter(-1, chosen_B, chosen_A)  # a of every b
        weight = torch.zeros_like(p_B).scatter(-1, chosen_B, weight_A * weight_B)
        low = low.gather(-1, partner.unsqueeze(2).expand_as(low)) * weight.unsqueeze(2)
        return lane_linear_add(self.base.project(h), low, self.B, self.scale), context

    def pick(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """The largest of p (L, N, pool), in order, and their weights: (L, N, rank) each."""
        largest, chosen = p.topk(self.rank, dim=-1)
        return chosen, 1 + (largest - largest.detach())


class MixLoRA(Adapter):
    """Conditional MixLoRA on every targeted linear."""

    Config: ClassVar = MixLoRAConfig
    reading: ClassVar = True
    looks: ClassVar = {"mix_lora": Look("#905448", group=1, order=80)}

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> MixLoRALinear:
        return MixLoRALinear(base, self.config, draw)
