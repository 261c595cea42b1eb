"""The contract of a method.

A method receives a pretrained backbone and its config, freezes the one, and wraps the linears that
`targets` names. A file of a method holds its `Config`, the linear it wraps with, and an `Adapter`
that makes them; state that several linears share is owned by the adapter once and reaches them
through the context. A method is found by the `_target_` of its YAML: there is no registry.

Every method starts as the frozen backbone exactly, and every trainable tensor has received a
gradient after two steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import save_file
from torch import Tensor, nn

from qlexp.config.checks import Checked, bounded
from qlexp.config.schema import BackboneConfig
from qlexp.errors import UsageError, unknown_name
from qlexp.model.backbone import Backbone, linear_shapes
from qlexp.model.context import Context
from qlexp.model.initial import Draw, Shapes
from qlexp.model.linear import LaneLinear
from qlexp.store.files import lane_tensors, read_tensors

ALL_LINEARS = ("qkv", "out", "up", "down")


@dataclass(frozen=True)
class Look:
    """How figures and tables show the rows of one name.

    Attributes:
        colour: `#rrggbb`.
        group: 0 to 3; methods of two groups never share both dashes and marker, so that they may
            have similar colours. Group 0 is drawn solid.
        order: the place among the rows; those of a method without a look come at 1000.
    """

    colour: str
    group: int
    order: int


@dataclass
class AdapterConfig(Checked):
    """What every method has: the label of its rows and the linears of a layer that it adapts."""

    sized_by: ClassVar[str | None] = None  # the field that `budget.rank` chooses; None: none

    name: str = "adapter"
    targets: list[str] = field(default_factory=lambda: list(ALL_LINEARS))

    def __post_init__(self) -> None:
        super().__post_init__()
        for target in self.targets:
            if target not in ALL_LINEARS:
                raise unknown_name("target", target, ALL_LINEARS)

    def check(self, backbone: BackboneConfig) -> None:
        """Raises `UsageError` where this config does not fit the backbone."""

    @property
    def instruction_size(self) -> int | None:
        """d_e of the encoded instruction that the method reads; None: it reads none."""
        return None

    def sizes(self, backbone: BackboneConfig) -> range:
        """What the field `sized_by` can be; trainable parameters grow with it."""
        raise TypeError(f"{type(self).__name__} does not say how large it can be")

    def sized(self, size: int) -> "AdapterConfig":
        """This config with its field `sized_by` at `size`."""
        assert self.sized_by is not None
        changed: dict[str, Any] = {self.sized_by: size}
        return replace(self, **changed)


@dataclass
class LowRankConfig(AdapterConfig):
    """A method with a rank; its update is scaled by alpha / rank."""

    sized_by: ClassVar = "rank"

    rank: int = bounded(8, minimum=1)
    alpha: float = bounded(16.0, above=0.0)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def check(self, backbone: BackboneConfig) -> None:
        super().check(backbone)
        if not self.targets:
            raise UsageError(
                f"method.targets is empty: name at least one of {', '.join(ALL_LINEARS)}."
            )
        shapes = linear_shapes(backbone)
        for target in self.targets:
            if self.rank > min(shapes[target]):
                raise UsageError(
                    f"method.rank={self.rank} is larger than the linear '{target}' allows: "
                    f"its shape is {shapes[target]}, so the rank must be at most "
                    f"{min(shapes[target])}."
                )

    def sizes(self, backbone: BackboneConfig) -> range:
        shapes = linear_shapes(backbone)
        return range(1, min(min(shapes[target]) for target in self.targets) + 1)

    def sized(self, size: int) -> "LowRankConfig":
        return self.ranked(size)

    def ranked(self, rank: int) -> "LowRankConfig":
        """This config at another rank; the update keeps its scale."""
        return replace(self, rank=rank, alpha=self.scale * rank)


class AdaptedLinear(nn.Module):
    """A frozen linear together with its trainable change."""

    def __init__(self, base: LaneLinear) -> None:
        super().__init__()
        self.base = base

    def forward(self, h: Tensor, context: Context) -> tuple[Tensor, Context]:
        """h (L, N, T, in) -> (L, N, T, out), and the context for the next linear."""
        return self.adapt(h), context

    def adapt(self, h: Tensor) -> Tensor:
        """The adapted output of a linear that needs no context."""
        raise TypeError(f"{type(self).__name__} defines neither forward nor adapt")

    def merged(self) -> Tensor:
        """The weight (L, out, in) that does the same without the adapter."""
        raise UsageError(
            f"{type(self).__name__} cannot be merged: its change depends on the input. "
            "Keep the adapter beside the backbone."
        )


class Adapter(nn.Module):
    """A backbone under a method.

    Args:
        backbone: pretrained, L lanes; it is frozen and changed in place.
        config: the method's `Config`.
        draw: the adapter's own generators, one a lane.
    """

    Config: ClassVar[type[AdapterConfig]] = AdapterConfig
    near_lora: ClassVar[bool] = False  # whether a count far from LoRA's is refused
    lane_fields: ClassVar[tuple[str, ...]] = ()  # numbers that may differ from lane to lane
    trains: ClassVar[bool] = True  # False for a method without trainable parameters
    reading: ClassVar[bool] = False  # whether its formula is partly a reading of its paper
    reference: ClassVar[bool] = False  # an end of the scale: never ranked among the adapters
    looks: ClassVar[Mapping[str, Look]] = {}  # by the `name` of a YAML of its own

    def __init__(self, backbone: Backbone, config: Any, draw: Draw) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.config = config
        for index, layer in enumerate(backbone.layers):
            for name in ALL_LINEARS:
                if name in config.targets:
                    base = getattr(layer, name)
                    setattr(layer, name, self.wrap(base, index, name, draw))

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> nn.Module:
        """The adapted form of linear `name` of layer `layer`."""
        raise TypeError(f"{type(self).__name__} does not say how it wraps a linear")

    def context(self, mask: Tensor | None = None, instruction: Tensor | None = None) -> Context:
        """The context with which a forward pass begins."""
        return Context(mask, instruction)

    def run(self, x: Tensor, instruction: Tensor | None = None) -> tuple[Tensor, Context]:
        """Predictions (L, N) of points (L, N, 2), and the context as the last layer leaves it."""
        return self.backbone.run(x, self.context(instruction=instruction))

    def forward(self, x: Tensor, instruction: Tensor | None = None) -> Tensor:
        """Points (L, N, 2), and e(z) (L, N, d_e) where the method reads it, to (L, N)."""
        return self.run(x, instruction)[0]

    def set_lane_fields(self, values: Mapping[str, Tensor]) -> None:
        """Takes over the `lane_fields` of every lane, (L,) each."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by name, each once, the wrapping left out of the names."""
        return {
            name.removeprefix("backbone."): parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    def save(self, path: Path, lane: int) -> None:
        """Writes one lane's trainable tensors, without the lane axis, as safetensors."""
        save_file(lane_tensors(self.trainable(), lane), path)

    def load(self, path: Path, lane: int) -> None:
        """Reads what `save` wrote into one lane.

        Raises:
            UsageError: the file is not readable, or its tensors are not this method's.
        """
        stored = read_tensors(path)
        own = self.trainable()
        differing = sorted(
            name
            for name in stored.keys() | own.keys()
            if name not in stored or name not in own or stored[name].shape != own[name].shape[1:]
        )
        if differing:
            raise UsageError(
                f"{path} does not hold this adapter: {', '.join(differing[:3])} differ in name or "
                "shape. Load it with the config of the run that wrote it."
            )
        for name, parameter in own.items():
            parameter.data[lane].copy_(stored[name])

    def merge(self) -> Backbone:
        """The backbone with every change folded into its weights; the adapter is used up.

        Raises:
            UsageError: the method's change depends on the input.
        """
        for layer in self.backbone.layers:
            for name in ALL_LINEARS:
                adapted = getattr(layer, name)
                if isinstance(adapted, AdaptedLinear):
                    weight = self.merged(adapted)
                    adapted.base.weight.data.copy_(weight)
                    setattr(layer, name, adapted.base)
        return self.backbone

    def merged(self, linear: AdaptedLinear) -> Tensor:
        """What `merge` makes of a linear: the weight (L, out, in) with its change."""
        return linear.merged()


_COUNTS: dict[tuple[type, str, str], int] = {}


def count_trainable(method: type[Adapter], config: AdapterConfig, backbone: BackboneConfig) -> int:
    """Trainable parameters of one lane, exact, without drawing any."""
    key = (method, repr(config), repr(backbone))
    if key not in _COUNTS:
        adapter = method(Backbone(backbone, Shapes()), config, Shapes())
        _COUNTS[key] = sum(parameter.numel() for parameter in adapter.trainable().values())
    return _COUNTS[key]
