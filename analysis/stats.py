"""Statistics of a study's adapters: `python -m analysis.stats --study quick`.

    results/<study>/stats.{md,csv,tex}            a row a method: interquartile mean, probability
                                                  of improvement, test against LoRA, average rank
    results/<study>/stats_functions.{md,csv,tex}  loss over LoRA's on each function
    results/<study>/stats_improvement.csv         P(X < Y) of each two methods
    results/<study>/stats_profiles.csv            performance profiles
    results/<study>/stats_<figure>_<budget>.svg   iqm, improvement, profiles, ranks

Of a tuned study the trials are compared that `analysis.tables` shows, by the same `--tune`.
`--loss` names another loss than the test loss; its files then begin with `stats_<loss>`. Blocks of
equal rank and of equal count are never mixed. The frozen backbone and full fine-tuning are no
adapters and not ranked among them. How an interval is made and what it covers:
`analysis.statistics.intervals`; the tests: `analysis.statistics.ranks`; what happens to runs that
diverged: `analysis.statistics.pairs`. A study with missing or failed cells is refused unless
`--allow-missing` is given; the notes then name them, and one with several conditions
(`analysis.settings`) in any case: see `analysis.ablation`. The same store gives the same bytes.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.cli import exit_code, parser, read_study, writing
from analysis.load import LOSSES
from analysis.names import (
    budget_title,
    function_order,
    function_title,
)
from analysis.notes import interval_text, number, ratio_text
from analysis.outputs import Picture, write_csv, write_pictures, write_table
from analysis.render import NO_CELL, Grid, Section, Text
from analysis.settings import require_one
from analysis.statistics.aggregates import blocks_of, by_function, improvement, iqm, profiles
from analysis.statistics.figures import (
    improvement_figure,
    iqm_figure,
    profile_figure,
    ranks_figure,
)
from analysis.statistics.notes import label_of, notes_of
from analysis.statistics.pairs import BASELINE, paired
from analysis.statistics.ranks import ALPHA, against_baseline, average_ranks, decidable
from analysis.style import figure_style
from analysis.tuning import Tuning, add_option, tune
from qlexp.errors import UsageError

DEFAULT = "test_loss"
CHOICES = [name for name in LOSSES if name != "test_loss_raw"]  # a function's scale cancels
KEY = ["budget", "method", "variant"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    command = parser("analysis.stats", "Compare the adapters of a study, with intervals.")
    command.add_argument(
        "--loss", default=DEFAULT, choices=CHOICES, help="what to compare (%(default)s)"
    )
    add_option(command)
    options = command.parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    _, frame = read_study(options)
    folder = render(frame, options.study, Path(options.out), options.loss, options.tune)
    print(f"{len(frame)} cells -> {folder}")


def render(
    frame: pd.DataFrame,
    study: str,
    out: Path,
    loss: str = DEFAULT,
    tuned: Sequence[str] | None = None,
) -> Path:
    """Writes the statistics of a loaded study to `out/study`, which is returned.

    Args:
        tuned: see `analysis.tuning.tune`, which raises more errors than these.

    Raises:
        UsageError: no adapter has a finished run on a function that can be learnt, or the study has
            several conditions.
    """
    require_one(frame, study)
    frame, tuning = tune(frame, tuned)
    cells = paired(frame, loss)
    if cells.empty:
        raise UsageError(
            f"Study '{study}' has no finished run of an adapter on a function that can be learnt: "
            "statistics want at least one."
        )
    found = compare(frame, cells, tuning, loss)
    with figure_style(), writing(out / study) as folder:
        for name, rows in found.tables.items():
            write_csv(folder / f"{name}.csv", rows)
        for grid in found.grids(study):
            write_table(folder, grid)
        write_pictures(folder, found.pictures())
    return folder


@dataclass(frozen=True)
class Comparison:
    """The adapters of a study by one loss.

    Attributes:
        summary: see `summary`.
        functions: see `analysis.statistics.aggregates.by_function`.
        chances: see `analysis.statistics.aggregates.improvement`.
        shares: see `analysis.statistics.aggregates.profiles`.
    """

    loss: str
    summary: pd.DataFrame
    functions: pd.DataFrame
    chances: pd.DataFrame
    shares: pd.DataFrame
    notes: list[str]

    @property
    def stem(self) -> str:
        """What the names of all its files begin with."""
        return "stats" if self.loss == DEFAULT else f"stats_{self.loss}"

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The long tables by name."""
        return {
            self.stem: self.summary,
            f"{self.stem}_functions": self.functions,
            f"{self.stem}_improvement": self.chances,
            f"{self.stem}_profiles": self.shares,
        }

    def grids(self, study: str) -> list[Grid]:
        title, label = f"{self.loss.replace('_', ' ')}, study {study}", f"{self.stem}_functions"
        by_function = f"Adapters by function, {title}"
        return [
            summary_grid(self.summary, f"Adapters compared by {title}", self.stem, self.notes),
            function_grid(self.summary, self.functions, by_function, label),
        ]

    def pictures(self) -> Iterator[Picture]:
        """To be drawn one by one, under `figure_style`."""
        for kind, budget, figure in _figures(self.summary, self.chances, self.shares):
            caption = f"{_CAPTIONS[kind]} {budget_title(budget)}, {self.loss.replace('_', ' ')}."
            yield Picture(f"{self.stem}_{kind}_{budget}", caption, figure)


