"""Methods whose low-rank factors are made anew in every pass by networks that the adapter owns.

The adapter generates the factors of all linears at once as a pass begins; they reach the linears
through the context.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from qlexp.adapters.base import AdaptedLinear, Adapter
from qlexp.model.backbone import Backbone, linear_shapes
from qlexp.model.context import Context
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear, lane_down, lane_linear_add

Factors = tuple[Tensor, Tensor]  # A (L, rank, in) and B (L, out, rank)


@dataclass(frozen=True)
class Generated(Context):
    """The factors of every adapted linear, in the order in which a pass meets them."""

    factors: tuple[Factors, ...] = ()


class GeneratedLinear(AdaptedLinear):
    """LoRA with the factors at `index` of the context."""

    def __init__(self, base: LaneLinear, scale: float, index: int) -> None:
        super().__init__(base)
        self.scale = scale
        self.index = index

    def forward(self, h: Tensor, context: Context) -> tuple[Tensor, Context]:
        assert isinstance(context, Generated)
        return self.adapt_with(h, *context.factors[self.index]), context

    def adapt_with(self, h: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """The adapted output (L, N, T, out) under given factors."""
        return lane_linear_add(self.base.project(h), lane_down(h, A), B, self.scale)

    def merged_with(self, A: Tensor, B: Tensor) -> Tensor:
        """The weight (L, out, in) that does the same."""
        return self.base.weight + self.scale * B @ A


class GeneratingAdapter(Adapter):
    """Owns the networks; a method defines `generate`.

    Attributes:
        shapes: (out, in) of every adapted type of linear, in the order in which a pass meets them.
    """

    def __init__(self, backbone: Backbone, config: Any, draw: Draw) -> None:
        shapes = linear_shapes(backbone.config)
        self.shapes = {name: shapes[name] for name in shapes if name in config.targets}
        super().__init__(backbone, config, draw)

    def generate(self) -> tuple[Factors, ...]:
        """The factors of every adapted linear, layer by layer."""
        raise TypeError(f"{type(self).__name__} does not say how it generates factors")

    def context(self, mask: Tensor | None = None, instruction: Tensor | None = None) -> Context:
        return Generated(mask, instruction, factors=self.generate())

    def index(self, layer: int, name: str) -> int:
        """Where `generate` has the factors of linear `name` of layer `layer`."""
        return layer * len(self.shapes) + list(self.shapes).index(name)

    def merged(self, linear: AdaptedLinear) -> Tensor:
        if not isinstance(linear, GeneratedLinear):
            return super().merged(linear)
        return linear.merged_with(*self.generate()[linear.index])


class HypernetworkAdapter(GeneratingAdapter):
    """One network makes the factors of all linears.

    Attributes:
        Hypernetwork: its class, which takes the config, the depth, the `shapes` and a draw, and
            whose pass has no input and gives what `generate` does.
    """

    Hypernetwork: ClassVar[type[nn.Module]]

    def __init__(self, backbone: Backbone, config: Any, draw: Draw) -> None:
        super().__init__(backbone, config, draw)
        self.hypernetwork: Any = self.Hypernetwork(config, backbone.config.depth, self.shapes, draw)

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> AdaptedLinear:
        return GeneratedLinear(base, self.config.scale, self.index(layer, name))

    def generate(self) -> tuple[Factors, ...]:
        factors: tuple[Factors, ...] = self.hypernetwork()
        return factors


def layer_by_layer(of_types: Iterable[Factors]) -> tuple[Factors, ...]:
    """The factors of every linear from those of each type, A (L, depth, rank, in), B likewise."""
    by_type = (zip(A.unbind(1), B.unbind(1), strict=True) for A, B in of_types)
    return tuple(factors for layer in zip(*by_type, strict=True) for factors in layer)
