"""Lily: low-rank adaptation interconnected across layers (Zhong et al. 2024, arXiv 2407.09946).

    low = A h;   p = mean over batch and tokens of softmax(R low);   y = W h + s low · sum_e p_e B_e

For each projection type, `stride` neighbouring layers share one A, all layers share the experts
B_e, and every layer has a router R of its own. s = alpha / rank, as in LoRA; the paper has a plain
factor there. Tokens that are padding are left out of the mean.

The output for a point depends on the other points of its batch, through p. Predictions are those
of fixed batches (`qlexp.model.evaluate.predict` cuts them in order), and nothing can be merged.

All experts start at zero, as in the authors' code, and the first gradient tells them apart by the
factor p_e alone. Layers that disagree about p part them at once; in a network of one layer Adam's
normalisation takes the factor out again, and they part slowly.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from qlexp.adapters.base import AdaptedLinear, Adapter, Look, LowRankConfig
from qlexp.config.checks import bounded
from qlexp.model.backbone import Backbone, linear_shapes
from qlexp.model.context import Context
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear, lane_down, lane_linear_add, lane_softmax


@dataclass
class LilyConfig(LowRankConfig):
    """LoRA's fields, the layers that share an A, and the experts of a projection type."""

    stride: int = bounded(2, minimum=1)
    experts: int = bounded(4, minimum=2)  # a softmax over one has no gradient


@dataclass(frozen=True)
class Interconnection(Context):
    """The experts of every projection type, (L, experts, out, rank) each."""

    experts: Mapping[str, Tensor] = field(default_factory=dict)

    def batch_mean(self, h: Tensor) -> Tensor:
        """Mean over all tokens of a lane that are not padding: (L, N, T, d) -> (L, d)."""
        if self.mask is None:
            return h.mean((1, 2))
        kept = self.mask.unsqueeze(-1).to(h.dtype)
        return (h * kept).sum((1, 2)) / kept.sum((1, 2)).clamp_min(1.0)


class LilyLinear(AdaptedLinear):
    """A (L, rank, in) is the neighbours' too; R (L, experts, rank) starts kaiming-uniform."""

    def __init__(
        self, base: LaneLinear, config: LilyConfig, name: str, A: nn.Parameter, draw: Draw
    ) -> None:
        super().__init__(base)
        self.scale = config.scale
        self.name = name
        self.A = A
        self.R = draw.kaiming_uniform(config.experts, config.rank)

    def forward(self, h: Tensor, context: Context) -> tuple[Tensor, Context]:
        assert isinstance(context, Interconnection)
        low = lane_down(h, self.A)  # (L, N, T, rank)
        p = context.batch_mean(lane_softmax(low, self.R))  # (L, experts)
        experts = context.experts[self.name]
        B = torch.bmm(p.unsqueeze(1), experts.flatten(2)).view_as(experts[:, 0])  # (L, out, rank)
        return lane_linear_add(self.base.project(h), low, B, self.scale), context


class Lily(Adapter):
    """The adapter owns the experts; the first layer of `stride` makes its neighbours' A."""

    Config: ClassVar = LilyConfig
    looks: ClassVar = {"lily": Look("#d95a95", group=1, order=70)}

    def __init__(self, backbone: Backbone, config: LilyConfig, draw: Draw) -> None:
        self._shared: dict[tuple[str, int], nn.Parameter] = {}
        super().__init__(backbone, config, draw)
        shapes = linear_shapes(backbone.config)
        self.experts = nn.ParameterDict(
            {
                name: draw.constant(config.experts, shapes[name][0], config.rank, value=0.0)
                for name in config.targets
            }
        )

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> LilyLinear:
        key = (name, layer // self.config.stride)
        if key not in self._shared:
            self._shared[key] = draw.kaiming_uniform(self.config.rank, base.d_in)
        return LilyLinear(base, self.config, name, self._shared[key], draw)

    def context(
        self, mask: Tensor | None = None, instruction: Tensor | None = None
    ) -> Interconnection:
        return Interconnection(mask, instruction, experts=dict(self.experts.items()))
