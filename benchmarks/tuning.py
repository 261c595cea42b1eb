"""What stopping trials early saves, and whether it keeps the trials that the whole grid keeps.

    python -m benchmarks.tuning [--store STORE] [--study tuned] [--out results/benchmarks]

Without a store the study's grid is run in small (a tiny network, two functions, two seeds), once
whole and once tuned, and the updates of all runs are counted. With one, which holds the whole grid
(hydra.sweeper.tuning.setting=null), nothing is trained: the decisions are replayed from what every
run measured on its way.
"""

import argparse
import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.load import load_study, require_complete
from analysis.names import function_title, row_label
from analysis.render import Grid
from analysis.settings import joined, text_of, without
from analysis.view import Shown
from benchmarks.planning import sweep
from benchmarks.report import grid, publish, section
from qlexp.config.schedule import updates
from qlexp.errors import UsageError
from qlexp.store.files import STOPPED
from qlexp.store.store import Store
from qlexp.sweep.backends import Backend
from qlexp.sweep.execute import execute
from qlexp.sweep.halving import Tuning, beyond, replay, validation_at
from qlexp.sweep.jobs import name_cells
from qlexp.sweep.tuned import run_tuned

SMALL = (
    *("function=drop_wave,matyas", "method=lora,queryable,full", "seed=0,1"),
    *("backbone.depth=2", "backbone.width=8", "backbone.heads=2", "backbone.frequencies=4"),
    *("trainer=smoke", "trainer.adapt.epochs=64", "trainer.adapt.batch_size=32"),
    *("data.pretrain=128", "data.adapt=64", "data.validation=64", "data.test=64"),
    *("budget.enforce=false", "device=cpu", "tracking=none"),
)
OTHERS = (((8, 4, 2), 0.5), ((8, 4), 0.4), ((4, 2), 0.4), ((16, 4), 0.4), ((4,), 0.2), ((2,), 0.2))


@dataclass(frozen=True)
class Row:
    """The summaries of a row's trials on one function, by the tuned value, one a seed."""

    name: str
    trials: Mapping[float, Sequence[Mapping[str, Any]]]

    def losses(self, value: float, rung: int) -> list[float] | None:
        found = [validation_at(summary, rung) for summary in self.trials[value]]
        return None if None in found else found  # type: ignore[return-value]

    def mean(self, value: float) -> float:
        """The validation loss at the end; infinite with a seed that diverged."""
        return statistics.fmean(self.losses(value, 1) or [math.inf])

    def at_edge(self) -> float | None:
        """The best value, where it is the smallest or the largest."""
        best = replay(sorted(self.trials), [(1, 1)], self.losses)[0]
        return best if beyond(list(self.trials), best) is not None else None


