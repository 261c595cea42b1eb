"""Tuned settings: of every method the best trial by validation loss, after equally many trials.

Cells that differ in a tuned setting alone, such as the learning rate, are trials of one row. For
each budget, row and function the trial with the smallest validation loss, averaged over seeds, is
kept; the test set has no part in it. A trial with a seed that diverged or has a gap has no such
mean: it is kept only where every trial has one, and then the one with the fewest such seeds. Of
equal trials the first in the grid's order is kept. Unequal tuning is a known way to a false ranking
(arXiv 2602.04998), so methods with unequal numbers of trials are refused.
"""

from argparse import ArgumentParser
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.cells import variants
from analysis.load import finished
from analysis.names import FROZEN, function_title, row_label
from analysis.overrides import joined, number_in, order, settings_of, swept
from qlexp.errors import UsageError

LEARNING_RATE = "trainer.adapt.learning_rate"
EDGE = "¶"
_Key = tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """What was kept of a row's trials on one function."""

    budget: str
    label: str
    function: str
    trial: dict[str, str]
    trials: int
    edges: tuple[str, ...]  # settings whose value is the smallest or the largest of the grid


@dataclass(frozen=True)
class Tuning:
    """The choices of a study; none where nothing was tuned."""

    grid: dict[str, list[str]] = field(default_factory=dict)  # by setting
    choices: list[Choice] = field(default_factory=list)

    def at_edge(self, budget: str, label: str, function: str) -> bool:
        """Whether a cell of a table was tuned up to the edge of its grid."""
        choice = self.choice(budget, label, function)
        return choice is not None and bool(choice.edges)

    def choice(self, budget: str, label: str, function: str) -> Choice | None:
        """What stands in a cell; a reference that serves every block was chosen in one of them."""
        rows = [c for c in self.choices if (c.label, c.function) == (label, function)]
        return next((c for c in rows if c.budget == budget), rows[0] if rows else None)

    def marked(self, cells: pd.DataFrame) -> pd.DataFrame:
        """`cells` of a loss table with the trial that was kept and whether it lies on an edge."""
        if not self.choices:
            return cells
        names = ("budget", "method", "overrides", "function")
        own = [
            self.choice(budget, row_label(method, variant), function)
            for budget, method, variant, function in zip(*(cells[n] for n in names), strict=True)
        ]
        return cells.assign(
            trial=[joined(choice.trial) if choice else "" for choice in own],
            trials=[choice.trials if choice else 0 for choice in own],
            grid_edge=[choice is not None and bool(choice.edges) for choice in own],
        )

    def notes(self) -> list[str]:
        """The tuning budget, what was kept, and where the grid was too small."""
        tuned = [choice for choice in self.choices if choice.trials > 1]
        if not tuned:
            return []
        listed = "; ".join(f"{key} in {', '.join(values)}" for key, values in self.grid.items())
        notes = [
            f"Tuned: {tuned[0].trials} trials for every method ({listed}); of each method and "
            "function the trial with the smallest validation loss, averaged over seeds, is shown. "
            "Nothing was chosen on the test set.",
            f"Kept: {'; '.join(_kept(tuned))}.",
        ]
        edges = [choice for choice in tuned if choice.edges]
        if edges:
            cells = (f"{choice.label} on {function_title(choice.function)}" for choice in edges)
            notes.append(
                f"{EDGE} The best trial lies on the edge of the grid, so a wider one may find a "
                f"better: {'; '.join(dict.fromkeys(cells))}."
            )
        return notes


UNTUNED = Tuning()


def _kept(choices: Sequence[Choice]) -> list[str]:
    rows: dict[tuple[str, str], list[str]] = {}
    for choice in choices:
        values = ", ".join(choice.trial.values())
        text = f"{function_title(choice.function)} {values}"
        rows.setdefault((choice.label, choice.budget), []).append(text)
    return [f"{label} ({budget}) {', '.join(texts)}" for (label, budget), texts in rows.items()]


