"""From a composed config to a checked one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pkgutil import resolve_name
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qlexp.config.schema import Component, Config
from qlexp.errors import UsageError


def resolve(composed: DictConfig) -> Config:
    """The checked config of a composed one.

    Raises:
        UsageError: a value has the wrong type, is out of range or does not fit the others.
    """
    with _readable_errors():
        config = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(Config), _without_hydra(composed))
        )
    assert isinstance(config, Config)
    config = replace(
        config,
        method=_component("method", config.method),
        optimizer=_component("optimizer", config.optimizer),
        pretrain_optimizer=_component("pretrain_optimizer", config.pretrain_optimizer),
    )
    config.method.config.check(config.backbone)
    return config


def _without_hydra(composed: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(composed, [item.name for item in fields(Config)])


def _component(group: str, node: Any) -> Component:
    values = dict(node)
    target = values.pop("_target_", None)
    try:
        kind = resolve_name(target)
    except (ImportError, AttributeError, TypeError, ValueError):
        kind = None
    schema = getattr(kind, "Config", None)
    if not isinstance(kind, type) or not is_dataclass(schema):
        raise UsageError(
            f"{group}._target_={target} must name an importable class with a Config dataclass, "
            "such as qlexp.adapters.lora.LoRA."
        )
    with _readable_errors(f"{group}."):
        merged = OmegaConf.merge(OmegaConf.structured(schema), values)
        return Component(kind, OmegaConf.to_object(merged))


@contextmanager
def _readable_errors(prefix: str = "") -> Iterator[None]:
    """Turns OmegaConf's complaints into one sentence."""
    try:
        yield
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        key = getattr(error, "full_key", None)
        where = f"{prefix}{key}: " if key else ""
        raise UsageError(f"{where}{reason}.") from error
