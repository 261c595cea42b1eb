"""From a composed config to a checked one.

Each section is checked by itself, and one that was seen before is not checked again: the jobs of a
sweep have most of theirs in common. So sections of several configs may be one object, which
nothing changes.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pkgutil import resolve_name
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qlexp.config.schema import Component, Config
from qlexp.errors import UsageError

SECTIONS = [item.name for item in fields(Config)]
_COMPONENTS = ("method", "optimizer", "pretrain_optimizer")
_REMEMBERED = 10_000  # sections


def resolve(composed: DictConfig) -> Config:
    """The checked config of a composed one.

    Raises:
        UsageError: a value has the wrong type, is out of range or does not fit the others.
    """
    with _readable_errors():
        values = OmegaConf.to_container(OmegaConf.masked_copy(composed, SECTIONS), resolve=True)
    assert isinstance(values, dict)
    return config_of({str(name): json.dumps(value) for name, value in values.items()})


def config_of(sections: Mapping[str, str]) -> Config:
    """The checked config of its sections, each as JSON and without interpolations.

    Raises:
        UsageError: as `resolve` does.
    """
    values = {name: _section(name, text) for name, text in sections.items()}
    for name in _COMPONENTS:
        values[name] = _component(name, sections.get(name, "{}"))
    config = Config(**values)
    config.method.config.check(config.backbone)
    return config


@lru_cache(_REMEMBERED)
def _section(name: str, text: str) -> Any:
    """What the schema makes of a section."""
    with _readable_errors():
        whole: Any = OmegaConf.merge(OmegaConf.structured(Config), {name: json.loads(text)})
        section = whole[name]
        return OmegaConf.to_object(section) if OmegaConf.is_config(section) else section


def _component(group: str, text: str) -> Component:
    target = json.loads(text).get("_target_")
    try:
        kind = resolve_name(target)
    except (ImportError, AttributeError, TypeError, ValueError):
        kind = None
    schema: Any = getattr(kind, "Config", None)
    if not isinstance(kind, type) or not isinstance(schema, type) or not is_dataclass(schema):
        raise UsageError(
            f"{group}._target_={target} must name an importable class with a Config dataclass, "
            "such as qlexp.adapters.lora.LoRA."
        )
    return Component(kind, _component_config(group, schema, text))


@lru_cache(_REMEMBERED)
def _component_config(group: str, schema: type, text: str) -> Any:
    values = {key: value for key, value in json.loads(text).items() if key != "_target_"}
    with _readable_errors(f"{group}."):
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))


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
