"""LoRA-XS: a trained core between frozen factors of the weight (Bałazy et al. 2024).

Source: arXiv 2405.17604; which factor holds the singular values as in the authors' code.

    W ≈ U diag(S) Vᵀ;   y = W h + s B R A h,   A = diag(S_r) V_rᵀ,   B = U_r,   s = alpha / rank

A and B are the r largest singular directions; they are neither trained, counted nor saved, since
the backbone gives them again. R (rank, rank) starts at zero; the authors draw it with a deviation
of 1e-5. A pair of singular vectors may change its signs from one machine to the next, and R would
mean something else: the largest entry of every row of A is made positive.
"""

from typing import ClassVar

import torch
from torch import Tensor

from qlexp.adapters.base import AdaptedLinear, Adapter, Look, LowRankConfig
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear, lane_down, lane_linear, lane_linear_add


class LoRAXSLinear(AdaptedLinear):
    """R (L, rank, rank) trains; A (L, rank, in) and B (L, out, rank) come from the weight."""

    A: Tensor
    B: Tensor

    def __init__(self, base: LaneLinear, config: LowRankConfig, draw: Draw) -> None:
        super().__init__(base)
        self.scale = config.scale
        A, B = singular_factors(base.weight.detach(), config.rank)
        self.register_buffer("A", A, persistent=False)
        self.register_buffer("B", B, persistent=False)
        self.R = draw.constant(config.rank, config.rank, value=0.0)

    def adapt(self, h: Tensor) -> Tensor:
        low = lane_linear(lane_down(h, self.A), self.R)
        return lane_linear_add(self.base.project(h), low, self.B, self.scale)

    def merged(self) -> Tensor:
        return self.base.weight + self.scale * self.B @ self.R @ self.A


def singular_factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A (L, rank, in) and B (L, out, rank) with B A the best approximation of weight (L, out, in).

    Decomposed in float64. The rows of A are orthogonal, the columns of B orthonormal.
    """
    U, S, Vt = torch.linalg.svd(weight.double(), full_matrices=False)
    A, B = S[:, :rank, None] * Vt[:, :rank], U[..., :rank]
    signs = A.gather(-1, A.abs().argmax(-1, keepdim=True)).sign()  # (L, rank, 1)
    return (A * signs).to(weight.dtype), (B * signs.mT).to(weight.dtype)


class LoRAXS(Adapter):
    """LoRA-XS on every targeted linear."""

    Config: ClassVar = LowRankConfig
    looks: ClassVar = {"lora_xs": Look("#0562b1", group=3, order=52)}

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> LoRAXSLinear:
        return LoRAXSLinear(base, self.config, draw)
