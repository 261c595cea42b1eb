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


def marked(
    frame: pd.DataFrame,
    texts: Callable[[pd.DataFrame], Iterable[str | Text]],
    by: Sequence[str] = (),
    lone_title: bool = True,
) -> list[Section]:
    """As `sections`, of rows that title themselves.

    Args:
        lone_title: whether the section has a title where it is the only one.
    """
    parts = list(frame.groupby("budget", sort=False))
    return [
        Section(
            budget_title(budget) if lone_title or len(parts) > 1 else "",
            [
                [text if isinstance(text, Text) else Text(text) for text in texts(own)]
                for _, own in part.groupby(["method", "variant", *by], sort=False)
            ],
        )
        for budget, part in parts
    ]


def numbers(values: Iterable[Any]) -> list[str]:
    """Each as a table prints it, NaN as no cell."""
    return [NO_CELL if math.isnan(value) else number(value) for value in values]