@dataclass(frozen=True)
class Outcome:
    """What a way of stopping trials would have come to in a row, beside its whole grid.

    Attributes:
        spent: updates of all runs; `whole`: of the whole grid.
        ratio: validation loss of the trial that is kept over that of the grid's best.
        text: both trials in words.
    """

    spent: int
    whole: int
    ratio: float
    text: str

    @classmethod
    def of(cls, row: Row, way: Tuning) -> "Outcome":
        values = sorted(row.trials)
        kept, reached = replay(values, way.ladder(len(values)), row.losses)
        best, _ = replay(values, [(1, 1)], row.losses)
        steps = {value: sum(s["steps"] for s in own) for value, own in row.trials.items()}
        ratio = 1.0 if kept == best else row.mean(kept) / row.mean(best)
        return cls(
            sum(steps[value] // rung for value, rung in reached.items()),
            sum(steps.values()),
            ratio,
            f"{row.name} {text_of(kept)} for {text_of(best)} ({ratio:.3f})",
        )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", help="holds the whole grid; none: a small one is run")
    parser.add_argument("--study", default="tuned", help="whose grid it is (%(default)s)")
    parser.add_argument("--out", type=Path, help="folder to write the figures to")
    options = parser.parse_args()
    composer, jobs = sweep(f"experiment={options.study}", *(() if options.store else SMALL))
    tuning = Tuning(**composer.master.hydra.sweeper.tuning)
    if tuning.setting is None:
        raise UsageError(f"The study {options.study} tunes nothing.")
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        place = options.store
        if place is None:
            place = f"{folder}/whole"
            planned = [composer.job([*words, f"store={place}"]) for words in jobs]
            name_cells(planned)
            execute([job.config for job in planned])
            notes.append(trained(composer, jobs, tuning, f"{folder}/tuned"))
        rows = list(rows_in(Store(place, writable=False), options.study, tuning.setting))
    publish(Shown(grids={"tuning": [replayed(rows, tuning, notes)]}), options.out)


def trained(composer: Any, jobs: Sequence[Sequence[str]], tuning: Tuning, place: str) -> str:
    """A tuned sweep in words: what its runs took in updates, over what they take in full."""
    planned = [composer.job([*words, f"store={place}"]) for words in jobs]
    every, summaries = run_tuned(planned, tuning, composer.job, None, Backend())
    whole = sum(updates(job.config, "adapt") for job in planned)
    spent = sum(summary["steps"] for summary in summaries)
    return (
        f"Trained, the tuned sweep took {spent:,} updates of all runs, those of "
        f"{len(every) - len(planned)} runs beyond the grid included; the whole grid takes "
        f"{whole:,}: {whole / spent:.2f} times as many."
    )


def rows_in(store: Store, study: str, setting: str) -> Iterator[Row]:
    """The rows of a study that have several values of `setting`, as the grid began.

    Raises:
        UsageError: a run of them is not finished.
    """
    cells = load_study(store, study)
    cells["row"] = [joined(without(own, [setting])) for own in cells["settings"]]
    cells["value"] = [own.get(setting) for own in cells["settings"]]
    begun = cells.get("extension", pd.Series(0, cells.index)).fillna(0) == 0
    names = ["budget", "method", "row", "function"]
    for (_, method, row, function), part in cells[begun].groupby(names, sort=False):
        if part["value"].nunique() < 2:
            continue
        require_complete(part, study)
        if (part["status"] == STOPPED).any():
            raise UsageError(
                f"Study '{study}' holds trials that were stopped: run the whole grid, with "
                "hydra.sweeper.tuning.setting=null."
            )
        trials = {
            value: [store.summary(run) or {} for run in own["run_id"]]
            for value, own in part.groupby("value")
        }
        yield Row(f"{row_label(method, row)} on {function_title(function)}", trials)


def replayed(rows: Sequence[Row], tuning: Tuning, notes: Sequence[str]) -> Grid:
    """Each way of stopping trials: what it saves, and how often it keeps another trial."""
    ways = [tuning, *(replace(tuning, rungs=list(r), keep=k) for r, k in OTHERS)]
    found = [[Outcome.of(row, way) for row in rows] for way in ways]
    other = [outcome.text for outcome in found[0] if outcome.ratio != 1]
    edges = [f"{row.name} {text_of(best)}" for row in rows if (best := row.at_edge()) is not None]
    notes = [
        *notes,
        "Replayed: what each way would have trained, over the whole grid, and of all methods and "
        "functions how many keep the trial that the whole grid keeps; where another, how many "
        "times its validation loss, as a mean over all and at worst.",
        f"Another trial is kept by the study's own way: {'; '.join(other) or 'nowhere'}.",
        f"The best trial lies on the grid's edge: {'; '.join(edges) or 'nowhere'}.",
    ]
    lines = [line(way, own) for way, own in zip(ways, found, strict=True)]
    headers = ["way", "updates", "times fewer", "same trial", "loss, mean", "loss, worst"]
    return grid("tuning", "Tuning that stops early", headers, section("", lines), notes=notes)


def line(way: Tuning, outcomes: Sequence[Outcome]) -> list[str]:
    spent, whole = sum(o.spent for o in outcomes), sum(o.whole for o in outcomes)
    ratios = [outcome.ratio for outcome in outcomes]
    return [
        f"at 1/{', 1/'.join(map(str, way.rungs))} keep {way.keep:g}",
        f"{spent:,} of {whole:,}",
        f"{whole / spent:.2f}",
        f"{ratios.count(1.0)} of {len(ratios)}",
        f"{statistics.fmean(ratios):.3f}",
        f"{max(ratios):.3f}",
    ]


if __name__ == "__main__":
    main()
