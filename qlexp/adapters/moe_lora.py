"""MoELoRA: every linear a mixture of LoRA experts, chosen token by token (Luo et al. 2024).

Source: arXiv 2402.12851.

    y = W h + s sum_{i in top k} softmax(W_g h)_i B_i A_i h

The k largest gates keep their values and the others are 0. A load-balancing loss, `balance` times
E sum_i f_i P_i averaged over the adapted linears, joins the training loss: P_i is the mean of gate
i over all tokens and f_i the share of choices that fell on expert i. Its form is that of the Switch
Transformer (arXiv 2101.03961), a reading, and its coefficient is unknown. The paper's contrastive
loss between experts is left out: what it pairs, and at which temperature, could not be checked.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qlexp.adapters.base import AdaptedLinear, Adapter, Look, LowRankConfig
from qlexp.config.checks import bounded, require_at_most
from qlexp.config.schema import BackboneConfig
from qlexp.model.context import Context
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear, lane_down, lane_linear_add, lane_softmax


@dataclass
class MoELoRAConfig(LowRankConfig):
    """LoRA's fields, of each expert, and the mixture's."""

    experts: int = bounded(3, minimum=2)
    top_k: int = bounded(2, minimum=1)
    balance: float = bounded(0.01, minimum=0.0)

    def check(self, backbone: BackboneConfig) -> None:
        super().check(backbone)
        require_at_most("method.top_k", self.top_k, "the mixture", "method.experts", self.experts)


class MoELoRALinear(AdaptedLinear):
    """Experts A (L, experts rank, in) and B (L, out, experts rank), gates W_g (L, experts, in).

    Args:
        balance: the coefficient of this linear's load-balancing loss.
    """

    def __init__(self, base: LaneLinear, config: MoELoRAConfig, draw: Draw, balance: float) -> None:
        super().__init__(base)
        self.scale = config.scale
        self.top_k = config.top_k
        self.balance = balance
        self.A = draw.kaiming_uniform(config.experts * config.rank, base.d_in)
        self.B = draw.constant(base.d_out, config.experts * config.rank, value=0.0)
        self.W_g = draw.kaiming_uniform(config.experts, base.d_in)

    def forward(self, h: Tensor, context: Context) -> tuple[Tensor, Context]:
        gates = lane_softmax(h, self.W_g)  # (L, N, T, experts)
        largest, chosen = gates.topk(self.top_k, dim=-1)
        kept = torch.zeros_like(gates).scatter(-1, chosen, largest)
        low = lane_down(h, self.A).unflatten(-1, (gates.shape[-1], -1))
        low = (low * kept.unsqueeze(-1)).flatten(-2)  # (L, N, T, experts rank)
        y = lane_linear_add(self.base.project(h), low, self.B, self.scale)
        if self.balance:
            context = context.penalised(self.balance * load_imbalance(gates, kept, context.mask))
        return y, context


def load_imbalance(gates: Tensor, kept: Tensor, mask: Tensor | None) -> Tensor:
    """E sum_i f_i P_i, (L,): 1 where the experts are used evenly, E where one is used alone.

    Args:
        gates: probabilities of the experts, (L, N, T, E).
        kept: the same, with 0 for those not chosen.
        mask: (L, N, T), False on padding.
    """
    used = (kept > 0).to(gates.dtype)
    if mask is not None:
        real = mask.unsqueeze(-1).to(gates.dtype)
        gates, used = gates * real, used * real
    share, mean = used.sum((1, 2)), gates.sum((1, 2))  # (L, E); both up to their total
    product = (share * mean).sum(-1) / (share.sum(-1) * mean.sum(-1))
    return gates.shape[-1] * product


class MoELoRA(Adapter):
    """MoELoRA on every targeted linear."""

    Config: ClassVar = MoELoRAConfig
    reading: ClassVar = True
    looks: ClassVar = {"moe_lora": Look("#6a55d0", group=1, order=90)}

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> MoELoRALinear:
        linears = self.backbone.config.depth * len(self.config.targets)
        return MoELoRALinear(base, self.config, draw, self.config.balance / linears)
