"""Linear maps with a leading lane axis: every lane has its own weights."""

import torch
from torch import Tensor, nn

from qlexp.model.context import Context
from qlexp.model.initial import Draw


def lane_linear(h: Tensor, weight: Tensor) -> Tensor:
    """`weight @ h` a lane: h (L, ..., in), weight (L, out, in) -> (L, ..., out)."""
    return torch.bmm(h.flatten(1, -2), weight.mT).unflatten(1, h.shape[1:-1])


def lane_down(h: Tensor, A: Tensor) -> Tensor:
    """`A @ h` a lane, for a narrow A: h (L, ..., in), A (L, rank, in) -> (L, ..., rank).

    The rank lies ahead of the rows in memory: long rows are quicker to make and to work on.
    """
    return torch.bmm(A, h.flatten(1, -2).mT).mT.unflatten(1, h.shape[1:-1])


def lane_linear_add(y: Tensor, h: Tensor, weight: Tensor, scale: float = 1.0) -> Tensor:
    """`y + scale * weight @ h` a lane, in one pass: y (L, ..., out), h (L, ..., in)."""
    rows = torch.baddbmm(y.flatten(1, -2), h.flatten(1, -2), weight.mT, alpha=scale)
    return rows.unflatten(1, h.shape[1:-1])


def lane_softmax(h: Tensor, weight: Tensor) -> Tensor:
    """Softmax over the outputs of `weight @ h` a lane: h (L, ..., in) -> (L, ..., out).

    The outputs lie ahead of the rows in memory: a CPU's softmax is slow along a short last axis.
    """
    scores = torch.bmm(weight, h.flatten(1, -2).mT)  # (L, out, rows)
    return scores.softmax(1).mT.unflatten(1, h.shape[1:-1])


class LaneLinear(nn.Module):
    """`y = W h + b`, W (L, out, in), b (L, out).

    Called with a context, as an adapted linear is, and returns it unchanged.
    """

    def __init__(self, d_out: int, d_in: int, draw: Draw, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = draw.uniform(d_out, d_in, bound=gain * d_in**-0.5)
        self.bias = draw.constant(d_out, value=0.0)

    @property
    def d_in(self) -> int:
        return self.weight.shape[-1]

    @property
    def d_out(self) -> int:
        return self.weight.shape[-2]

    def project(self, h: Tensor, weight: Tensor | None = None) -> Tensor:
        """h (L, ..., in) -> (L, ..., out), by a `weight` (L, out, in) in place of W if given."""
        weight = self.weight if weight is None else weight
        rows = torch.baddbmm(self.bias.unsqueeze(1), h.flatten(1, -2), weight.mT)
        return rows.unflatten(1, h.shape[1:-1])

    def forward(self, h: Tensor, context: Context) -> tuple[Tensor, Context]:
        return self.project(h), context
