"""Tuned settings: of every method the best trial by validation loss, after equally many trials.

Cells that differ in a tuned setting alone, such as the learning rate, are trials of one row. For
each budget, row and function the trial with the smallest validation loss, averaged over seeds, is
kept; the test set has no part in it. A trial with a seed that diverged or has a gap has no such
mean: it is kept only where every trial has one, and then the one with the fewest such seeds. Of
equal trials the first in the grid's order is kept. Unequal tuning is a known way to a false ranking
(arXiv 2602.04998), so methods with unequal numbers of trials are refused; trials that are the same
runs, such as ranks of a method without one, count once.

A tuned sweep (`qlexp.sweep.halving`) stops trials that are behind on validation, which are never
kept, and adds values where a row's best lies on an edge. Its grids are equal at the start, and one
rule, which the test set has no part in, extends them.

Where the size itself is tuned, each row's count is held against that of the LoRA which was kept on
the same function, since that is what its loss stands beside.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.benchmark import benchmark_of
from analysis.legend import OFF_BUDGET
from analysis.load import finished
from analysis.names import FROZEN, function_title, row_label
from analysis.settings import joined, order, swept, text_of, without
from analysis.stats.pairs import BASELINE, partner_of
from analysis.table import with_columns
from qlexp.config.settings import is_shared
from qlexp.errors import UsageError, unknown_name
from qlexp.store.files import STOPPED

EDGE = "¶"
_ROW = ["budget", "method", "overrides", "function"]  # of which the best trial is kept
_Key = tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """What was kept of a row's trials on one function."""

    budget: str
    label: str
    function: str
    trial: dict[str, str]
    trials: int
    added: int  # of them, values beyond the grid that all methods start from
    edges: tuple[str, ...]  # settings whose value is the smallest or the largest of the grid


@dataclass(frozen=True)
class Cost:
    """What the runs of a study took and would have taken, in updates of one run."""

    stopped: int  # runs that were not trained to their end
    spent: int
    in_full: int  # of all runs, each trained to its end
    in_grid: int  # the same without the values that were added to the grid

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "Cost | None":
        """None where no run of `frame` was stopped."""
        if STOPPED not in set(frame["status"]):
            return None
        runs = frame.drop_duplicates("run_id")
        planned = runs["planned_steps"].fillna(runs["steps"])
        stopped = int((runs["status"] == STOPPED).sum())
        sums = runs["steps"].sum(), planned.sum(), planned[_added(runs) == 0].sum()
        return cls(stopped, *map(int, sums))

    def notes(self) -> list[str]:
        return [
            f"Stopped on their way, behind on validation: {self.stopped:,} runs, of which no loss "
            f"is shown. All runs together took {self.spent:,} updates; trained to their ends they "
            f"take {self.in_full:,}, and those of the grid that every method starts from "
            f"{self.in_grid:,}."
        ]


def _added(frame: pd.DataFrame) -> pd.Series:
    """Which step beyond the starting grid each cell is; 0: it is in it."""
    return frame.get("extension", pd.Series(0, frame.index)).fillna(0)


@dataclass(frozen=True)
class Tuning:
    """The choices of a study; none where nothing was tuned."""

    cost: Cost | None = None
    grid: dict[str, list[str]] = field(default_factory=dict)  # by setting, as it was at the start
    choices: list[Choice] = field(default_factory=list)
    sized: tuple[str, ...] = ()  # budgets in which the size is among what was tuned

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
        cost = self.cost.notes() if self.cost else []
        tuned = [choice for choice in self.choices if choice.trials > 1]
        if not tuned:
            return cost
        listed = "; ".join(f"{key} in {', '.join(values)}" for key, values in self.grid.items())
        notes = [
            f"Tuned: {tuned[0].trials - tuned[0].added} trials for every method ({listed}); of "
            "each method and function the trial with the smallest validation loss, averaged over "
            "seeds, is shown. Nothing was chosen on the test set.",
            *cost,
            f"Kept: {'; '.join(_kept(tuned))}.",
        ]
        if extended := [choice for choice in tuned if choice.added]:
            cells = (f"{_place(choice)} {choice.added}" for choice in extended)
            notes.insert(
                -1,
                "Where the best lay on an edge of the grid the next value was tried too, for every "
                f"method by one rule: {'; '.join(dict.fromkeys(cells))}.",
            )
        edges = [choice for choice in tuned if choice.edges]
        if edges:
            cells = (_place(choice) for choice in edges)
            notes.append(
                f"{EDGE} The best trial lies on the edge of the grid, so a wider one may find a "
                f"better: {'; '.join(dict.fromkeys(cells))}."
            )
        if self.sized:
            notes.append(
                f"Sizes were tuned in {', '.join(self.sized)}: there {OFF_BUDGET} holds a row "
                "against the LoRA kept on the same function."
            )
        return notes


