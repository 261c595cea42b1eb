"""Methods as peft makes them, each sized to LoRA's count of trainable parameters."""

import sys
from bisect import bisect_left
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from pkgutil import resolve_name
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

import qlexp.peft  # noqa: F401, registers the method
from qlexp.errors import UsageError, unknown_name
from qlexp.lm.schema import LmConfig, Method
from qlexp.problem.seeding import seed_stream

_PACKAGES = ("peft", "qlexp")  # that a method may come from
_SCALES = ("lora_alpha", "alpha")  # scaled along with a rank, so that alpha / rank stays
_LARGEST = 4096  # size that is tried
_counts: dict[tuple[str, tuple[str, ...], str], int] = {}


def method_of(values: Mapping[str, Any]) -> Method:
    """The method of a config's node; nothing outside of peft and qlexp is imported.

    Raises:
        UsageError: there is no such class, or it has no such field.
    """
    own = dict(values)
    target, name = own.pop("_target_", None), own.pop("name", None)
    sized_by, reading = own.pop("sized_by", None), own.pop("reading", False)
    method = Method(str(name), target, sized_by, own, bool(reading))
    if target is not None:
        known = {item.name for item in fields(_kind(target)) if item.init}
        for key in {*own, *([sized_by] if sized_by else [])} - known:
            raise unknown_name(f"field of {target}", key, known)
    return method


def _kind(target: str) -> type[PeftConfig]:
    kind = None
    if str(target).partition(".")[0] in _PACKAGES:
        try:
            kind = resolve_name(target)
        except (ImportError, AttributeError, ValueError):
            kind = None
    if not (isinstance(kind, type) and is_dataclass(kind) and issubclass(kind, PeftConfig)):
        raise UsageError(
            f"method._target_={target} must name a config class of peft or qlexp, such as "
            "peft.LoraConfig."
        )
    return kind


def attach(model: PreTrainedModel, config: LmConfig) -> Any:
    """A copy of `model` under the method, drawn by the run's seed; itself where nothing trains.

    Raises:
        UsageError: the method does not fit the model.
    """
    method: Method = config.method
    if method.target is None:
        return model
    with torch.random.fork_rng():
        torch.manual_seed(seed_stream("lm adapter", config.seed))
        shared: dict[int, Any] = {id(one): one for one in model.parameters()}
        made = _made(deepcopy(model, shared), method, tuple(config.model.target_modules))
    _begin_as_the_model(made)
    return made


def _begin_as_the_model(made: Any) -> None:
    """DoRA's magnitudes in float32: peft takes them from the frozen weights in their own type, and
    what bfloat16 rounds off would move the model before it is trained."""
    for module in made.modules():
        for magnitude in dict(getattr(module, "lora_magnitude_vector", {})).values():
            weight = module.get_base_layer().weight
            magnitude.weight.data = torch.linalg.vector_norm(weight.float(), dim=1).to(
                weight.device
            )


def _made(model: PreTrainedModel, method: Method, targets: tuple[str, ...]) -> Any:
    assert method.target is not None
    values = {"target_modules": list(targets) or "all-linear", **method.fields}
    try:
        made = get_peft_model(model, _kind(method.target)(task_type="CAUSAL_LM", **values))
    except UsageError:
        raise
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UsageError(f"method={method.name} does not fit the model ({reason}).") from error
    if method.sized_by == "r":
        _check_rank(made, method)
    return made


def _check_rank(made: Any, method: Method) -> None:
    for name, module in made.named_modules():
        if isinstance(module, BaseTunerLayer):
            weight: Any = module.get_base_layer().weight
            shape = tuple(weight.shape)
            if method.fields["r"] > min(shape):
                raise UsageError(
                    f"method.r={method.fields['r']} is larger than the linear {name} of shape "
                    f"{shape} allows: it must be at most {min(shape)}."
                )


def trainable_count(model: PreTrainedModel, method: Method, targets: tuple[str, ...]) -> int:
    """The method's trainable parameters on a model of this shape, for which no weights are made; 0
    where nothing trains.

    Raises:
        UsageError: the method does not fit the model.
    """
    if method.target is None:
        return 0
    key = (model.config.to_json_string(), targets, repr(method.plain()))
    if key not in _counts:
        with torch.device("meta"):
            made = _made(type(model)(model.config), method, targets)
        _counts[key] = sum(one.numel() for one in made.parameters() if one.requires_grad)
    return _counts[key]


def reference_count(config: LmConfig, model: PreTrainedModel) -> int | None:
    """LoRA's count at the reference rank; None where there is none."""
    rank = config.budget.rank or config.method.fields.get("r")
    if config.method.target is None or rank is None:
        return None
    return trainable_count(model, _lora(rank), tuple(config.model.target_modules))


def with_budget(config: LmConfig, model: PreTrainedModel) -> LmConfig:
    """`config` with its method at the size whose count is nearest to LoRA's at `budget.rank`.

    Raises:
        UsageError: a method that promises to stay near LoRA's count (`near_lora`) does not.
    """
    method: Method = config.method
    targets = tuple(config.model.target_modules)
    trainable_count(model, method, targets)  # refuses what does not fit at its own size
    if method.target is None or config.budget.rank is None:
        return config
    if config.budget.by == "rank":
        has_rank = method.sized_by == "r"
        return replace(config, method=sized(method, config.budget.rank) if has_rank else method)
    if method.sized_by is None:
        return config
    wanted = reference_count(config, model)
    assert wanted is not None

    def count(size: int) -> int:
        try:
            return trainable_count(model, sized(method, size), targets)
        except UsageError:  # larger than a linear allows
            return sys.maxsize

    sizes = range(1, _LARGEST)
    enough = bisect_left(sizes, wanted, key=count)
    around = sizes[max(enough - 1, 0) : enough + 1]
    best = min(around, key=lambda size: abs(count(size) - wanted))
    found = sized(method, best)
    trainable_count(model, found, targets)  # refuses what fits at no size
    promised = config.budget.enforce and getattr(_kind(method.target), "near_lora", False)
    if promised and abs(count(best) - wanted) > config.budget.tolerance * wanted:
        raise UsageError(
            f"{method.name} comes no nearer to LoRA's {wanted:,} trainable parameters than "
            f"{count(best):,}: more than {config.budget.tolerance:.0%} apart. Choose fewer atoms "
            "or a smaller key_dim, or set budget.enforce=false for an ablation; its row is then "
            "marked."
        )
    return replace(config, method=found)


def sized(method: Method, size: int) -> Method:
    """`method` with the field that it is sized by at `size`; where that is its rank, alpha is
    scaled along, but for rsLoRA, whose point is another scale."""
    assert method.sized_by is not None
    own = {**method.fields, method.sized_by: size}
    if method.sized_by == "r" and not method.fields.get("use_rslora"):
        own |= {
            key: method.fields[key] * size / method.fields["r"]
            for key in _SCALES
            if key in method.fields
        }
    return replace(method, fields=own)


def _lora(rank: int) -> Method:
    return Method("lora", f"{LoraConfig.__module__}.LoraConfig", "r", {"r": rank})
