"""DoRA: direction by LoRA, magnitude of its own (Liu et al. 2024, arXiv 2402.09353).

W' = diag(m) (W + s B A) / ‖W + s B A‖,   norms by output row, detached from the graph (its
section 4.3); m (L, out) starts at ‖W‖; the bias is not scaled.
"""

from typing import ClassVar

import torch
from torch import Tensor

from qlexp.adapters.base import Adapter, Look, LowRankConfig
from qlexp.adapters.lora import LoRALinear
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear, lane_down, lane_linear_add


class DoRALinear(LoRALinear):
    """LoRA's factors and a magnitude m (L, out)."""

    base_square: Tensor  # ‖w‖² of every row, (L, out)

    def __init__(self, base: LaneLinear, config: LowRankConfig, draw: Draw) -> None:
        super().__init__(base, config, draw)
        self.register_buffer(
            "base_square", base.weight.detach().square().sum(-1), persistent=False
        )  # (L, out)
        self.magnitude = torch.nn.Parameter(self.row_norm().clone())

    def row_norm(self) -> Tensor:
        """‖W + s B A‖ by row, (L, out)."""
        return updated_row_norm(self.base.weight, self.base_square, self.A, self.B, self.scale)

    def adapt(self, h: Tensor) -> Tensor:
        y = lane_linear_add(self.base.project(h), lane_down(h, self.A), self.B, self.scale)
        return rescaled(y, self.magnitude / self.row_norm(), self.base.bias)

    def merged(self) -> Tensor:
        ratio = self.magnitude / self.row_norm()
        return ratio.unsqueeze(-1) * super().merged()


@torch.no_grad()
def updated_row_norm(W: Tensor, square: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """‖W + s B A‖ by row, (L, out), without forming the (out, in) product.

    Expanded as ‖w‖² + 2 s b·(A w) + s² bᵀ (A Aᵀ) b for a row w of W and b of B; `square` (L, out)
    holds the ‖w‖².
    """
    cross = (B * torch.bmm(W, A.mT)).sum(-1)
    own = (B * torch.bmm(B, torch.bmm(A, A.mT))).sum(-1)
    return (square + 2 * scale * cross + scale**2 * own).sqrt()


def rescaled(y: Tensor, ratio: Tensor, bias: Tensor) -> Tensor:
    """y (L, N, T, out), which holds the bias (L, out), times ratio (L, out); the bias is spared."""
    ratio = ratio[:, None, None]
    return torch.addcmul((1 - ratio) * bias[:, None, None], ratio, y)


class DoRA(Adapter):
    """DoRA on every targeted linear."""

    Config: ClassVar = LowRankConfig
    looks: ClassVar = {"dora": Look("#c68700", group=0, order=30)}

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> DoRALinear:
        return DoRALinear(base, self.config, draw)