UNTUNED = Tuning()


def _place(choice: Choice) -> str:
    return f"{choice.label} on {function_title(choice.function)}"


def _kept(choices: Sequence[Choice]) -> list[str]:
    rows: dict[tuple[str, str], list[str]] = {}
    for choice in choices:
        values = ", ".join(choice.trial.values())
        text = f"{function_title(choice.function)} {values}"
        rows.setdefault((choice.label, choice.budget), []).append(text)
    return [f"{label} ({budget}) {', '.join(texts)}" for (label, budget), texts in rows.items()]


def tune(
    frame: pd.DataFrame, settings: Collection[str] | None = None
) -> tuple[pd.DataFrame, Tuning]:
    """The table of the kept trials, their tuned settings taken out of what a row is called, and the
    choice.

    Args:
        settings: those whose values are trials; none: the frame comes back as it is, without the
            runs that were stopped. None: the learning rate, where the study sweeps it.

    Raises:
        UsageError: a setting is not swept, or all methods share it, or methods have unequal numbers
            of trials. The frozen backbone, which trains nothing, needs none.
    """
    cost = Cost.of(frame)
    grid = _grid(frame, settings)
    if not grid:
        return (frame[frame["status"] != STOPPED], Tuning(cost)) if cost else (frame, UNTUNED)
    begun = _grid(frame[_added(frame) == 0], settings)
    rest = [without(own, grid) for own in frame["settings"]]
    trials = [{key: own[key] for key in grid if key in own} for own in frame["settings"]]
    named = [joined(own) for own in trials]
    meant = dict(zip(named, trials, strict=True))
    ranked = sorted(meant, key=lambda name: _rank(meant[name]))
    frame = frame.assign(
        settings=rest,
        overrides=[joined(own) for own in rest],
        trial=pd.Categorical(named, ranked, ordered=True),
    )
    parts = list(frame.groupby(_ROW, sort=False))
    _require_equal_numbers(parts)
    best = {key: _best(cells) for key, cells in parts}
    kept = [cells.index[cells["trial"] == best[key]] for key, cells in parts]
    sized = dict.fromkeys(
        key[0] for key, cells in parts if cells["reference_parameters"].nunique() > 1
    )
    tuned = frame.loc[sorted(np.concatenate(kept))].drop(columns="trial")
    tuned = with_columns(_beside_lora(tuned, sized))
    labels = {
        (cell.budget, cell.method, cell.overrides): row_label(cell.method, cell.variant)
        for cell in tuned.itertuples()
    }
    choices = [
        Choice(
            key[0],
            labels[key[:3]],
            key[3],
            {name: text_of(value) for name, value in meant[best[key]].items()},
            _different(cells),
            _different(cells[_added(cells) > 0]),
            tuple(_edges(meant[best[key]], [meant[trial] for trial in cells["trial"].unique()])),
        )
        for key, cells in parts
    ]
    return tuned, Tuning(cost, begun, choices, tuple(sized))


def _rank(trial: Mapping[str, Any]) -> list[tuple[bool, float, str]]:
    """The place of a trial in the grid's order."""
    return [order(text_of(value)) for value in trial.values()]


