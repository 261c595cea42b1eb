"""How large the change of an adapted linear is, and how large it can be.

With R_b the routed operator of block b, the change of a linear of that block at a point x is
dW(x) = s B (I + g R_b(x)) A. As R_b is a convex combination of atoms (arXiv 2605.08423),

    ||dW(x)|| <= s ||B|| (1 + |g| max_m ||M_m||) ||A||        for every x, spectral norms.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.inputs import Array
from qlexp.adapters.routed import RoutedAdapter

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


def _spectral(matrices: Tensor) -> Tensor:
    """Spectral norms of (..., m, n)."""
    return torch.linalg.matrix_norm(matrices, ord=2)


def _operators(weights: Tensor, atoms: Tensor) -> Tensor:
    """R = sum_m w_m M_m in float64, (n, ..., N_b, r, r), of weights (n, ..., N_b, K)."""
    return torch.einsum("...k,kij->...ij", weights.double(), atoms)


@torch.no_grad()
def changes(adapter: RoutedAdapter, x: Tensor, instruction: Tensor | None) -> Iterator[Change]:
    """Every adapted linear of a one-lane adapter at points x (1, n, 2), in float64.

    With thin QR, B = Q_B R_B and Aᵀ = Q_A R_A, the norm is that of the (r, r) matrix
    s R_B (I + g R) R_Aᵀ. A method that has no bank of operators has no changes of this form.
    """
    bank = adapter.bank()
    if bank is None:
        return
    atoms = bank[0].double()
    R = _operators(adapter.routes(x, instruction)[0], atoms)
    largest_atom = _spectral(atoms).max()
    eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
    for linear in adapter.routed_linears():
        A, B, gate = (own[0].double() for own in (linear.A, linear.B, linear.gate))
        left, right = torch.linalg.qr(B).R, torch.linalg.qr(A.T).R
        inner = eye + gate * R[..., linear.block, :, :]
        bound = linear.scale * _spectral(B) * (1 + gate.abs() * largest_atom) * _spectral(A)
        norms = linear.scale * _spectral(left @ inner @ right.T)
        yield Change(linear.layer, linear.name, bound.item(), norms.flatten().cpu().numpy())


@torch.no_grad()
def route_columns(
    adapter: RoutedAdapter, x: Tensor, instruction: Tensor | None
) -> dict[str, float]:
    """Convexity of one lane's routing at points x (1, n, 2), and what the language prior does.

    The prior's columns are there where the adapter has one: the share of an example's atoms that
    are among its k likeliest, and the weight on the likeliest.
    """
    weights = adapter.routes(x, instruction)[0].double()  # (n, ..., N_b, K)
    support, bank = weights.gt(0), adapter.bank()
    largest = math.nan
    if bank is not None:
        atoms = bank[0].double()
        largest = (_spectral(_operators(weights, atoms)).max() / _spectral(atoms).max()).item()
    columns = {
        "support": support.sum(-1).double().mean().item(),
        "largest_support": support.sum(-1).max().item(),
        "smallest_weight": weights.min().item(),
        "largest_sum_error": (weights.sum(-1) - 1).abs().max().item(),
        "entropy": torch.special.entr(weights).sum(-1).mean().item(),
        "largest_operator_ratio": largest,
    }
    prior = adapter.log_prior(instruction)
    if prior is None:
        return columns
    likely = prior[0].topk(adapter.config.top_k).indices  # (n, k)
    likely = likely.reshape(len(likely), *[1] * (weights.ndim - 2), -1)
    likely = likely.expand(*weights.shape[:-1], -1)
    shared = support.gather(-1, likely).sum(-1) / support.sum(-1)
    return {
        **columns,
        "shared_with_prior": shared.double().mean().item(),
        "weight_on_likeliest": weights.gather(-1, likely[..., :1]).mean().item(),
    }


def routes_by_strength(
    adapter: RoutedAdapter, x: Tensor, instruction: Tensor | None
) -> Iterator[dict[str, float | None]]:
    """`route_columns` of the trained weights with lambda set to other values, and set back.

    Without a language prior once, with None for lambda.
    """
    if adapter.log_prior(instruction) is None:
        yield {"strength": None, "trained": True, **route_columns(adapter, x, instruction)}
        return
    trained: float = adapter.config.prior_strength
    for value in sorted({*STRENGTHS, trained}):
        _set_strength(adapter, value)
        columns = route_columns(adapter, x, instruction)
        yield {"strength": value, "trained": value == trained, **columns}
    _set_strength(adapter, trained)


def _set_strength(adapter: RoutedAdapter, value: float) -> None:
    adapter.set_lane_fields({"prior_strength": torch.tensor([value])})
