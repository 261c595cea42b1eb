"""R a of tokens that each have a route, with nothing kept for the backward pass but its inputs."""

from typing import Any

import torch
from torch import Tensor

from qlexp import routing


class MixedAtoms(torch.autograd.Function):
    """`routing.apply_atoms`, whose products M_m a are made anew when gradients are wanted.

    They are K times as large as a, in every linear: kept, they would be a tenth of the activations
    of a step.
    """

    @staticmethod
    def forward(weights: Tensor, atoms: Tensor, low: Tensor) -> Tensor:
        """sum_m w_m (M_m a): weights (L, N, T, K), atoms (L, K, r, r), low a (L, N, T, r)."""
        return routing.apply_atoms(weights, atoms, low)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With y's gradient G: G · M_m a for w_m, sum_tokens w_m G a^T for M_m, R^T G for a."""
        weights, atoms, low = ctx.saved_tensors
        (gradient,) = gradients
        rows = low.flatten(1, 2)  # (L, N T, r); below tokens come last, for speed
        w, a, G = (one.flatten(1, 2).mT.contiguous() for one in (weights, low, gradient))
        back = torch.bmm(atoms.mT.flatten(1, 2), G).unflatten(1, atoms.shape[1:3])  # M_m^T G
        shares = (back * a.unsqueeze(1)).sum(2)  # (L, K, N T), as w
        spread = torch.bmm((w.unsqueeze(2) * G.unsqueeze(1)).flatten(1, 2), rows)
        return (
            shares.mT.unflatten(1, weights.shape[1:3]),
            spread.unflatten(1, atoms.shape[1:3]),
            (back * w.unsqueeze(2)).sum(1).mT.unflatten(1, low.shape[1:3]),
        )
