"""SOAP, Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321)."""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qlexp.config.checks import Checked, bounded
from qlexp.optim.base import LaneOptimizer, descend

Bases = dict[int, Tensor]  # axis of the matrix, 1 or 2 -> orthonormal columns (L, d, d)


class SOAP(LaneOptimizer):
    """Algorithm 3 of the paper for every lane's matrices; vectors and scalars get Adam.

    A parameter (L, m, n) is L matrices; trailing axes beyond two are merged into n, and the lane
    axis is never preconditioned. With G the gradient, the averages of G G^T (L, m, m) and G^T G
    (L, n, n) are kept; their eigenvectors, by `eigh` at the first call, are refreshed every
    `precondition_frequency` updates by one power iteration and QR. The first moment is kept
    unrotated, the second in the basis. All matrices of one size, over lanes, sides and parameters,
    are factorised in one batched call.

    Choices, each as in the authors' code:

    - The first call only builds the basis and moves nothing: n calls make n - 1 updates.
    - `eps` is added before bias correction, and decay follows the update. `torch.optim.AdamW`
      does both the other way round.
    - A refresh sorts the basis by its estimated eigenvalues, and the second moment with it.
    - A first gradient of zero (LoRA's A beside B = 0) has no eigenvectors: the basis is the
      coordinate axes, and the first refresh already turns it, as every later one does, towards
      the eigenvectors of the gradients seen by then.

    Ours is `damping`, 0 in the paper. A gradient of low rank leaves directions unseen, and in the
    paper's form rounding chooses their basis, so that a run would depend on its neighbours. With
    damping, eigenvalues below `damping` times the mean one count as unseen: their first basis is
    fixed by the covariance alone, and a refresh, which factorises C Q + damping * mean * Q, keeps
    it in place.

    A lane's gradient of one parameter counts as zero where it is not finite or its squared norm
    overflows, so that no factorisation can fail and the neighbours never notice.
    """

    @dataclass
    class Config(Checked):
        """Hyperparameters; the learning rate belongs to the training stage."""

        name: str = "soap"
        beta1: float = bounded(0.95, minimum=0.0, below=1.0)
        beta2: float = bounded(0.95, minimum=0.0, below=1.0)
        shampoo_beta: float | None = bounded(None, minimum=0.0, below=1.0)  # null: beta2
        eps: float = bounded(1e-8, above=0.0)
        weight_decay: float = bounded(0.01, minimum=0.0)
        precondition_frequency: int = bounded(10, minimum=1)
        max_precondition_dim: int = bounded(10000, minimum=0)  # a larger side is not rotated
        damping: float = bounded(1e-6, minimum=0.0)  # of the mean eigenvalue; the paper's form: 0

    config: Config
    needs_float64 = True  # a direction without gradient holds rounding alone, scaled to full steps

    @staticmethod
    def state_numel(shape: tuple[int, ...], config: Any) -> int:
        """Two moments, and a covariance and a basis a side."""
        sides = [shape[0], math.prod(shape[1:])] if len(shape) > 1 else []
        rotated = [d for d in sides if d <= config.max_precondition_dim]
        return 2 * math.prod(shape) + 2 * sum(d * d for d in rotated)

    def update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        matrices = {
            p: _finite_lanes(_matrices(grad)) for p, grad in zip(params, grads, strict=True)
        }
        new = [p for p in params if not self.state[p]]
        old = [p for p in params if self.state[p]]
        for p in new:
            self._start(p, matrices[p])
        if old:
            self._adam(old, [matrices[p] for p in old], group["lr"])
        for p in params:
            self._accumulate(p, matrices[p])
        self._factorise(new)
        frequency = self.config.precondition_frequency
        self._refresh([p for p in old if self.state[p]["step"] % frequency == 0])

    def _start(self, p: Tensor, grad: Tensor) -> None:
        longest = self.config.max_precondition_dim
        sides = [a for a in (1, 2) if grad.ndim == 3 and grad.shape[a] <= longest]
        self.state[p] = {
            "step": 0,  # updates made
            "exp_avg": torch.zeros_like(grad),
            "exp_avg_sq": torch.zeros_like(grad),  # in the basis
            "covariances": {a: grad.new_zeros(len(grad), *[grad.shape[a]] * 2) for a in sides},
            "bases": {},
        }

    def _adam(self, params: list[Tensor], grads: list[Tensor], lr: float | Tensor) -> None:
        c = self.config
        states = [self.state[p] for p in params]
        exp_avgs = [s["exp_avg"] for s in states]
        exp_avg_sqs = [s["exp_avg_sq"] for s in states]
        rotated = [_rotate(g, s["bases"]) for g, s in zip(grads, states, strict=True)]
        for s in states:
            s["step"] += 1

        torch._foreach_lerp_(exp_avgs, grads, 1 - c.beta1)
        torch._foreach_mul_(exp_avg_sqs, c.beta2)
        torch._foreach_addcmul_(exp_avg_sqs, rotated, rotated, 1 - c.beta2)

        scales = torch._foreach_sqrt(exp_avg_sqs)
        torch._foreach_add_(scales, c.eps)
        torch._foreach_mul_(
            scales,
            [(1 - c.beta1 ** s["step"]) / math.sqrt(1 - c.beta2 ** s["step"]) for s in states],
        )
        normalised = torch._foreach_div(
            [_rotate(m, s["bases"]) for m, s in zip(exp_avgs, states, strict=True)], scales
        )
        directions = [
            _rotate(u, {axis: q.mT for axis, q in s["bases"].items()}).reshape(p.shape)
            for u, s, p in zip(normalised, states, params, strict=True)
        ]
        descend(params, directions, lr)
        descend(params, params, lr * c.weight_decay)

    def _accumulate(self, p: Tensor, grad: Tensor) -> None:
        c = self.config
        beta = c.beta2 if c.shampoo_beta is None else c.shampoo_beta
        for axis, covariance in self.state[p]["covariances"].items():
            g = grad if axis == 1 else grad.mT
            covariance.baddbmm_(g, g.mT, beta=beta, alpha=1 - beta)

    def _by_size(self, params: list[Tensor]) -> list[list[tuple[dict[str, Any], int]]]:
        """The (state, axis) of every preconditioned side, those of one matrix size together."""
        sizes = defaultdict(list)
        for p in params:
            for axis, covariance in self.state[p]["covariances"].items():
                sizes[covariance.shape[-1]].append((self.state[p], axis))
        return list(sizes.values())

    def _factorise(self, params: list[Tensor]) -> None:
        for sides in self._by_size(params):
            covariances = [state["covariances"][axis] for state, axis in sides]
            basis = _eigenbasis(torch.cat(covariances), self.config.damping)
            lanes = [len(c) for c in covariances]
            for (state, axis), q in zip(sides, torch.split(basis, lanes), strict=True):
                state["bases"][axis] = q

    def _refresh(self, params: list[Tensor]) -> None:
        for sides in self._by_size(params):
            bases = [state["bases"][axis] for state, axis in sides]
            lanes = [len(q) for q in bases]
            basis = torch.cat(bases)  # (K, d, d), K matrices of one size
            covariance = torch.cat([state["covariances"][axis] for state, axis in sides])
            kept = self.config.damping * _mean_eigenvalue(covariance)
            product = covariance @ basis + kept * basis
            order = (basis * product).sum(-2).argsort(descending=True)  # (K, d) by eigenvalue
            product = product.gather(2, order[:, None].expand_as(product))
            basis = torch.linalg.qr(product).Q
            for (state, axis), q, o in zip(
                sides, torch.split(basis, lanes), torch.split(order, lanes), strict=True
            ):
                state["bases"][axis] = q
                v = state["exp_avg_sq"]
                state["exp_avg_sq"] = v.gather(axis, o.unsqueeze(3 - axis).expand_as(v))


