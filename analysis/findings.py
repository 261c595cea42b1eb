"""What a study decides, in sentences made of the numbers that its views show."""

from collections.abc import Mapping

import pandas as pd

from analysis.names import ALL, FROZEN, budget_title, row_label
from analysis.text import interval_text
from analysis.view import Shown

_UNDECIDED = "undecided"


def findings(shown: Mapping[str, Shown]) -> list[str]:
    """A sentence a budget on the adapters beside LoRA, and one on the claims.

    Args:
        shown: by the name of the view; `forest` and `claims` are read, where they are there.
    """
    ratios = _frame(shown, "forest")
    blocks = ratios[~ratios["is_reference"]].groupby("budget", sort=False) if len(ratios) else ()
    compared = [_compared(block) for _, block in blocks]
    return [
        *(compared or ["No adapter is held against another."]),
        _answered(_frame(shown, "claims")),
    ]


def _frame(shown: Mapping[str, Shown], name: str) -> pd.DataFrame:
    return shown[name].frames[name] if name in shown else pd.DataFrame()


def _compared(block: pd.DataFrame) -> str:
    """The lowest of a block's adapters, picked after the fact, and those that intervals tell."""
    means, parts = block[block["function"] == ALL], block[block["function"] != ALL]
    best = means.sort_values("ratio", kind="stable").iloc[0]
    over = "the frozen backbone" if best["baseline"] == FROZEN else "LoRA"
    own = parts[(parts["method"] == best["method"]) & (parts["variant"] == best["variant"])]
    told = [
        f"{word}: {', '.join(map(row_label, rows['method'], rows['variant']))}"
        for word, rows in (("lower", means[means["high"] < 1]), ("higher", means[means["low"] > 1]))
        if len(rows)
    ]
    return (
        f"{budget_title(best['budget'])}. Of {len(means)} adapter{'s' * (len(means) > 1)} "
        f"{row_label(best['method'], best['variant'])} has the lowest loss, "
        f"{interval_text(best['ratio'], best['low'], best['high'])} of {over}'s (lower on "
        f"{(own['ratio'] < 1).sum()} of {len(own)} functions). Told from {over} by intervals over "
        f"all functions: {'; '.join(told) or 'none'}."
    )


def _answered(table: pd.DataFrame) -> str:
    asked = table[table["runs"] != ""] if len(table) else table
    if asked.empty:
        return "None of the claims can be asked of this study."
    decided = [
        f"{len(part)} {answer} ({', '.join(part['claim'].unique())})"
        for answer, part in asked.groupby("answer")
        if answer != _UNDECIDED
    ]
    undecided = (asked["answer"] == _UNDECIDED).sum()
    return f"Claims: of {len(asked)} answers {', '.join([*decided, f'{undecided} undecided'])}."
