"""RepLoRA: LoRA's factors reparametrised by small networks (Truong et al. 2025, arXiv 2502.03044).

    y = W h + s g_B(B) g_A(A) h

After training the factors that the networks put out are kept and the networks dropped: `merge`.
A reading, since the paper's formula could not be checked: g(X) = X + V silu(U X) mixes the rank
axis of A and of Bᵀ, and all linears of a layer share g_A and g_B. With V = 0 it is LoRA; g(0) = 0,
so B = 0 starts as the frozen backbone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qlexp.adapters.base import Look, LowRankConfig
from qlexp.adapters.generated import Factors, GeneratedLinear, GeneratingAdapter
from qlexp.config.checks import bounded
from qlexp.model.backbone import Backbone
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear


@dataclass
class RepLoRAConfig(LowRankConfig):
    """LoRA's fields and the size of the networks."""

    hidden: int = bounded(8, minimum=1)


class Reparametrisation(nn.Module):
    """g(X) = X + V silu(U X) on the rank axis, one g for each of `groups` groups of linears."""

    def __init__(self, groups: int, rank: int, hidden: int, draw: Draw) -> None:
        super().__init__()
        self.U = draw.kaiming_uniform(groups, hidden, rank)
        self.V = draw.kaiming_uniform(groups, rank, hidden)

    def forward(self, factors: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """g of the factors (L, rank, columns) of every group, in order.

        The groups have the same columns; they go through in one product.
        """
        columns = [factor.shape[2] for factor in factors[0]]
        x = torch.stack([torch.cat(list(group), dim=2) for group in factors], dim=1)
        y = x + self.V @ F.silu(self.U @ x)  # (L, groups, rank, all columns)
        return [part for group in y.unbind(1) for part in group.split(columns, dim=2)]


class RepLoRALinear(GeneratedLinear):
    """The seeds A (L, rank, in) and B (L, out, rank); they start as LoRA's factors do."""

    def __init__(self, base: LaneLinear, config: RepLoRAConfig, draw: Draw, index: int) -> None:
        super().__init__(base, config.scale, index)
        self.A = draw.kaiming_uniform(config.rank, base.d_in)
        self.B = draw.constant(base.d_out, config.rank, value=0.0)


class RepLoRA(GeneratingAdapter):
    """RepLoRA on every targeted linear."""

    Config: ClassVar = RepLoRAConfig
    reading: ClassVar = True
    looks: ClassVar = {"rep_lora": Look("#6a55d0", group=2, order=100)}

    def __init__(self, backbone: Backbone, config: RepLoRAConfig, draw: Draw) -> None:
        self.linears: list[RepLoRALinear] = []
        super().__init__(backbone, config, draw)
        groups = self.groups()
        self.g_A = Reparametrisation(groups, config.rank, config.hidden, draw)
        self.g_B = Reparametrisation(groups, config.rank, config.hidden, draw)

    def groups(self) -> int:
        """How many groups of linears there are, each with networks of its own: one a layer."""
        return self.backbone.config.depth

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> RepLoRALinear:
        self.linears.append(self.linear(base, self.index(layer, name), draw))
        return self.linears[-1]

    def linear(self, base: LaneLinear, index: int, draw: Draw) -> RepLoRALinear:
        return RepLoRALinear(base, self.config, draw, index)

    def generate(self) -> tuple[Factors, ...]:
        size = len(self.linears) // self.groups()
        grouped = [self.linears[i : i + size] for i in range(0, len(self.linears), size)]
        A = self.g_A([[linear.A for linear in group] for group in grouped])
        B = self.g_B([[linear.B.mT for linear in group] for group in grouped])
        return tuple((a, b.mT) for a, b in zip(A, B, strict=True))
