"""Long frames as the sections of a grid: one a budget, a row a group of its cells."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd

from analysis.names import budget_title, row_label
from analysis.render import NO_CELL, Section, Text
from analysis.text import number

Texts = Callable[..., Iterable[str]]  # of a row's label, the values of further keys, and its group


def sections(frame: pd.DataFrame, texts: Texts, by: Sequence[str] = ()) -> list[Section]:
    """A section a budget with its `rows`."""
    return [
        Section(budget_title(budget), rows(part, texts, by))
        for budget, part in frame.groupby("budget", sort=False)
    ]


def rows(frame: pd.DataFrame, texts: Texts, by: Sequence[str] = ()) -> list[list[Text]]:
    """A row for each method, variant and value of the columns `by`, in the order of `frame`."""
    groups = frame.groupby(["method", "variant", *by], sort=False, dropna=False)
    return [
        list(map(Text, texts(row_label(method, variant), *values, group)))
        for (method, variant, *values), group in groups
    ]


def numbers(values: Iterable[Any]) -> list[str]:
    """Each as a table prints it, NaN as no cell."""
    return [NO_CELL if math.isnan(value) else number(value) for value in values]