def add_option(command: ArgumentParser) -> None:
    """Adds `--tune`, the settings that are trials."""
    command.add_argument(
        "--tune",
        nargs="*",
        metavar="SETTING",
        default=[LEARNING_RATE],
        help="settings whose values are trials, the best one by validation loss being shown "
        f"({LEARNING_RATE}); none: every trial is a row",
    )


def tune(
    frame: pd.DataFrame, settings: Collection[str] = (LEARNING_RATE,)
) -> tuple[pd.DataFrame, Tuning]:
    """The cells of the kept trials, their tuned settings taken out of `overrides`, and the choice.

    Args:
        settings: the overrides whose values are trials. Where the study sweeps none of them, the
            frame comes back as it is.

    Raises:
        UsageError: methods have unequal numbers of trials. The frozen backbone, which trains
            nothing, needs none.
    """
    grid = {key: values for key, values in swept(frame).items() if key in settings}
    if not grid:
        return frame, UNTUNED
    parsed = frame["overrides"].map(settings_of)
    frame = frame.assign(
        overrides=[joined({k: v for k, v in own.items() if k not in grid}) for own in parsed],
        trial=[joined({k: v for k, v in own.items() if k in grid}) for own in parsed],
    )
    parts = list(frame.groupby(["budget", "method", "overrides", "function"], sort=False))
    _require_equal_numbers(parts)
    best = {key: _best(cells) for key, cells in parts}
    tuned = pd.concat([cells[cells["trial"] == best[key]] for key, cells in parts]).sort_index()
    tuned = tuned.drop(columns="trial")
    labels = {
        (cell.budget, cell.method, cell.overrides): row_label(cell.method, cell.variant)
        for cell in tuned.assign(variant=variants(tuned)).itertuples()
    }
    choices = [
        _choice(key[0], labels[key[:3]], key[3], cells["trial"].unique(), best[key])
        for key, cells in parts
    ]
    return tuned, Tuning(grid, choices)


def _require_equal_numbers(parts: Sequence[tuple[_Key, pd.DataFrame]]) -> None:
    counts: dict[int, list[str]] = {}
    for (budget, method, overrides, function), cells in parts:
        if method != FROZEN:
            place = f"{row_label(method, overrides)} on {function} ({budget})"
            counts.setdefault(cells["trial"].nunique(), []).append(place)
    if len(counts) > 1:
        found = "; ".join(f"{n} for {places[0]}" for n, places in sorted(counts.items()))
        raise UsageError(
            f"The numbers of trials differ: {found}. Give every method equally many, or pass "
            "--tune with no setting to print all trials."
        )


def trial_losses(cells: pd.DataFrame) -> pd.DataFrame:
    """By trial of one row and function, in the grid's order: the mean validation loss of the seeds
    that are finite, and how many of the row's seeds are not."""
    seeds = cells["seed"].nunique()
    rows = {}
    for trial in sorted(cells["trial"].unique(), key=_trial_order):
        done = finished(cells[cells["trial"] == trial])["validation_loss"]
        finite = done[np.isfinite(done)]
        rows[trial] = {"loss": finite.mean(), "not_finite": seeds - len(finite)}
    return pd.DataFrame.from_dict(rows, orient="index")


def _trial_order(trial: str) -> list[tuple[bool, float, str]]:
    return [order(value) for value in settings_of(trial).values()]


def _best(cells: pd.DataFrame) -> str:
    losses = trial_losses(cells)
    return str(losses.sort_values(["not_finite", "loss"], kind="stable").index[0])


def _choice(budget: str, label: str, function: str, trials: Sequence[str], best: str) -> Choice:
    parsed, chosen = [settings_of(trial) for trial in trials], settings_of(best)
    edges = []
    for name, value in chosen.items():
        found = (number_in(trial[name]) for trial in parsed if name in trial)
        numbers = {number for number in found if number is not None}
        if len(numbers) > 1 and number_in(value) in (min(numbers), max(numbers)):
            edges.append(name)
    return Choice(budget, label, function, chosen, len(trials), tuple(edges))
