"""The settings in which the cells of a study differ, and the conditions that some of them make.

Methods are compared on the same samples, the same frozen network and in the same precision. Where a
study sweeps a setting that all methods of a cell share, its cells lie in different conditions, and
losses of different conditions say nothing of the methods.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from qlexp.errors import UsageError

SEPARATOR = "; "  # between the settings of a cell

_SHARED = re.compile(
    r"(data|shift|function|backbone|(optimizer@)?pretrain_optimizer|trainer\.pretrain)\b|trainer$"
)
_BACKBONE = re.compile(r"backbone\b")


def settings_of(overrides: str) -> dict[str, str]:
    """`a=1; b=2` -> {"a": "1", "b": "2"}."""
    words = (word.partition("=") for word in overrides.split(SEPARATOR) if word)
    return {key.lstrip("+"): value for key, _, value in words}


def joined(settings: Mapping[str, Any]) -> str:
    """{"a": 1, "b": 2} -> `a=1; b=2`."""
    return SEPARATOR.join(f"{key}={value}" for key, value in settings.items())


def number_in(value: str) -> float | None:
    """The finite number that a setting's text means; None where it means none."""
    try:
        parsed = float(value)
    except ValueError:
        return None
    return parsed if math.isfinite(parsed) else None


def order(value: str) -> tuple[bool, float, str]:
    """Numbers first, ascending, then texts."""
    parsed = number_in(value)
    return parsed is None, parsed or 0.0, value


def swept(frame: pd.DataFrame) -> dict[str, list[str]]:
    """By setting the values that it takes in the study, ascending; settings of one value are left
    out."""
    found: dict[str, set[str]] = {}
    for text in frame["overrides"]:
        for key, value in settings_of(text).items():
            found.setdefault(key, set()).add(value)
    return {key: sorted(values, key=order) for key, values in found.items() if len(values) > 1}


def with_settings(cells: pd.DataFrame, axes: Iterable[str]) -> pd.DataFrame:
    """`cells` with a column a swept setting and one of the other settings, `variant`, as texts.

    A setting is "" where a cell's method lacks it.
    """
    parsed = [settings_of(text) for text in cells["overrides"]]
    columns = {axis: [own.get(axis, "") for own in parsed] for axis in axes}
    rest = ({key: value for key, value in own.items() if key not in columns} for own in parsed)
    return cells.assign(**columns, variant=[joined(own) for own in rest])


def is_shared(setting: str) -> bool:
    """Whether a setting changes what all methods of a cell share."""
    return _SHARED.match(setting) is not None


def conditions(frame: pd.DataFrame, backbones: bool = True) -> pd.Series:
    """For each cell its settings that the methods share, or "".

    Args:
        backbones: whether another backbone is another condition.
    """
    return frame["overrides"].map(lambda text: condition_of(text, backbones))


def condition_of(overrides: str, backbones: bool = True) -> str:
    """The condition that the overrides of one cell name; `backbones` as in `conditions`."""
    own = {
        key: value
        for key, value in sorted(settings_of(overrides).items())
        if is_shared(key) and (backbones or not _BACKBONE.match(key))
    }
    return joined(own)


def require_one(frame: pd.DataFrame, study: str, backbones: bool = True) -> None:
    """Refuses a study with several conditions.

    Raises:
        UsageError: names two of them.
    """
    found = list(dict.fromkeys(conditions(frame, backbones)))
    if len(found) > 1:
        raise UsageError(
            f"Study '{study}' has losses under {len(found)} conditions ({found[0] or 'defaults'}; "
            f"{found[1] or 'defaults'}), which are not compared with each other: render it with "
            f"`python -m analysis.ablation --study {study}`."
        )
