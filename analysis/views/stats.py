"""Adapters compared, with intervals.

    stats.{md,csv,tex}            a row a method: interquartile mean, probability of improvement,
                                  test against LoRA, average rank
    stats_functions.{md,csv,tex}  loss over LoRA's on each function
    stats_improvement.csv         P(X < Y) of each two methods
    stats_profiles.csv            performance profiles
    stats_<figure>_<budget>.svg   iqm, improvement, profiles, ranks

The loss that decides is compared: the test loss without its noise, or of language models the test
error. Files of another `--loss` begin with `stats_<loss>`. Of a tuned study the trials are compared
that `tables` shows, by the same `--tune`. Blocks of equal rank and of equal count are never mixed,
and the frozen backbone and full fine-tuning are not ranked. A study with several conditions is
refused: see `ablation`. Intervals: `analysis.stats.intervals`; tests: `analysis.stats.ranks`;
diverged runs: `analysis.stats.pairs`.
"""

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.benchmark import DECIDING
from analysis.cells import ROW, by_budget
from analysis.figures.stats import improvement_figure, iqm_figure, profile_figure, ranks_figure
from analysis.legend import STYLE, deciding_note, flags, row_notes, unchecked
from analysis.names import UNRESTRICTED, budget_title, function_title, loss_title
from analysis.render import NO_CELL, Grid, Text
from analysis.render.output import Picture
from analysis.rows import beside, in_order, row_title
from analysis.sections import sections
from analysis.settings import require_one
from analysis.stats.aggregates import by_function, improvement, iqm, profiles
from analysis.stats.intervals import RESAMPLES
from analysis.stats.pairs import BASELINE, paired, unpaired
from analysis.stats.ranks import ALPHA, against_baseline, average_ranks, decidable
from analysis.study import Study
from analysis.text import interval_text, number, ratio_text
from analysis.view import Shown
from qlexp.errors import UsageError

_HEADERS = (
    *("method", "diverged", "loss ratio (IQM)", "P(lower than LoRA)"),
    *("functions better/worse/tied", "mean ratio", "p", "p (Holm)", "average rank"),
)
IMPROVEMENT = ("improvement", "improvement_low", "improvement_high")
MEAN = ("mean", "mean_low", "mean_high")
FEW = 4  # functions, below which a bootstrap interval is too narrow


def add_options(command: ArgumentParser) -> None:
    command.add_argument("--loss", help=f"what to compare ({DECIDING})")


def show(study: Study, options: Namespace) -> Shown:
    """Raises a `UsageError` for several conditions, for a loss that the runs do not have, and where
    no adapter has a finished run on a function that can be learnt."""
    known = [name for name in study.benchmark.losses if name != "test_loss_raw"]  # a scale cancels
    loss = study.benchmark.chosen(options.loss, known)
    require_one(study.frame, study.name)
    frame, tuning = study.kept
    cells = paired(frame, loss)
    if cells.empty:
        raise UsageError(
            f"Study '{study.name}' has no finished run of an adapter on a function that can be "
            "learnt: statistics want at least one."
        )
    chances, functions, shares = improvement(cells), by_function(cells), profiles(cells)
    table = summary(cells, chances)
    stem = "stats" if loss == study.benchmark.deciding else f"stats_{loss}"
    title = f"{loss_title(loss)}, study {study.name}"
    notes = [*tuning.notes(), *notes_of(frame, cells, table, loss)]
    caption, by_name = f"Adapters compared by {title}", f"Adapters by function, {title}"
    grids = {
        stem: [summary_grid(table, caption, stem, notes)],
        f"{stem}_functions": [function_grid(table, functions, by_name, f"{stem}_functions")],
    }
    frames = {"": table, "_functions": functions, "_improvement": chances, "_profiles": shares}
    return Shown(
        grids,
        {f"{stem}{end}": numbers for end, numbers in frames.items()},
        _pictures(table, shares, stem, loss),
        latex=list(grids),
    )


def summary(cells: pd.DataFrame, chances: pd.DataFrame) -> pd.DataFrame:
    """One row a method of a block: the columns of `iqm`, `against_baseline`, `average_ranks`.

    `improvement`, `improvement_low` and `improvement_high` are P(the row has a lower loss than
    LoRA).

    Args:
        cells: `paired` ones, at least one; `chances` what `improvement` makes of them.
    """
    table = iqm(cells)
    for part in (_over_baseline(chances), against_baseline(cells), average_ranks(cells)):
        if not part.empty:
            table = table.merge(part, on=ROW, how="left", validate="one_to_one")
    wanted = ("improvement", "p", "p_holm", "smallest_p", "rank", "better", "worse", "tied")
    return table.assign(**{name: math.nan for name in wanted if name not in table})


