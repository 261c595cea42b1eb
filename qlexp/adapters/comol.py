"""CoMoL: experts that are rank x rank cores between one A and one B (Cao et al. 2026).

Source: arXiv 2603.00573; formula and start values as in the authors' code.

    p = softmax(R A h);   y = W h + s B (sum_i p_i M_i) A h,   s = alpha / rank

R reads A h, so that router and experts live in rank space; the cores M_i are mixed for every token
before they are applied, and all of them take part. The nearest rival of queryable LoRA: its atoms
belong to one linear instead of the network, and its routes to one token of it. The orthogonality
loss between cores, off in the authors' runs, is left out.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from qlexp import routing
from qlexp.adapters.base import AdaptedLinear, Adapter, Look, LowRankConfig
from qlexp.config.checks import bounded
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear, lane_down, lane_linear_add, lane_softmax


@dataclass
class CoMoLConfig(LowRankConfig):
    """LoRA's fields and the cores of every linear."""

    experts: int = bounded(3, minimum=2)  # a softmax over one has no gradient


class CoMoLLinear(AdaptedLinear):
    """A (L, rank, in), B (L, out, rank) at zero, R (L, experts, rank), M (L, experts, rank, rank).

    A, R and M start kaiming-uniform.
    """

    def __init__(self, base: LaneLinear, config: CoMoLConfig, draw: Draw) -> None:
        super().__init__(base)
        self.scale = config.scale
        self.A = draw.kaiming_uniform(config.rank, base.d_in)
        self.B = draw.constant(base.d_out, config.rank, value=0.0)
        self.R = draw.kaiming_uniform(config.experts, config.rank)
        self.M = draw.kaiming_uniform(config.experts, config.rank, config.rank)

    def adapt(self, h: Tensor) -> Tensor:
        low = lane_down(h, self.A)  # (L, N, T, rank)
        mixed = routing.apply_atoms(lane_softmax(low, self.R), self.M, low)
        return lane_linear_add(self.base.project(h), mixed, self.B, self.scale)


class CoMoL(Adapter):
    """CoMoL on every targeted linear."""

    Config: ClassVar = CoMoLConfig
    looks: ClassVar = {"comol": Look("#2b9fa5", group=3, order=200)}

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> CoMoLLinear:
        return CoMoLLinear(base, self.config, draw)
