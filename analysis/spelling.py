"""Overrides that say the same in other words: a study tells settings apart, not spellings."""

from collections.abc import Sequence
from dataclasses import replace

from analysis.settings import number_in as number_in
from qlexp.store.manifest import Cell


def spelt_alike(cells: Sequence[Cell]) -> list[Cell]:
    """`cells` with the same overrides in the words and the order in which they first came.

    An override is the same with or without a `+`, and with its number written in another way.
    """
    words: dict[tuple[str, float | str], str] = {}
    orders: dict[frozenset[str], tuple[str, ...]] = {}
    alike = []
    for cell in cells:
        own = tuple(words.setdefault(_meaning(word), word) for word in cell.overrides)
        alike.append(replace(cell, overrides=orders.setdefault(frozenset(own), own)))
    return alike


def _meaning(override: str) -> tuple[str, float | str]:
    key, _, value = override.lstrip("+").partition("=")
    number = number_in(value)
    return key, value if number is None else number