def _over_baseline(chances: pd.DataFrame) -> pd.DataFrame:
    """P(row < LoRA) by row; a block with several rows of LoRA has no single one to name."""
    if chances.empty:
        return chances
    ends = dict(zip(("probability", "low", "high"), IMPROVEMENT, strict=True))
    against = chances[(chances["other"] == BASELINE) & (chances["method"] != BASELINE)]
    return against.drop_duplicates(ROW, keep=False)[[*ROW, *ends]].rename(columns=ends)


def summary_grid(table: pd.DataFrame, caption: str, label: str, notes: Sequence[str]) -> Grid:
    """Methods by statistics, a section a budget; p (Holm) stands where it can decide something."""
    decided = [budget for budget, part in by_budget(table) if decidable(part)]

    def texts(title: str, own: pd.DataFrame) -> list[str | Text]:
        (row,) = own.to_dict("records")
        more = f", {row['infinite']} inf" if row["infinite"] > row["diverged"] else ""
        functions = "/".join(f"{row[name]:.0f}" for name in ("better", "worse", "tied"))
        p_holm = row["p_holm"] if row["budget"] in decided else math.nan
        return [
            title,
            f"{row['diverged']}/{row['cells']}{more}",
            _ratio(row, "iqm"),
            interval_text(*(row.get(end, math.nan) for end in IMPROVEMENT)),
            NO_CELL if math.isnan(row["p"]) else functions,
            ratio_text(*(row.get(end, math.nan) for end in MEAN)),
            NO_CELL if math.isnan(row["p"]) else number(row["p"], 2),
            Text(NO_CELL if math.isnan(p_holm) else number(p_holm, 2), bold=p_holm < ALPHA),
            NO_CELL if math.isnan(row["rank"]) else f"{row['rank']:.2f}",
        ]

    return Grid(label, caption, _HEADERS, sections(table, texts), notes)


def _ratio(row: Mapping[str, Any], value: str) -> str:
    """A loss over the baseline's, which is 1 by definition in the baseline's own row."""
    return (
        "1" if row["method"] == row["baseline"] else ratio_text(row[value], row["low"], row["high"])
    )


def function_grid(table: pd.DataFrame, functions: pd.DataFrame, caption: str, label: str) -> Grid:
    """Methods by functions, a section a budget: the geometric mean of the loss ratio."""
    rows = table[[*ROW, "reading", "off_budget", "baseline"]]
    cells = (
        rows.merge(functions, on=ROW, how="left") if len(functions) else rows.assign(function=None)
    )
    names = in_order(cells["function"].dropna())

    def texts(title: str, row: pd.DataFrame) -> list[str]:
        found = beside(row, names)
        return [title, *(_ratio(own, "mean") if own else NO_CELL for own in found)]

    note = (
        "Geometric mean over seeds of the loss over the baseline's (LoRA's; the frozen backbone's "
        "in a block without LoRA) on the same function and seed, with Student's 95 % interval of "
        "its logarithm; no correction for the number of cells. Below 1 is better."
    )
    headers = ["method", *map(function_title, names)]
    return Grid(label, caption, headers, sections(cells, texts), [note])


_CAPTIONS = {
    "iqm": "Interquartile mean of the loss over the baseline's, with its 95 % interval.",
    "improvement": "Probability that a method has a lower loss than LoRA, with its 95 % interval.",
    "profiles": "Share of cells whose loss is within a factor of the cell's lowest; 95 % bands.",
    "ranks": "Average ranks over functions; a bar joins methods that are not told apart.",
}


def _pictures(table: pd.DataFrame, shares: pd.DataFrame, stem: str, loss: str) -> Iterator[Picture]:
    for budget, block in by_budget(table):
        compared, ranked = (block[block[name].notna()] for name in ("improvement", "rank"))
        profile = shares[shares["budget"] == budget] if len(shares) else shares
        drawn = {
            "iqm": (iqm_figure, block),
            "improvement": (improvement_figure, compared),
            "profiles": (profile_figure, profile),
            "ranks": (ranks_figure, ranked if len(ranked) > 1 else ranked[:0]),
        }
        for kind, (draw, part) in drawn.items():
            caption = f"{_CAPTIONS[kind]} {budget_title(budget)}, {loss_title(loss)}."
            if len(part):
                yield Picture(f"{stem}_{kind}_{budget}", caption, draw(part))