def _grid(frame: pd.DataFrame, settings: Collection[str] | None) -> dict[str, list[str]]:
    """The swept settings that are trials, with their values; `settings` as `tune` takes them."""
    axes = swept(frame)
    if settings is None:
        rate = benchmark_of(frame).learning_rate
        return {key: values for key, values in axes.items() if key == rate}
    choices = [key for key in axes if not is_shared(key)]
    for name in settings:
        if is_shared(name):
            raise UsageError(
                f"'{name}' is no trial, since all methods share it, and another value is another "
                "comparison: leave it out of --tune."
            )
        if not choices:
            raise UsageError(f"The study sweeps nothing to tune: leave '{name}' out of --tune.")
        if name not in choices:
            raise unknown_name("swept setting", name, choices)
    return {key: values for key, values in axes.items() if key in settings}


def _beside_lora(kept: pd.DataFrame, budgets: Collection[str]) -> pd.DataFrame:
    """`kept` with the count of LoRA's kept trial for reference, in the blocks of `budgets`.

    It is LoRA's of the same function and other overrides, or its only one on the function; a cell
    without either, or without a reference, stays as it is.
    """
    counts: dict[_Key, dict[str, float]] = {}
    lora = kept[(kept["method"] == BASELINE) & kept["budget"].isin(budgets)]
    for cell in lora.dropna(subset="trainable_parameters").itertuples():
        own = counts.setdefault((cell.budget, cell.function), {})
        own[cell.overrides] = cell.trainable_parameters
    names = ("budget", "function", "overrides", "reference_parameters")
    references = [
        _reference(counts.get((budget, function), {}), overrides, old)
        for budget, function, overrides, old in zip(*(kept[n] for n in names), strict=True)
    ]
    return kept.assign(reference_parameters=references)


def _reference(counts: Mapping[str, float], overrides: str, old: float) -> float:
    """The count of the LoRA to stand beside, from those on one function by their overrides."""
    partner = partner_of(overrides, counts)
    return old if partner is None or math.isnan(old) else counts[partner]


def _require_equal_numbers(parts: Sequence[tuple[_Key, pd.DataFrame]]) -> None:
    counts: dict[int, list[str]] = {}
    for (budget, method, overrides, function), cells in parts:
        if method != FROZEN:
            place = f"{row_label(method, overrides)} on {function} ({budget})"
            counts.setdefault(_different(cells[_added(cells) == 0]), []).append(place)
    if len(counts) > 1:
        found = "; ".join(f"{n} for {places[0]}" for n, places in sorted(counts.items()))
        raise UsageError(
            f"The numbers of trials differ, the same runs counted once: {found}. Give every method "
            "equally many, or pass --tune with no setting to print all trials."
        )


def _different(cells: pd.DataFrame) -> int:
    """How many of a row's trials on one function are different runs."""
    return len({frozenset(runs) for _, runs in cells.groupby("trial", observed=True)["run_id"]})


def trial_losses(cells: pd.DataFrame) -> pd.DataFrame:
    """By trial of one row and function, in the grid's order: the mean validation loss of the seeds
    that are finite, and how many of the row's seeds are not."""
    seeds = cells["seed"].nunique()
    rows = {}
    for trial in cells["trial"].sort_values().unique():
        done = finished(cells[cells["trial"] == trial])["validation_loss"]
        finite = done[np.isfinite(done)]
        rows[trial] = {"loss": finite.mean(), "not_finite": seeds - len(finite)}
    return pd.DataFrame.from_dict(rows, orient="index")


def _best(cells: pd.DataFrame) -> str:
    behind = cells.loc[cells["status"] == STOPPED, "trial"]
    losses = trial_losses(cells[~cells["trial"].isin(behind)])
    return str(losses.sort_values(["not_finite", "loss"], kind="stable").index[0])


def _edges(kept: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The settings whose value in `kept` is the smallest or the largest number of `trials`."""
    for name, value in kept.items():
        numbers = {own[name] for own in trials if _is_number(own.get(name))}
        if len(numbers) > 1 and value in (min(numbers), max(numbers)):
            yield name


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
