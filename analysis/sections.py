"""Long frames as the sections of a grid: one a budget, a row a group of its cells."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd

from analysis.names import budget_title
from analysis.render import NO_CELL, Section, Text
from analysis.rows import row_title
from analysis.text import number

Texts = Callable[..., Iterable[str | Text]]  # of a row's title, its cells, its values of `by`


def sections(
    frame: pd.DataFrame, texts: Texts, by: Sequence[str] = (), lone_title: bool = True
) -> list[Section]:
    """A section a budget with its `rows`.

    Args:
        lone_title: whether the section has a title where it is the only one.
    """
    parts = list(frame.groupby("budget", sort=False))
    titled = lone_title or len(parts) > 1
    return [
        Section(budget_title(budget) if titled else "", rows(part, texts, by))
        for budget, part in parts
    ]


def rows(frame: pd.DataFrame, texts: Texts, by: Sequence[str] = ()) -> list[list[Text]]:
    """A row for each method, variant and value of the columns `by`, in the order of `frame`.

    Its title bears the marks that any of its cells has a flag for.
    """
    marks = [name for name in ("reading", "off_budget") if name in frame]
    return [
        [
            text if isinstance(text, Text) else Text(text)
            for text in texts(
                row_title(cells.iloc[0].to_dict() | cells[marks].eq(True).any().to_dict()),
                cells,
                *values,
            )
        ]
        for (_, _, *values), cells in frame.groupby(
            ["method", "variant", *by], sort=False, dropna=False
        )
    ]


def numbers(values: Iterable[Any]) -> list[str]:
    """Each as a table prints it, NaN as no cell."""
    return [NO_CELL if math.isnan(value) else number(value) for value in values]
