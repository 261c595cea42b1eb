"""What stands under the statistics: how each number was found and what it cannot say."""

import pandas as pd

from analysis.cells import OFF_BUDGET, not_learnable
from analysis.names import (
    STYLE,
    STYLE_NOTE,
    UNRESTRICTED,
    budget_order,
    function_order,
    function_title,
    row_label,
)
from analysis.notes import OFF_BUDGET_NOTE, flags, number, unchecked
from analysis.stats.aggregates import blocks_of
from analysis.stats.intervals import RESAMPLES
from analysis.stats.pairs import BASELINE, unpaired
from analysis.stats.ranks import decidable

FEW = 4  # functions, below which a bootstrap interval is too narrow


def label_of(row: dict) -> str:
    """The label of a row with its marks."""
    label = row_label(row["method"], row["variant"]) + STYLE * bool(row["reading"])
    return label + OFF_BUDGET * bool(row["off_budget"])


def notes_of(frame: pd.DataFrame, cells: pd.DataFrame, table: pd.DataFrame, loss: str) -> list[str]:
    """The notes under `table`, which `analysis.stats.summary` makes of the paired `cells`."""
    fallback = sorted(set(table.loc[table["baseline"] != BASELINE, "budget"]), key=budget_order)
    notes = [
        f"Loss ratio: {loss} over LoRA's on the same function and seed; the interquartile mean of "
        "its logarithm over all functions and seeds. Below 1 is better than LoRA.",
        "P: the share of seeds on which the row's loss is below LoRA's, ties half, averaged over "
        "functions.",
        f"In brackets 95 % intervals for new seeds on the same functions: {RESAMPLES:,} bootstrap "
        "samples of n - 1 of n seeds within each function; none where a function has one seed. "
        "An interval without width says that all seeds agree, not that the value is certain.",
        *_narrow_note(table),
        _test_note(table),
        _rank_note(table),
        "Losses of diverged runs and losses above the ceiling are inf: they come last in ranks and "
        "pairs, tie with each other, and make an interquartile mean inf where they reach into the "
        "middle half.",
    ]
    if (table["infinite"] > table["diverged"]).any():
        notes.append(
            f"k/n, j inf: k of n runs diverged; j have an infinite {loss}, these and those that "
            "ended with it above the ceiling."
        )
    if fallback:
        notes.append(
            f"No LoRA to stand beside in {', '.join(fallback)}: there the loss ratio is the loss "
            "over the frozen backbone's, and nothing is tested."
        )
    if table["reading"].any():
        notes.append(STYLE_NOTE)
    if table["off_budget"].any():
        notes.append(OFF_BUDGET_NOTE)
    unlearnt = sorted(not_learnable(frame), key=function_order)
    if unlearnt:
        listed = ", ".join(map(function_title, unlearnt))
        notes.append(f"Left out with all seeds, since {UNRESTRICTED} could not learn it: {listed}.")
    alone = unpaired(cells)
    if alone:
        notes.append(f"Without LoRA's run, so not normalised: {'; '.join(alone)}.")
    return [*notes, *flags(frame), *unchecked(frame)]


def _narrow_note(table: pd.DataFrame) -> list[str]:
    functions = int(table["functions"].max())
    if functions >= FEW:
        return []
    return [
        f"With {functions} function{'s' * (functions > 1)} they are narrower than they say: in "
        "simulations, those of one function covered 73 % with 3 seeds and 92 % with 5, those of "
        "two functions 76 to 93 %."
    ]


def _test_note(table: pd.DataFrame) -> str:
    blocks = list(blocks_of(table[table["p_holm"].notna()]))
    text = (
        "p: Wilcoxon's signed-rank test over functions, two-sided and exact, on each function's "
        "mean log ratio; Holm's correction within the block; bold below 0.05."
    )
    parts = [_undecidable(budget, part) for budget, part in blocks if not decidable(part)] + [text]
    if table["reading"].any():
        parts.append(
            f"Rows with{STYLE} are not among the tests that are corrected; their p stands alone."
        )
    if blocks:
        smallest = "; ".join(_smallest(budget, part) for budget, part in blocks)
        parts.append(f"The smallest p that so many functions allow: {smallest}.")
    return " ".join(parts)


def _undecidable(budget: str, tests: pd.DataFrame) -> str:
    return (
        f"In {budget} no difference can be significant after the correction: too few functions "
        f"({tests['test_functions'].max():.0f}) for so many tests ({len(tests)})."
    )


def _smallest(budget: str, tests: pd.DataFrame) -> str:
    smallest, count = tests["smallest_p"].min(), len(tests)
    return (
        f"{number(smallest, 2)} in {budget}, {number(min(1.0, count * smallest), 2)} after the "
        f"correction for {count} test{'s' * (count > 1)}"
    )


def _rank_note(table: pd.DataFrame) -> str:
    text = (
        "Average rank over functions (1 is the lowest loss), on cells that all adapters of the "
        "block have finished."
    )
    blocks = list(blocks_of(table[table["friedman_p"].notna()]))
    if not blocks:
        return text
    parts = [
        f"{budget} p {number(first['friedman_p'], 2)}, critical difference (Nemenyi, 5 %) "
        f"{number(first['critical_difference'])} for {first['rows']:.0f} rows and "
        f"{first['ranked_functions']:.0f} functions"
        for budget, part in blocks
        for first in [part.iloc[0]]
    ]
    text += f" Friedman's test: {'; '.join(parts)}."
    far = [
        f"{budget} {', '.join(rows) or 'none'}"
        for budget, part in blocks
        if (rows := _told_from_lora(part)) is not None
    ]
    return f"{text} Further than that from LoRA's rank: {'; '.join(far)}." if far else text


def _told_from_lora(block: pd.DataFrame) -> list[str] | None:
    """The rows whose rank is not within the critical difference of LoRA's.

    None where LoRA has several rows or none.
    """
    lora = block.loc[block["method"] == BASELINE, "rank"]
    if len(lora) != 1:
        return None
    told = (block["rank"] - lora.iloc[0]).abs() >= block["critical_difference"]
    return [label_of(row) for row in block[told].to_dict("records")]
