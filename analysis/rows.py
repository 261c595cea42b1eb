"""Rows of the tables: their order, their cells, what they are called and what stands beside."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.cells import ROW
from analysis.legend import OFF_BUDGET, STYLE, column_marks
from analysis.names import ALL, function_order, function_title, row_label, row_order


def by_row(cells: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """What each row is called, by the names in `ROW`, and its cells, in the order of the tables."""
    found = dict(list(cells.groupby(ROW)))
    for row in sorted(found, key=lambda row: row_order(*row)):
        yield dict(zip(ROW, row, strict=True)), found[row]


def measured(
    cells: pd.DataFrame,
    measures: Callable[[pd.DataFrame], Mapping[str, Any]],
    by: str | None = None,
) -> pd.DataFrame:
    """The measures of each row's cells, or of those that share a value of the column `by`; after
    the columns `ROW` and `by`, in the order of the tables."""
    return pd.DataFrame(
        {**row, **key, **measures(part)}
        for row, own in by_row(cells)
        for key, part in (
            [({by: value}, part) for value, part in own.groupby(by, sort=False)]
            if by
            else [({}, own)]
        )
    )


def row_title(row: Mapping[str, Any]) -> str:
    """A row's label with its marks, by the flags `reading` and `off_budget` where it has them."""
    marks = {STYLE: "reading", OFF_BUDGET: "off_budget"}
    return row_label(row["method"], row["variant"]) + "".join(
        mark for mark, flag in marks.items() if row.get(flag, False)
    )


def in_order(functions: Iterable[str]) -> list[str]:
    """Functions in the order of the tables, each once, without `ALL`."""
    return sorted(set(functions) - {ALL}, key=function_order)


def function_titles(frame: pd.DataFrame, functions: Iterable[str]) -> list[str]:
    """The headers of functions' columns, with their marks in the study `frame`."""
    return [function_title(name) + column_marks(frame, name) for name in functions]


def beside(row: pd.DataFrame, functions: Sequence[str]) -> list[dict[str, Any] | None]:
    """The cells of one row by function; None where it has none."""
    own = row.set_index("function").to_dict("index")
    return [own.get(function) for function in functions]