_CAPTIONS = {
    "iqm": "Interquartile mean of the loss over the baseline's, with its 95 % interval.",
    "improvement": "Probability that a method has a lower loss than LoRA, with its 95 % interval.",
    "profiles": "Share of cells whose loss is within a factor of the cell's lowest; 95 % bands.",
    "ranks": "Average ranks over functions; a bar joins methods that are not told apart.",
}


def compare(
    frame: pd.DataFrame, cells: pd.DataFrame, tuning: Tuning, loss: str = DEFAULT
) -> Comparison:
    """The statistics of a study; `cells` are the `paired` ones of `frame`, at least one.

    Args:
        frame: and `tuning` as `analysis.tuning.tune` gives them.
    """
    chances = improvement(cells)
    table = summary(cells, chances)
    notes = [*tuning.notes(), *notes_of(frame, cells, table, loss)]
    return Comparison(loss, table, by_function(cells), chances, profiles(cells), notes)


def summary(cells: pd.DataFrame, chances: pd.DataFrame) -> pd.DataFrame:
    """One row a method of a block: the columns of `iqm`, `against_baseline`, `average_ranks`.

    `test_functions` are those of the test; `improvement`, `improvement_low` and
    `improvement_high` are P(the row has a lower loss than LoRA).
    """
    tests = against_baseline(cells).rename(columns={"functions": "test_functions"})
    ranks = average_ranks(cells).rename(columns={"functions": "ranked_functions"})
    table = iqm(cells)
    for part in (_over_baseline(chances), tests, ranks):
        if not part.empty:
            table = table.merge(part, on=KEY, how="left", validate="one_to_one")
    wanted = ("improvement", "p", "p_holm", "smallest_p", "rank", "better", "worse", "tied")
    return table.assign(**{name: math.nan for name in wanted if name not in table})


def _over_baseline(chances: pd.DataFrame) -> pd.DataFrame:
    """P(row < LoRA) by row; a block with several rows of LoRA has no single one to name."""
    if chances.empty:
        return chances
    against = chances[(chances["other"] == BASELINE) & (chances["method"] != BASELINE)]
    against = against.rename(
        columns={
            "probability": "improvement",
            "low": "improvement_low",
            "high": "improvement_high",
        }
    )
    same = against[~against.duplicated(KEY, keep=False)]
    return same[[*KEY, "improvement", "improvement_low", "improvement_high"]]