def notes_of(frame: pd.DataFrame, cells: pd.DataFrame, table: pd.DataFrame, loss: str) -> list[str]:
    """The notes under `table`, which `summary` makes of the paired `cells` of `frame`."""
    beyond = (table["infinite"] > table["diverged"]).any()
    alone = table.loc[table["baseline"] != BASELINE, "budget"].unique()
    unlearnt = in_order(frame.loc[frame["not_learnable"], "function"])
    without = unpaired(cells)
    told = {
        f"Loss ratio: {loss} over LoRA's on the same function and seed, the interquartile mean of "
        "its logarithm over all functions and seeds: below 1 is better than LoRA. P: the share of "
        "seeds on which the row's loss is below LoRA's, ties half, averaged over functions.": True,
        f"In brackets 95 % intervals for new seeds on the same functions: {RESAMPLES:,} bootstrap "
        "samples of n - 1 of n seeds within each function; none where a function has one seed. "
        "An interval without width says that all seeds agree, not that the value is certain.": True,
        f"With fewer than {FEW} functions they are narrower than they say: in simulations, those "
        "of one function covered 73 % with 3 seeds and 92 % with 5, those of two functions 76 to "
        "93 %.": table["functions"].max() < FEW,
        _test_note(table): True,
        _rank_note(table): True,
        "Losses of diverged runs and losses above the ceiling are inf: they come last in ranks and "
        "pairs, tie with each other, and make an interquartile mean inf where they reach into the "
        "middle half.": True,
        f"k/n, j inf: k of n runs diverged; j have an infinite {loss}, these and those that ended "
        "with it above the ceiling.": beyond,
        f"No LoRA to stand beside in {', '.join(alone)}: there the loss ratio is the loss over the "
        "frozen backbone's, and nothing is tested.": len(alone),
        **dict.fromkeys(row_notes(table), True),
        f"Left out with all seeds, since {UNRESTRICTED} could not learn it: "
        f"{', '.join(map(function_title, unlearnt))}.": unlearnt,
        f"Without LoRA's run, so not normalised: {'; '.join(without)}.": without,
    }
    return [
        *(text for text, holds in told.items() if holds),
        *deciding_note(frame),
        *flags(frame),
        *unchecked(frame),
    ]


def _test_note(table: pd.DataFrame) -> str:
    """What the tests are, and where none of them can decide anything."""
    few = (
        f"In {budget} no difference can be significant after the correction: too few functions "
        f"({part['test_functions'].max():.0f}) for so many tests ({len(part)})."
        for budget, part in by_budget(table[table["p_holm"].notna()])
        if not decidable(part)
    )
    tests = (
        "Mean ratio: the geometric mean over seeds, then functions, with Welch's 95 % interval for "
        "new seeds. p: Wilcoxon's signed-rank test of it over functions, two-sided and exact, on "
        "each function's mean log ratio; Holm's correction within the block; bold below 0.05."
    )
    apart = f"Rows with{STYLE} are not among the tests that are corrected; their p stands alone."
    return " ".join([*few, tests, *[apart] * bool(table["reading"].any())])


def _rank_note(table: pd.DataFrame) -> str:
    """What the ranks are, and by budget what is told apart."""
    parts = [
        "Average rank over functions (1 is the lowest loss), on cells that all adapters of the "
        "block have finished."
    ]
    far = []
    known = table[table["friedman_p"].notna()] if "friedman_p" in table else table[:0]
    for budget, part in by_budget(known):
        first, lora = part.iloc[0], part.loc[part["method"] == BASELINE, "rank"]
        parts.append(
            f"Friedman's test in {budget}: p {number(first['friedman_p'], 2)}; critical difference "
            f"(Nemenyi, 5 %) {number(first['critical_difference'])} for {first['rows']:.0f} rows "
            f"and {first['ranked_functions']:.0f} functions."
        )
        if len(lora) == 1:
            told = part[(part["rank"] - lora.iloc[0]).abs() >= part["critical_difference"]]
            rows = ", ".join(map(row_title, told.to_dict("records")))
            far.append(f"{budget} {rows or 'none'}")
    if far:
        parts.append(f"Further than that from LoRA's rank: {'; '.join(far)}.")
    return " ".join(parts)
