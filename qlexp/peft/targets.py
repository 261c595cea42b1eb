"""Which linears of a model an adapter takes, and in which decoder layers they are."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from peft.tuners.tuners_utils import BaseTunerLayer, _maybe_include_all_linear_layers
from peft.utils.constants import INCLUDE_LINEAR_LAYERS_SHORTHAND
from torch import nn

from qlexp.config.checks import require_at_most
from qlexp.errors import UsageError
from qlexp.peft.config import QueryableLoraConfig


@dataclass(frozen=True)
class Targets:
    """The linears that an adapter takes.

    Attributes:
        decoder: name of the module that holds the decoder layers.
        layers: names of the decoder layers with an adapted linear, in their order.
        layer_of: for the name of each linear, the place of its layer in `layers`.
    """

    decoder: str
    layers: tuple[str, ...]
    layer_of: dict[str, int]


def name_all_linears(config: QueryableLoraConfig, model: nn.Module) -> None:
    """Puts names in the place of "all-linear": those in the layers that are to be adapted.

    peft does the same, and then no longer asks for the layer of a linear that is named in full.
    """
    if config.target_modules != INCLUDE_LINEAR_LAYERS_SHORTHAND:
        return
    _maybe_include_all_linear_layers(config, model)
    chosen = config.layers_to_transform
    if chosen is not None:
        chosen = [chosen] if isinstance(chosen, int) else chosen
        config.target_modules = {
            name
            for name in config.target_modules
            if int(_decoder_layer(model, name).rpartition(".")[2]) in chosen
        }


def find_targets(
    model: nn.Module, config: QueryableLoraConfig, matches: Callable[[str], bool]
) -> Targets:
    """The targets among the modules whose names match.

    Raises:
        UsageError: the config does not fit the model.
    """
    linears = dict(_linears(model))
    matched = [name for name, _ in _outside_of_adapters(model) if matches(name)]
    if not matched:
        raise UsageError(
            f"target_modules={_listed(config.target_modules)} matches no linear of this model; "
            f"its linears are called {', '.join(_last_parts(linears))}."
        )
    for name in matched:
        if name not in linears:
            kind = type(model.get_submodule(name)).__name__
            raise UsageError(
                f"target_modules matches {name}, which is a {kind} and no linear; the model's "
                f"linears are called {', '.join(_last_parts(linears))}."
            )
        linear = linears[name]
        least = min(linear.in_features, linear.out_features)
        if config.r > least:
            raise UsageError(
                f"r={config.r} is larger than the linear {name} allows: its shape is "
                f"({linear.out_features}, {linear.in_features}), so r must be at most {least}."
            )
    layer_names = {name: _decoder_layer(model, name) for name in matched}
    stacks = {layer.rpartition(".")[0] for layer in layer_names.values()}
    if len(stacks) > 1:
        raise UsageError(
            f"target_modules matches linears in {', '.join(sorted(stacks))}, and a route runs "
            "through one stack of layers: name linears of one of them."
        )
    stack = stacks.pop()
    layers = sorted(set(layer_names.values()), key=lambda layer: int(layer.rpartition(".")[2]))
    require_at_most("block_size", config.block_size, "the depth", "adapted layers", len(layers))
    place = {layer: index for index, layer in enumerate(layers)}
    return Targets(
        decoder=stack.rpartition(".")[0],
        layers=tuple(layers),
        layer_of={name: place[layer] for name, layer in layer_names.items()},
    )


def _outside_of_adapters(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Modules by name, without what lies inside of an adapted linear."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name and not name.startswith(inside or "\0"):
            yield name, module
            if isinstance(module, BaseTunerLayer):
                inside = (*inside, f"{name}.")


def _linears(model: nn.Module) -> Iterable[tuple[str, nn.Linear]]:
    for name, module in _outside_of_adapters(model):
        base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if isinstance(base, nn.Linear):
            yield name, base


def _decoder_layer(model: nn.Module, name: str) -> str:
    """The name of the outermost member of a ModuleList that a linear lies in."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        if isinstance(model.get_submodule(".".join(parts[:end])), nn.ModuleList):
            return ".".join(parts[: end + 1])
    raise UsageError(
        f"target_modules matches {name}, which is in no decoder layer: a route is known inside of "
        "the layers only, so leave it out (modules_to_save trains a module whole)."
    )


def _last_parts(names: Iterable[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names})


def _listed(target_modules: Iterable[str] | str) -> str:
    if isinstance(target_modules, str):
        return f"'{target_modules}'"
    return str(sorted(target_modules))