def summary_grid(table: pd.DataFrame, caption: str, label: str, notes: Sequence[str]) -> Grid:
    """Methods by statistics, a section a budget; p (Holm) stands where it can decide something."""
    headers = [
        "method",
        "diverged",
        "loss ratio (IQM)",
        "P(lower than LoRA)",
        "functions better/worse/tied",
        "p",
        "p (Holm)",
        "average rank",
    ]
    sections = [
        Section(
            budget_title(budget),
            [_summary_texts(row, decidable(part)) for row in part.to_dict("records")],
        )
        for budget, part in blocks_of(table)
    ]
    return Grid(label, caption, headers, sections, notes)


def _summary_texts(row: dict, decided: bool) -> list[Text]:
    tested = not math.isnan(row["p"])
    corrected = decided and not math.isnan(row["p_holm"])
    texts = [
        label_of(row),
        _diverged_text(row),
        "1" if _is_baseline(row) else ratio_text(row["iqm"], row["low"], row["high"]),
        interval_text(*(row.get(f"improvement{end}", math.nan) for end in ("", "_low", "_high"))),
        f"{row['better']:.0f}/{row['worse']:.0f}/{row['tied']:.0f}" if tested else NO_CELL,
        number(row["p"], 2) if tested else NO_CELL,
        number(row["p_holm"], 2) if corrected else NO_CELL,
        NO_CELL if math.isnan(row["rank"]) else f"{row['rank']:.2f}",
    ]
    significant = corrected and row["p_holm"] < ALPHA
    return [Text(text, bold=significant and i == 6) for i, text in enumerate(texts)]


def _diverged_text(row: dict) -> str:
    """`1/27`, or `1/27, 3 inf` where a run that did not diverge has an infinite loss as well."""
    more = f", {row['infinite']} inf" if row["infinite"] > row["diverged"] else ""
    return f"{row['diverged']}/{row['cells']}{more}"


def function_grid(table: pd.DataFrame, functions: pd.DataFrame, caption: str, label: str) -> Grid:
    """Methods by functions, a section a budget: the geometric mean of the loss ratio."""
    names = sorted(functions["function"].unique(), key=function_order) if len(functions) else []
    known = {
        (row["budget"], row["method"], row["variant"], row["function"]): row
        for row in functions.to_dict("records")
    }
    sections = []
    for budget, part in blocks_of(table):
        rows = []
        for row in part.to_dict("records"):
            place = (budget, row["method"], row["variant"])
            own = [known.get((*place, name)) for name in names]
            rows.append([Text(label_of(row)), *(Text(_function_text(row, cell)) for cell in own)])
        sections.append(Section(budget_title(budget), rows))
    note = (
        "Geometric mean over seeds of the loss over the baseline's (LoRA's; the frozen backbone's "
        "in a block without LoRA) on the same function and seed, with Student's 95 % interval of "
        "its logarithm; no correction for the number of cells. Below 1 is better."
    )
    return Grid(label, caption, ["method", *map(function_title, names)], sections, [note])


def _function_text(row: dict, cell: dict | None) -> str:
    if cell is None:
        return NO_CELL
    return "1" if _is_baseline(row) else ratio_text(cell["mean"], cell["low"], cell["high"])


def _is_baseline(row: dict) -> bool:
    """Whether a row is what its block is divided by: its ratio is 1 by definition."""
    return bool(row["method"] == row["baseline"])


def _figures(
    table: pd.DataFrame, chances: pd.DataFrame, shares: pd.DataFrame
) -> Iterator[tuple[str, str, Figure]]:
    """Kind, budget and figure."""
    for budget, block in blocks_of(table):
        yield "iqm", budget, iqm_figure(block)
        against = block[block["improvement"].notna()]
        if not against.empty:
            names = {"improvement": "probability"}
            own = against.drop(columns=["low", "high"]).rename(
                columns={**names, "improvement_low": "low", "improvement_high": "high"}
            )
            yield "improvement", budget, improvement_figure(own)
        if not shares.empty and budget in set(shares["budget"]):
            yield "profiles", budget, profile_figure(shares[shares["budget"] == budget])
        ranked = block[block["rank"].notna()]
        if len(ranked) > 1:
            ranked = ranked.assign(functions=ranked["ranked_functions"])
            yield "ranks", budget, ranks_figure(ranked)


if __name__ == "__main__":
    sys.exit(main())
