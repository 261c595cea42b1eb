"""The settings in which the cells of a study differ, read from their overrides."""

from collections.abc import Iterable

import pandas as pd

from analysis.load import SEPARATOR
from analysis.spelling import number_in


def settings_of(overrides: str) -> dict[str, str]:
    """`a=1; b=2` -> {"a": "1", "b": "2"}."""
    words = (word.partition("=") for word in overrides.split(SEPARATOR) if word)
    return {key.lstrip("+"): value for key, _, value in words}


def joined(settings: dict[str, str]) -> str:
    """The inverse of `settings_of`."""
    return SEPARATOR.join(f"{key}={value}" for key, value in settings.items())


def swept(frame: pd.DataFrame) -> dict[str, list[str]]:
    """By setting the values that it takes in the study, ascending; settings of one value are left
    out."""
    found: dict[str, set[str]] = {}
    for text in frame["overrides"]:
        for key, value in settings_of(text).items():
            found.setdefault(key, set()).add(value)
    return {key: sorted(values, key=order) for key, values in found.items() if len(values) > 1}


def with_settings(cells: pd.DataFrame, axes: Iterable[str]) -> pd.DataFrame:
    """`cells` with a column a swept setting and one of the other overrides, `variant`, as texts.

    A setting is "" where a cell's method lacks it.
    """
    parsed = [settings_of(text) for text in cells["overrides"]]
    columns = {axis: [own.get(axis, "") for own in parsed] for axis in axes}
    rest = ({key: value for key, value in own.items() if key not in columns} for own in parsed)
    return cells.assign(**columns, variant=[joined(own) for own in rest])


def order(value: str) -> tuple[bool, float, str]:
    """Numbers first, ascending, then texts."""
    parsed = number_in(value)
    return parsed is None, parsed or 0.0, value
