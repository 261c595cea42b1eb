"""What identifies a run, its backbone and the batch that it may share.

`run_id` hashes what decides a run's numbers and nothing else: tracking, paths, device, compilation
and the study that asked for the run are left out, so that two studies share one stored cell. The
budget is left out too, since `resolve` has already turned it into the method's own fields.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from qlexp.config.schema import Component, Config

NUMERICS_VERSION = 1  # part of every id: raised when the same config gives other numbers
_NOT_IN_RUN_ID = ("tracking", "budget", "device", "compile", "recompute", "store", "study")


def plain(config: Config) -> dict[str, Any]:
    """The config as nested dictionaries of JSON values."""
    return {item.name: _plain_value(getattr(config, item.name)) for item in fields(config)}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Component):
        return value.plain()
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def run_id(config: Config) -> str:
    """Identity of a run: 16 hexadecimal digits."""
    values = {key: value for key, value in plain(config).items() if key not in _NOT_IN_RUN_ID}
    del values["trainer"]["r2_floor"]  # only a mark in the tables
    if values["shift"]["places"] is None:  # runs of before there were any keep their ids
        del values["shift"]["places"]
    return _digest(values)


def backbone_id(config: Config) -> str:
    """Identity of the backbone of a run: what pretraining depends on, and no more."""
    values = plain(config)
    return _digest(
        {
            "data": {key: values["data"][key] for key in ("pretrain", "validation", "noise")},
            "trainer": values["trainer"]["pretrain"],
            **{
                key: values[key]
                for key in ("function", "backbone", "pretrain_optimizer", "seed", "precision")
            },
        }
    )


def group_id(config: Config) -> str:
    """Identity of the batch a run may share: everything but what may differ from lane to lane."""
    values = plain(config)
    for key in (*_NOT_IN_RUN_ID, "function", "shift", "seed"):
        del values[key]
    values["data"].pop("noise")
    for stage in ("pretrain", "adapt"):
        values["trainer"][stage].pop("learning_rate")
    for name in config.method.kind.lane_fields:
        values["method"].pop(name)
    return _digest({**values, "tasks": config.shift.tasks})


def _digest(values: Mapping[str, Any]) -> str:
    text = json.dumps({"numerics": NUMERICS_VERSION, **values}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
