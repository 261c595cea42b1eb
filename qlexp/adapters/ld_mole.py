"""LD-MoLE: a mixture of LoRA experts whose number is learned, token by token (Zhuang et al. 2025).

Source: arXiv 2509.25684 (ICLR 2026); formula and settings as in the authors' code.

    y = W h + s sum_i p_i B_i A_i h,   u = W_g h,   lambda = log sigmoid(f(h)) + 0.99
    p = argmin over the simplex of ‖p - u‖² - lambda ‖p‖²       (sparsegen, Laha et al. 2018)
      = max(u - tau, 0) / (1 - lambda)

The closer lambda < 1 is to 1, the fewer experts keep a weight; there is always one, and p has a
gradient in both u and lambda. f has one hidden layer with ReLU; all linears of one input width
share it. Two losses, averaged over the adapted linears, may join the training loss: `balance` times
that of MoELoRA, and `sparsity` times the mean of max(0, lambda_k - lambda), where lambda_k is the
least lambda that leaves at most k = `most_active` experts; the authors' script has it off. Their
hidden biases start at -2.5, at which no ReLU of a network this narrow opens: 0 here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qlexp.adapters.base import AdaptedLinear, Adapter, Look, LowRankConfig
from qlexp.adapters.moe_lora import load_imbalance
from qlexp.config.checks import bounded
from qlexp.config.schema import BackboneConfig
from qlexp.errors import UsageError
from qlexp.model.backbone import Backbone, linear_shapes
from qlexp.model.context import Context
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear, lane_down, lane_linear, lane_linear_add

_LARGEST = 0.99  # lambda stays below it
_START = -2.5  # of f's last bias: lambda near -1.6, where all experts take part


@dataclass
class LDMoLEConfig(LowRankConfig):
    """LoRA's fields, of each expert, the mixture's, f's and those of the losses."""

    experts: int = bounded(3, minimum=2)
    hidden: int = bounded(4, minimum=1)
    balance: float = bounded(0.01, minimum=0.0)
    sparsity: float = bounded(0.0, minimum=0.0)
    most_active: int = bounded(2, minimum=1)

    def check(self, backbone: BackboneConfig) -> None:
        super().check(backbone)
        if self.most_active >= self.experts:
            raise UsageError(
                f"method.most_active={self.most_active} spares no expert: it must be below "
                f"method.experts={self.experts}."
            )


class SparsityNetwork(nn.Module):
    """f: W_1 (L, hidden, in) and W_2 (L, 1, hidden), kaiming-uniform, with biases."""

    def __init__(self, d_in: int, hidden: int, draw: Draw) -> None:
        super().__init__()
        self.W_1 = draw.kaiming_uniform(hidden, d_in)
        self.b_1 = draw.constant(hidden, value=0.0)
        self.W_2 = draw.kaiming_uniform(1, hidden)
        self.b_2 = draw.constant(1, value=_START)

    def forward(self, h: Tensor) -> Tensor:
        """lambda of every token, (L, N, T, 1)."""
        hidden = F.relu(lane_down(h, self.W_1) + self.b_1[:, None, None])
        return F.logsigmoid(lane_linear(hidden, self.W_2) + self.b_2[:, None, None]) + _LARGEST


@dataclass(frozen=True)
class Sparsity(Context):
    """f of every input width."""

    networks: Mapping[int, SparsityNetwork] = field(default_factory=dict)


class LDMoLELinear(AdaptedLinear):
    """Experts A (L, experts rank, in) and B (L, out, experts rank), scores W_g (L, experts, in).

    Args:
        share: 1 / the number of adapted linears, by which this one's losses count.
    """

    def __init__(self, base: LaneLinear, config: LDMoLEConfig, draw: Draw, share: float) -> None:
        super().__init__(base)
        self.scale = config.scale
        self.balance, self.sparsity = config.balance * share, config.sparsity * share
        self.most_active = config.most_active
        self.A = draw.kaiming_uniform(config.experts * config.rank, base.d_in)
        self.B = draw.constant(base.d_out, config.experts * config.rank, value=0.0)
        self.W_g = draw.kaiming_uniform(config.experts, base.d_in)

    def forward(self, h: Tensor, context: Context) -> tuple[Tensor, Context]:
        assert isinstance(context, Sparsity)
        scores = lane_down(h, self.W_g)  # (L, N, T, experts)
        strength = context.networks[self.base.d_in](h)
        p = sparsegen(scores, strength)
        low = lane_down(h, self.A).unflatten(-1, (p.shape[-1], -1))
        low = (low * p.unsqueeze(-1)).flatten(-2)  # (L, N, T, experts rank)
        y = lane_linear_add(self.base.project(h), low, self.B, self.scale)
        if self.balance:
            context = context.penalised(self.balance * load_imbalance(p, p, context.mask))
        if self.sparsity:
            excess = F.relu(least_strength(scores.detach(), self.most_active) - strength)
            mean = context.token_mean(excess).mean((1, 2))  # (L,)
            context = context.penalised(self.sparsity * mean)
        return y, context


def sparsegen(scores: Tensor, strength: Tensor) -> Tensor:
    """p (..., E), at least 0, sum 1: of scores u (..., E) and strength lambda < 1 (..., 1)."""
    ordered = scores.sort(-1, descending=True).values
    sums = ordered.cumsum(-1)
    places = torch.arange(1, scores.shape[-1] + 1, dtype=scores.dtype, device=scores.device)
    active = (1 - strength + places * ordered > sums).sum(-1, keepdim=True).clamp_min(1)
    tau = (sums.gather(-1, active - 1) - 1 + strength) / active
    return (scores - tau).clamp_min(0) / (1 - strength)


def least_strength(scores: Tensor, k: int) -> Tensor:
    """The least lambda with at most k < E experts active, (..., 1), of scores (..., E)."""
    ordered = scores.topk(k + 1, dim=-1).values
    return 1 - (ordered[..., :k].sum(-1, keepdim=True) - k * ordered[..., k:])


class LDMoLE(Adapter):
    """LD-MoLE on every targeted linear; the adapter owns f."""

    Config: ClassVar = LDMoLEConfig
    looks: ClassVar = {"ld_mole": Look("#783efc", group=3, order=95)}

    def __init__(self, backbone: Backbone, config: LDMoLEConfig, draw: Draw) -> None:
        super().__init__(backbone, config, draw)
        shapes = linear_shapes(backbone.config)
        widths = sorted({shapes[name][1] for name in config.targets})
        self.networks = nn.ModuleDict(
            {str(width): SparsityNetwork(width, config.hidden, draw) for width in widths}
        )

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> LDMoLELinear:
        linears = self.backbone.config.depth * len(self.config.targets)
        return LDMoLELinear(base, self.config, draw, 1 / linears)

    def context(self, mask: Tensor | None = None, instruction: Tensor | None = None) -> Sparsity:
        networks = {int(width): network for width, network in self.networks.items()}
        return Sparsity(mask, instruction, networks=networks)  # type: ignore[arg-type]
