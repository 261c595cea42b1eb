"""HyRA: one hypernetwork makes the factors of all linears (Diep et al. 2025, arXiv 2510.04295).

    z = tanh(e W_1ᵀ),   A = z W_Aᵀ,   B = W_B zᵀ,   y = W h + s B A h

e (rank, d_e) is the embedding of one linear of one layer, with a row for every rank component;
W_1 is shared by all linears, W_A and W_B by the layers of a projection type. In the paper (HoRA in
its first version) a joint hypernetwork generates the factors of all attention heads of a layer.
The formula is a reading, since the paper's could not be checked: the heads of a linear are rows of
one B here and share W_B, and linears without heads take part through their embeddings. W_B starts
at zero.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from qlexp.adapters.base import Look, LowRankConfig
from qlexp.adapters.generated import Factors, HypernetworkAdapter, layer_by_layer
from qlexp.config.checks import bounded
from qlexp.model.initial import Draw
from qlexp.model.linear import lane_linear


@dataclass
class HyRAConfig(LowRankConfig):
    """LoRA's fields and the hypernetwork's."""

    embedding_dim: int = bounded(32, minimum=1)
    hidden_per_rank: int = bounded(2, minimum=1)


class Hypernetwork(nn.Module):
    """From the embeddings of all linears to their factors.

    Args:
        shapes: (out, in) of every adapted type of linear.
    """

    def __init__(
        self, config: HyRAConfig, depth: int, shapes: dict[str, tuple[int, int]], draw: Draw
    ) -> None:
        super().__init__()
        rank, d_e = config.rank, config.embedding_dim
        hidden = config.hidden_per_rank * rank
        self.embeddings = draw.normal(len(shapes), depth, rank, d_e)
        self.W_1 = draw.normal(hidden, d_e, std=d_e**-0.5)
        gain = nn.init.calculate_gain("tanh")  # A's entries start about as large as LoRA's
        self.W_A, self.W_B = nn.ParameterDict(), nn.ParameterDict()
        for name, (d_out, d_in) in shapes.items():
            bound = gain * (hidden * d_in) ** -0.5
            self.W_A[name] = draw.uniform(d_in, hidden, bound=bound)
            self.W_B[name] = draw.constant(d_out, hidden, value=0.0)

    def forward(self) -> tuple[Factors, ...]:
        """The factors of every linear, layer by layer."""
        z = torch.tanh(lane_linear(self.embeddings, self.W_1))  # (L, types, depth, rank, hidden)
        return layer_by_layer(
            (lane_linear(own, self.W_A[name]), lane_linear(own, self.W_B[name]).mT)
            for own, name in zip(z.unbind(1), self.W_A, strict=True)
        )


class HyRA(HypernetworkAdapter):
    """HyRA on every targeted linear."""

    Config: ClassVar = HyRAConfig
    Hypernetwork: ClassVar = Hypernetwork
    reading: ClassVar = True
    looks: ClassVar = {"hyra": Look("#169ce1", group=2, order=120)}
