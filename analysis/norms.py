"""How large the change of an adapted linear is, and how large it can be.

With R_b the routed operator of block b, the change of a linear of that block at a point x is
dW(x) = s B (I + g R_b(x)) A. As R_b is a convex combination of atoms (arXiv 2605.08423),

    ||dW(x)|| <= s ||B|| (1 + |g| max_m ||M_m||) ||A||        for every x, spectral norms.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qlexp.adapters.base import ALL_LINEARS
from qlexp.adapters.instruction_queryable import InstructedRouter
from qlexp.adapters.queryable import Queryable, QueryableLinear

Array = NDArray[np.float64]

STRENGTHS = (0.0, 0.5, 1.0, 2.0, 5.0, 20.0, 1000.0)  # lambda, beside the trained one


@dataclass(frozen=True)
class Change:
    """One adapted linear of a one-lane adapter: its bound, and its norm at every point, (n,).

    Where every token has a route of its own, tokens count as points: (n T,).
    """

    layer: int
    linear: str
    bound: float
    norms: Array

    def columns(self) -> dict[str, Any]:
        """What a table says of it; the ratios are of the norm to the bound, 0 where that is 0."""
        ratio = self.norms / self.bound if self.bound > 0 else np.zeros_like(self.norms)
        return {
            "layer": self.layer,
            "linear": self.linear,
            "bound": self.bound,
            "smallest": self.norms.min(),
            "median": np.median(self.norms),
            "largest": self.norms.max(),
            "median_ratio": np.median(ratio),
            "largest_ratio": ratio.max(),
        }


def spectral(matrices: Tensor) -> Tensor:
    """Spectral norms of (..., m, n)."""
    return torch.linalg.matrix_norm(matrices, ord=2)


def operators(adapter: Queryable, weights: Tensor) -> Tensor:
    """R = sum_m w_m M_m in float64, (n, ..., N_b, r, r), of one lane's weights (n, ..., N_b, K)."""
    atoms = adapter.router.atoms[0].double()
    return torch.einsum("...k,kij->...ij", weights.double(), atoms)


@torch.no_grad()
def changes(adapter: Queryable, x: Tensor, instruction: Tensor | None) -> Iterator[Change]:
    """Every adapted linear of a one-lane adapter at points x (1, n, 2), in float64.

    With thin QR, B = Q_B R_B and Aᵀ = Q_A R_A, the norm is that of the (r, r) matrix
    s R_B (I + g R) R_Aᵀ.
    """
    R = operators(adapter, adapter.routes(x, instruction)[0])
    largest_atom = spectral(adapter.router.atoms[0].double()).max()
    eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
    for layer, name, linear in adapted_linears(adapter):
        A, B = linear.A[0].double(), linear.B[0].double()
        gate = A.new_ones(()) if linear.gate is None else linear.gate[0].double()
        left, right = torch.linalg.qr(B).R, torch.linalg.qr(A.T).R
        inner = eye + gate * R[..., layer // adapter.config.block_size, :, :]
        bound = linear.scale * spectral(B) * (1 + gate.abs() * largest_atom) * spectral(A)
        norms = linear.scale * spectral(left @ inner @ right.T)
        yield Change(layer, name, bound.item(), norms.flatten().cpu().numpy())


def adapted_linears(adapter: Queryable) -> Iterator[tuple[int, str, QueryableLinear]]:
    """Layer, name and module of every adapted linear, in the order of a forward pass."""
    for index, layer in enumerate(adapter.backbone.layers):
        for name in ALL_LINEARS:
            linear = getattr(layer, name)
            if isinstance(linear, QueryableLinear):
                yield index, name, linear


@torch.no_grad()
def route_columns(adapter: Queryable, x: Tensor, instruction: Tensor | None) -> dict[str, float]:
    """Convexity of one lane's routing at points x (1, n, 2), and what the language prior does.

    The prior's columns are there where the adapter has a prior channel: the share of an example's
    atoms that are among the k likeliest of pi, and the weight on pi's likeliest atom.
    """
    weights = adapter.routes(x, instruction)[0].double()  # (n, ..., N_b, K)
    support = weights.gt(0)
    R = operators(adapter, weights)
    columns = {
        "support": support.sum(-1).double().mean().item(),
        "largest_support": support.sum(-1).max().item(),
        "smallest_weight": weights.min().item(),
        "largest_sum_error": (weights.sum(-1) - 1).abs().max().item(),
        "entropy": torch.special.entr(weights).sum(-1).mean().item(),
        "largest_operator_ratio": (
            spectral(R).max() / spectral(adapter.router.atoms[0].double()).max()
        ).item(),
    }
    router = adapter.router
    if not isinstance(router, InstructedRouter) or router.P is None:
        return columns
    prior = router.log_prior(instruction)
    assert prior is not None
    likely = prior[0].topk(router.config.top_k).indices  # (n, k)
    likely = likely.reshape(len(likely), *[1] * (weights.ndim - 2), -1)
    likely = likely.expand(*weights.shape[:-1], -1)
    shared = support.gather(-1, likely).sum(-1) / support.sum(-1)
    return {
        **columns,
        "shared_with_prior": shared.double().mean().item(),
        "weight_on_likeliest": weights.gather(-1, likely[..., :1]).mean().item(),
    }


def strengths_of(adapter: Queryable) -> tuple[float | None, list[float | None]]:
    """lambda as trained, and the values to look at; None, and None alone, without a prior."""
    router = adapter.router
    if not isinstance(router, InstructedRouter) or router.P is None:
        return None, [None]
    trained: float = adapter.config.prior_strength
    return trained, [*sorted({*STRENGTHS, trained})]


def routes_by_strength(
    adapter: Queryable, x: Tensor, instruction: Tensor | None
) -> Iterator[dict[str, float | None]]:
    """`route_columns` of the trained weights with lambda set to other values, and set back."""
    trained, values = strengths_of(adapter)
    for value in values:
        if value is not None:
            _set_strength(adapter, value)
        yield {
            "strength": value,
            "trained": value == trained,
            **route_columns(adapter, x, instruction),
        }
    if trained is not None:
        _set_strength(adapter, trained)


def _set_strength(adapter: Queryable, value: float) -> None:
    adapter.set_lane_fields({"prior_strength": torch.tensor([value])})
