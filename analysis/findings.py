"""What a study decides, in sentences made of the numbers that its views show."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.names import FROZEN, budget_title, row_label
from analysis.text import ratio_text
from analysis.view import Shown

_UNDECIDED = "undecided"


def findings(shown: Mapping[str, Shown]) -> list[str]:
    """A sentence a budget on the adapters beside LoRA, and one on the claims.

    Args:
        shown: by the name of the view; `stats` and `claims` are read, where they are there.
    """
    table = _frame(shown, "stats")
    blocks = table.groupby("budget", sort=False) if not table.empty else ()
    others = [part[part["method"] != part["baseline"]].dropna(subset="iqm") for _, part in blocks]
    compared = [_compared(part) for part in others if not part.empty]
    return [*(compared or ["No two adapters are compared."]), _answered(_frame(shown, "claims"))]


def _frame(shown: Mapping[str, Shown], name: str) -> pd.DataFrame:
    return shown[name].frames[name] if name in shown else pd.DataFrame()


def _compared(part: pd.DataFrame) -> str:
    """The lowest of a block's adapters, picked after the fact, and those that intervals tell."""
    best, first = part.loc[part["iqm"].idxmin()], part.iloc[0]
    baseline = "the frozen backbone" if first["baseline"] == FROZEN else "LoRA"
    counts = [
        f", {word} on {best[name]:.0f}"
        for name, word in (("better", "lower"), ("worse", "higher"), ("tied", "tied"))
        if best[name] > 0
    ]
    told = [
        f"{word}: {', '.join(map(_label, rows.to_dict('records')))}"
        for word, rows in (("lower", part[part["high"] < 0]), ("higher", part[part["low"] > 0]))
        if not rows.empty
    ]
    ratio = ratio_text(best["iqm"], best["low"], best["high"])
    adapters = f"{len(part)} adapter{'s' * (len(part) > 1)}"
    return (
        f"{budget_title(first['budget'])}. Of {adapters} {_label(best)} has the lowest "
        f"loss, {ratio} of {baseline}'s (interquartile mean over {best['functions']:.0f} functions"
        f"{''.join(counts)}). "
        f"Intervals tell from {baseline}: {'; '.join(told) or 'none'}."
    )


def _label(row: Any) -> str:
    return row_label(row["method"], row["variant"])


def _answered(table: pd.DataFrame) -> str:
    asked = table[table["runs"] != ""] if not table.empty else table
    if asked.empty:
        return "None of the claims can be asked of this study."
    decided = [
        f"{len(part)} {answer} ({', '.join(part['claim'].unique())})"
        for answer, part in asked.groupby("answer")
        if answer != _UNDECIDED
    ]
    undecided = int((asked["answer"] == _UNDECIDED).sum())
    return f"Claims: of {len(asked)} answers {', '.join([*decided, f'{undecided} undecided'])}."
