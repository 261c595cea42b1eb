"""The settings in which the cells of a study differ, and the conditions that some of them make.

Methods are compared on the same samples, the same frozen network and in the same precision. Where a
study sweeps a setting that all methods of a cell share, its cells lie in different conditions, and
losses of different conditions say nothing of the methods.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pandas as pd

from qlexp.config.settings import is_shared
from qlexp.errors import UsageError

SEPARATOR = "; "  # between the settings of a cell


def text_of(value: Any) -> str:
    """A value as on the command line, in the shortest text that means it: 0.0050 -> `0.005`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _shortest(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(text_of, value))}]"
    return str(value)


def _shortest(value: float) -> str:
    short = f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:g}"
    return short if float(short) == value else repr(value)


def joined(settings: Mapping[str, Any]) -> str:
    """{"a": 1, "b": 0.5} -> `a=1; b=0.5`."""
    return SEPARATOR.join(f"{key}={text_of(value)}" for key, value in settings.items())


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
    """By setting the values that it takes in the study as texts, ascending; settings of one value
    are left out."""
    found: dict[str, set[str]] = {}
    for own in frame["settings"]:
        for key, value in own.items():
            found.setdefault(key, set()).add(text_of(value))
    return {key: sorted(values, key=order) for key, values in found.items() if len(values) > 1}


def with_settings(cells: pd.DataFrame, axes: Iterable[str]) -> pd.DataFrame:
    """`cells` with a column a swept setting and one of the other settings, `variant`, as texts.

    A setting is "" where a cell's method lacks it.
    """
    names = list(axes)
    columns = {
        name: [text_of(own[name]) if name in own else "" for own in cells["settings"]]
        for name in names
    }
    rest = [joined(without(own, names)) for own in cells["settings"]]
    return cells.assign(**columns, variant=rest)


def different(settings: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each of `settings` without what all of them have."""
    first, *others = every = list(settings)
    shared = [
        name
        for name, value in first.items()
        if all(name in own and own[name] == value for own in others)
    ]
    return [without(own, shared) for own in every]


def without(settings: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """`settings` but those of `names`."""
    return {key: value for key, value in settings.items() if key not in names}


def variants(frame: pd.DataFrame) -> pd.Series:
    """For each cell the settings that tell its row from others of the same method, or "".

    They are needed where a method has two cells for one function, seed and budget; settings that
    all its cells share are left out.
    """
    texts = pd.Series("", index=frame.index)
    frame = frame[["budget", "method", "function", "seed", "settings"]]
    for _, part in frame.groupby(["budget", "method"]):
        if part.duplicated(["function", "seed"]).any():
            texts[part.index] = [joined(own) for own in different(part["settings"])]
    return texts


def conditions(frame: pd.DataFrame, backbones: bool = True) -> pd.Series:
    """For each cell its settings that the methods share, or "".

    Args:
        backbones: whether another backbone is another condition.
    """
    return frame["settings"].map(lambda own: _condition(own, backbones))


def _condition(settings: Mapping[str, Any], backbones: bool) -> str:
    own = {
        key: value
        for key, value in sorted(settings.items())
        if is_shared(key) and (backbones or key.partition(".")[0] != "backbone")
    }
    return joined(own)


def condition_of(variant: str) -> str:
    """The condition that the settings in a row's name make."""
    words = [word for word in variant.split(SEPARATOR) if is_shared(word.partition("=")[0])]
    return SEPARATOR.join(sorted(words))


def require_one(frame: pd.DataFrame, study: str, backbones: bool = True) -> None:
    """Refuses a study with several conditions.

    Args:
        frame: the table (`analysis.table`).
        backbones: whether another backbone is another condition.

    Raises:
        UsageError: names two of them.
    """
    found = list(dict.fromkeys(frame["condition" if backbones else "task"]))
    if len(found) > 1:
        raise UsageError(
            f"Study '{study}' has losses under {len(found)} conditions ({found[0] or 'defaults'}; "
            f"{found[1] or 'defaults'}), which are not compared with each other: render it with "
            f"`qlexp show ablation {study}`."
        )
