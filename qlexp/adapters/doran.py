"""DoRAN: DoRA with a damped norm and generated factors (Diep et al. 2025, arXiv 2510.04331).

    W' = diag(m) (W + s B A) / (‖W + s B A‖ + tau)

The paper replaces DoRA's factors by the output of networks that couple them, and adds a learned
tau > 0 to the norm; the formula of W' is its own. A reading is the rest: one tau for each adapted
linear, kept positive as exp(log tau); norms by output row and detached, as in DoRA; A and B are
g_A and g_B of a linear's seeds, g(X) = X + V silu(U X) on the rank axis, ONE pair of networks for
all layers. m starts at ‖W‖ + tau, so that training starts at the frozen backbone. With V = 0 and
tau = 0 it is DoRA.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from qlexp.adapters.base import Look
from qlexp.adapters.dora import rescaled, updated_row_norm
from qlexp.adapters.rep_lora import RepLoRA, RepLoRAConfig, RepLoRALinear
from qlexp.config.checks import bounded
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear


@dataclass
class DoRANConfig(RepLoRAConfig):
    """LoRA's fields, the size of the networks and the damping."""

    tau: float = bounded(0.1, minimum=0.0)  # 0: none, and nothing to learn


class DoRANLinear(RepLoRALinear):
    """The seeds, a magnitude m (L, out) and log tau (L,)."""

    base_square: Tensor  # ‖w‖² of every row, (L, out)

    def __init__(self, base: LaneLinear, config: DoRANConfig, draw: Draw, index: int) -> None:
        super().__init__(base, config, draw, index)
        square = base.weight.detach().square().sum(-1)
        self.register_buffer("base_square", square, persistent=False)
        self.log_tau = draw.constant(value=math.log(config.tau)) if config.tau else None
        self.magnitude = nn.Parameter(self.damped_norm(self.A, self.B).detach())

    def damped_norm(self, A: Tensor, B: Tensor) -> Tensor:
        """‖W + s B A‖ + tau by row, (L, out)."""
        norm = updated_row_norm(self.base.weight, self.base_square, A, B, self.scale)
        return norm if self.log_tau is None else norm + self.log_tau.exp().unsqueeze(-1)

    def ratio(self, A: Tensor, B: Tensor) -> Tensor:
        return self.magnitude / self.damped_norm(A, B)

    def adapt_with(self, h: Tensor, A: Tensor, B: Tensor) -> Tensor:
        return rescaled(super().adapt_with(h, A, B), self.ratio(A, B), self.base.bias)

    def merged_with(self, A: Tensor, B: Tensor) -> Tensor:
        return self.ratio(A, B).unsqueeze(-1) * super().merged_with(A, B)


class DoRAN(RepLoRA):
    """DoRAN on every targeted linear."""

    Config: ClassVar = DoRANConfig
    looks: ClassVar = {"doran": Look("#905448", group=2, order=110)}

    def groups(self) -> int:
        return 1

    def linear(self, base: LaneLinear, index: int, draw: Draw) -> DoRANLinear:
        return DoRANLinear(base, self.config, draw, index)
