"""What the optimisers share: a leading lane axis, and a learning rate for each lane."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from qlexp.config.checks import Checked

Tensors = list[Tensor] | tuple[Tensor, ...]


class LaneOptimizer(torch.optim.Optimizer):
    """Base of optimisers over parameters (L, ...), each of whose L lanes is a run of its own.

    `lr` in the parameter group is a number or a tensor (L,) and may be set before every step. A
    lane whose rate is 0 stays where it is. A step reads nothing back to the host.
    """

    needs_float64: ClassVar[bool] = False  # whether rounding in float32 would steer its steps

    def __init__(self, params: ParamsT, lr: float | Tensor, config: Checked) -> None:
        super().__init__(params, {"lr": lr})
        self.config = config

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; returns the closure's loss, if any."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            given = [(p, p.grad) for p in group["params"] if p.grad is not None]
            if given:
                self.update(group, [p for p, _ in given], [grad for _, grad in given])
        return loss

    @staticmethod
    def state_numel(shape: tuple[int, ...], config: Any) -> int:
        """Numbers that are kept for one lane of a parameter of `shape` (without the lane axis)."""
        return 2 * math.prod(shape)

    @abstractmethod
    def update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        """Moves `params`, those of `group` that have a gradient, in place."""


def descend(params: list[Tensor], directions: Tensors, lr: float | Tensor) -> None:
    """In place p <- p - lr * d for pairs of shape (L, ...), lr a number or (L,)."""
    if isinstance(lr, Tensor):
        rates = [lr.to(p).view(-1, *[1] * (p.ndim - 1)) for p in params]
        torch._foreach_addcmul_(params, directions, rates, value=-1)
    else:
        torch._foreach_add_(params, directions, alpha=-lr)
