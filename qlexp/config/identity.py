"""What identifies a run, its backbone and the batch that it may share.

`run_id` hashes what decides a run's numbers and nothing else: what only places or reports a run
(`qlexp.config.roles`) is left out, so that two studies share one stored cell. The budget is left
out too, since it has already been turned into the method's own fields. A field that was added to a
config (`roles.added`) is left out while it holds its default, so that runs of before keep their
ids.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from typing import Any

from qlexp.config.roles import OUTSIDE
from qlexp.config.schema import Component, Config

NUMERICS_VERSION = 2  # part of every id: raised when the same config gives other numbers


def plain(config: Any) -> dict[str, Any]:
    """The config as nested dictionaries of JSON values."""
    return {item.name: _plain_value(getattr(config, item.name)) for item in fields(config)}


def _plain_value(value: Any) -> Any:
    if hasattr(value, "plain"):
        return value.plain()
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def run_id(config: Config) -> str:
    """Identity of a run: 16 hexadecimal digits."""
    return digest(identifying(config))


def backbone_id(config: Config) -> str:
    """Identity of the backbone of a run: what pretraining depends on, and no more."""
    values = identifying(config)
    for key in ("shift", "instruction", "method", "optimizer", "precision"):
        del values[key]
    for key in ("adapt", "test"):
        del values["data"][key]
    return digest({**values, "trainer": values["trainer"]["pretrain"]})


def group_id(config: Config) -> str:
    """Identity of the batch a run may share: everything but what may differ from lane to lane."""
    values = identifying(config)
    for key in ("function", "shift", "seed"):
        del values[key]
    del values["data"]["noise"]
    for stage in ("pretrain", "adapt"):
        del values["trainer"][stage]["learning_rate"]
    for name in config.method.kind.lane_fields:
        values["method"].pop(name, None)
    return digest({**values, "tasks": config.shift.tasks})


def identifying(config: Any) -> dict[str, Any]:
    """The nested values that decide the numbers of a run."""
    values: dict[str, Any] = _kept(config)
    del values["budget"]
    return values


def _kept(value: Any) -> Any:
    if isinstance(value, Component):
        return {"_target_": value.target, **_kept(value.config)}
    if hasattr(value, "plain"):
        return value.plain()
    if isinstance(value, dict):
        return {key: _kept(inner) for key, inner in value.items()}
    if not is_dataclass(value):
        return value
    own = [(item, getattr(value, item.name)) for item in fields(value)]
    return {item.name: _kept(inner) for item, inner in own if not _left_out(item, inner)}


def _left_out(item: Field[Any], value: Any) -> bool:
    if item.metadata.get("role") in OUTSIDE:
        return True
    return "added" in item.metadata and value == _default(item)


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def digest(values: Mapping[str, Any], numerics: int | str = NUMERICS_VERSION) -> str:
    """16 hexadecimal digits of values and the version of the numerics."""
    text = json.dumps({"numerics": numerics, **values}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
