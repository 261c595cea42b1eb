"""AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2) over lanes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qlexp.config.checks import Checked, bounded
from qlexp.optim.base import LaneOptimizer, descend


class AdamW(LaneOptimizer):
    """Adam with decoupled weight decay, `torch.optim.AdamW` in every lane.

    The work is done by list operations over all tensors at once. The parameters of a group share
    one step count, a float64 scalar on their device that `state_dict` carries: no step but the
    first moves anything from the host, and one captured in a CUDA graph goes on counting.
    """

    @dataclass
    class Config(Checked):
        """Hyperparameters; the learning rate belongs to the training stage."""

        name: str = "adamw"
        beta1: float = bounded(0.9, minimum=0.0, below=1.0)
        beta2: float = bounded(0.999, minimum=0.0, below=1.0)
        eps: float = bounded(1e-8, above=0.0)
        weight_decay: float = bounded(0.01, minimum=0.0)

    config: Config

    def update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        c = self.config
        for p in params:
            if not self.state[p]:
                self.state[p] = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        exp_avgs = [self.state[p]["exp_avg"] for p in params]
        exp_avg_sqs = [self.state[p]["exp_avg_sq"] for p in params]

        group["step"] = torch.as_tensor(
            group.get("step", 0.0), dtype=torch.float64, device=params[0].device
        )
        step = group["step"].add_(1)
        correction1 = (1 - c.beta1**step).to(params[0].dtype)
        correction2_sqrt = (1 - c.beta2**step).sqrt().to(params[0].dtype)

        torch._foreach_lerp_(exp_avgs, grads, 1 - c.beta1)
        torch._foreach_mul_(exp_avg_sqs, c.beta2)
        torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - c.beta2)

        scales = torch._foreach_sqrt(exp_avg_sqs)
        torch._foreach_div_(scales, correction2_sqrt)
        torch._foreach_add_(scales, c.eps)
        torch._foreach_mul_(scales, correction1)
        directions = torch._foreach_div(exp_avgs, scales)
        torch._foreach_add_(directions, params, alpha=c.weight_decay)
        descend(params, directions, group["lr"])
