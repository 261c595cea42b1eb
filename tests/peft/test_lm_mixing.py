"""R a of a token with a route of its own: its gradients, and what is kept for them."""

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from qlexp.peft.mixing import MixedAtoms

L, N, T, K, R = 1, 2, 3, 5, 4


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Weights, atoms and a, in float64."""
    torch.manual_seed(0)
    shapes = ((L, N, T, K), (L, K, R, R), (L, N, T, R))
    weights, atoms, low = (torch.randn(*one, dtype=torch.float64) for one in shapes)
    return weights.requires_grad_(), atoms.requires_grad_(), low.requires_grad_()


def test_it_is_the_sum_over_atoms() -> None:
    weights, atoms, low = inputs()
    wanted = torch.einsum("lntk,lkij,lntj->lnti", weights, atoms, low)
    torch.testing.assert_close(MixedAtoms.apply(weights, atoms, low), wanted)


def test_gradients() -> None:
    assert torch.autograd.gradcheck(MixedAtoms.apply, inputs())


def test_nothing_but_its_inputs_is_kept() -> None:
    kept: list[int] = []
    tensors = inputs()
    with saved_tensors_hooks(lambda one: kept.append(one.data_ptr()), lambda _: None):
        MixedAtoms.apply(*tensors)
    assert sorted(kept) == sorted(one.data_ptr() for one in tensors)
