"""The settings of a run by their dotted names, and the role that each plays."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from qlexp.config.roles import OUTSIDE, SHARED, Role
from qlexp.config.schema import Config
from qlexp.lm.schema import LmConfig

SCHEMAS = (Config, LmConfig)  # of each command
NAMED = ("function", "task", "method", "seed", "budget")  # by which a cell is called in its study


@cache
def role_of(key: str) -> Role | None:
    """The role of a setting; None for what is no part of a config, such as `experiment`.

    Of `SCHEMAS` the one that knows the longest part of the name says it, the first of several.

    Args:
        key: the dotted name of a field or a section, or a group such as
            `optimizer@pretrain_optimizer`. A section has the role of what is declared for it,
            though a field below it may have another.
    """
    names = key.rpartition("@")[2].split(".")
    found = [_known(schema, names) for schema in SCHEMAS]
    return max(found, key=lambda known: known[0])[1]


def _known(schema: Any, names: Sequence[str]) -> tuple[int, Role | None]:
    """How many of `names`, each a field of the one before, a schema has, and their role."""
    role = None
    for depth, name in enumerate(names):
        known = {item.name: item for item in fields(schema)} if is_dataclass(schema) else {}
        if name not in known:
            return depth, role
        role = known[name].metadata.get("role", role)
        schema = known[name].type
    return len(names), role


def is_setting(key: str) -> bool:
    """Whether another value of `key` is another run."""
    return role_of(key) not in (None, *OUTSIDE)


def is_shared(key: str) -> bool:
    """Whether all methods of a cell share the setting, so that another value is another
    condition."""
    return role_of(key) in SHARED


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings in a nested config, by dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        elif is_setting(name):
            found[name] = value
    return found


def told(
    values: Mapping[str, Any], choices: Mapping[str, Any], overrides: Iterable[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings of a run, and the names of those that the command line gave.

    Args:
        values: its config, nested.
        choices: what was chosen of the config's groups, which count as settings too.
        overrides: as on the command line. What a cell is called by (`NAMED`) is left out, and of a
            section that is given as a whole every field is given.
    """
    groups = {key: choice for key, choice in choices.items() if is_setting(key)}
    settings = {**groups, **flat(values)}
    asked = {
        name: None
        for key in map(key_of, overrides)
        if key not in NAMED
        for name in ([key] if key in settings else settings)
        if name == key or name.startswith(f"{key}.")
    }
    return settings, tuple(asked)


def key_of(override: str) -> str:
    """What an override such as `+data.noise=0.1` sets."""
    return override.partition("=")[0].lstrip("+~")