def _mean_eigenvalue(covariance: Tensor) -> Tensor:
    """(K, 1, 1) of (K, d, d)."""
    return covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]


def _eigenbasis(covariance: Tensor, damping: float) -> Tensor:
    """Eigenvectors of (K, d, d) as columns, largest eigenvalue first.

    Those of the eigenvalues that `damping` hides are replaced by the principal axes, within their
    span, of a fixed ramp over the coordinates, which are far apart from each other.
    """
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(covariance))
    if not damping:
        return vectors
    seen = values > damping * _mean_eigenvalue(covariance).squeeze(-1)  # (K, d)
    axes = torch.eye(values.shape[-1]).to(covariance)
    ramp = torch.linspace(1, 2, values.shape[-1]).to(covariance)
    span = axes - (vectors * seen.unsqueeze(1)) @ vectors.mT  # projects on the unseen directions
    rest = torch.linalg.eigh(span @ (ramp.unsqueeze(-1) * span)).eigenvectors.flip(-1)
    column = (torch.arange(len(ramp), device=seen.device) - seen.sum(-1, keepdim=True)).clamp_min(0)
    rest = rest.gather(2, column.unsqueeze(1).expand_as(rest))
    return torch.where(seen.unsqueeze(1), vectors, rest)


def _matrices(x: Tensor) -> Tensor:
    """(L, m, n, ...) as (L, m, n'); vectors (L, n) and scalars (L,) as they are."""
    return x.flatten(2) if x.ndim > 3 else x


def _finite_lanes(grad: Tensor) -> Tensor:
    """`grad` with zeros in the lanes whose squared norm is not finite."""
    finite = grad.reshape(len(grad), -1).square().sum(1).isfinite()
    return torch.where(finite.view(-1, *[1] * (grad.ndim - 1)), grad, 0.0)


def _rotate(x: Tensor, bases: Bases) -> Tensor:
    """Q1^T x Q2 per lane, for x (L, m, n); a side without a basis is left as it is."""
    if 1 in bases:
        x = bases[1].mT @ x
    if 2 in bases:
        x = x @ bases[2]
    return x
