"""VeRA: trained vectors around frozen random matrices (Kopiczko et al. 2023, arXiv 2310.11454).

    W' = W + diag(b) B diag(d) A

A (rank, in) and B (out, rank) are drawn once for the whole network, kaiming-uniform at the largest
in and out among the targeted linears, and each linear uses their leading columns and rows. They are
not trained, counted or saved: the run's seed draws them again, so `load` needs an adapter that was
drawn from the seed of the run that saved. The rank costs one parameter a linear, so it may exceed
the linear's own; as it is large, W' is formed and the input passes through it once.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from qlexp.adapters.base import ALL_LINEARS, AdaptedLinear, Adapter, AdapterConfig, Look
from qlexp.config.checks import bounded
from qlexp.config.schema import BackboneConfig
from qlexp.errors import UsageError
from qlexp.model.backbone import Backbone, linear_shapes
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear


@dataclass
class VeRAConfig(AdapterConfig):
    """The rank of the random matrices and the start of d."""

    sized_by: ClassVar = "rank"

    rank: int = bounded(256, minimum=1)
    d_initial: float = bounded(0.1, above=0.0)

    def check(self, backbone: BackboneConfig) -> None:
        super().check(backbone)
        if not self.targets:
            raise UsageError(
                f"method.targets is empty: name at least one of {', '.join(ALL_LINEARS)}."
            )

    def sizes(self, backbone: BackboneConfig) -> range:
        """Up to the entries of the largest linear: more rank-one terms than that are redundant."""
        shapes = linear_shapes(backbone)
        return range(1, max(math.prod(shapes[target]) for target in self.targets) + 1)


class VeRALinear(AdaptedLinear):
    """d (L, rank) starts at `d_initial`, b (L, out) at zero."""

    def __init__(
        self,
        base: LaneLinear,
        config: VeRAConfig,
        projections: tuple[nn.Parameter, nn.Parameter],
        draw: Draw,
    ) -> None:
        super().__init__(base)
        self.A, self.B = projections
        self.d = draw.constant(config.rank, value=config.d_initial)
        self.b = draw.constant(base.d_out, value=0.0)

    def adapt(self, h: Tensor) -> Tensor:
        return self.base.project(h, self.merged())

    def merged(self) -> Tensor:
        down = self.d.unsqueeze(-1) * self.A[..., : self.base.d_in]  # (L, rank, in)
        change = torch.bmm(self.B[:, : self.base.d_out], down)  # (L, out, in)
        return torch.addcmul(self.base.weight, self.b.unsqueeze(-1), change)


class VeRA(Adapter):
    """The random matrices are frozen parameters, which unlike buffers stay one when moved."""

    Config: ClassVar = VeRAConfig
    looks: ClassVar = {"vera": Look("#9018fc", group=1, order=50)}

    def __init__(self, backbone: Backbone, config: VeRAConfig, draw: Draw) -> None:
        shapes = linear_shapes(backbone.config)
        d_out = max(shapes[target][0] for target in config.targets)
        d_in = max(shapes[target][1] for target in config.targets)
        self._projections = (frozen(draw, config.rank, d_in), frozen(draw, d_out, config.rank))
        super().__init__(backbone, config, draw)

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> VeRALinear:
        return VeRALinear(base, self.config, self._projections, draw)


def frozen(draw: Draw, rows: int, columns: int) -> nn.Parameter:
    """(L, rows, columns), uniform in ±sqrt(6 / columns): He et al.'s gain, fan-in the columns."""
    matrix = draw.uniform(rows, columns, bound=(6 / columns) ** 0.5)
    matrix.requires_grad_(False)
    return matrix
