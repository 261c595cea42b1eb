"""A sweep whose rows look for the best value of one setting: see `qlexp.sweep.halving`."""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qlexp.config.identity import plain, run_id
from qlexp.config.messages import unknown_key
from qlexp.config.schedule import updates
from qlexp.config.schema import Config
from qlexp.config.settings import flat, is_shared, key_of
from qlexp.errors import UsageError
from qlexp.store.files import PAUSED, STOPPED, write_folder
from qlexp.store.store import Store
from qlexp.sweep.backends import Backend
from qlexp.sweep.execute import check_places, execute, stored
from qlexp.sweep.halving import Standing, Tuning, beyond, standing, validation_at
from qlexp.sweep.jobs import Job, name_cells, print_states

log = logging.getLogger(__name__)

Compose = Callable[[Sequence[str]], Job]
Summaries = Mapping[str, Mapping[str, Any]]  # by run id


@dataclass
class Row:
    """The trials of one row on one function, by value of the tuned setting: a job a seed.

    Attributes:
        start: how many trials the starting grid has.
        extensions: how many values were tried beyond it, those that no run can have included.
    """

    trials: dict[float, list[Job]] = field(default_factory=dict)
    start: int = 0
    extensions: int = 0

    def ladder(self, tuning: Tuning) -> list[tuple[int, int]]:
        """The row's rungs; a row without a choice, or that trains nothing, has the end alone."""
        return tuning.ladder(self.start) if self.is_tuned else [(1, 1)]

    @property
    def is_tuned(self) -> bool:
        (first, *_), *_ = self.trials.values()
        return self.start > 1 and updates(first.config, "adapt") > 0

    def standing(self, tuning: Tuning, known: Summaries) -> Standing[float]:
        def losses(value: float, rung: int) -> list[float] | None:
            found = [
                validation_at(known.get(run_id(job.config), {}), rung) for job in self.trials[value]
            ]
            return None if None in found else found  # type: ignore[return-value]

        return standing(sorted(self.trials), self.ladder(tuning), losses)

    def extend(self, best: float, tuning: Tuning, compose: Compose) -> list[Job]:
        """The jobs of the next value where `best` lies on the edge, and may be extended."""
        value = beyond(list(self.trials), best)
        if not self.is_tuned or value is None or self.extensions == tuning.extend:
            return []
        self.extensions += 1
        try:
            jobs = [
                self._with(job, str(tuning.setting), value, compose) for job in self.trials[best]
            ]
        except UsageError as error:
            log.warning("the grid of %s ends at %g: %s", tuning.setting, best, error)
            self.extensions = tuning.extend
            return []
        self.trials[value] = jobs
        return jobs

    def _with(self, job: Job, setting: str, value: float, compose: Compose) -> Job:
        words = [
            f"{setting}={value:g}" if key_of(word) == setting else word for word in job.overrides
        ]
        return replace(compose(words), extension=self.extensions)


def run_tuned(
    jobs: Sequence[Job], tuning: Tuning, compose: Compose, width: int | None, backend: Backend
) -> tuple[list[Job], list[dict[str, Any]]]:
    """Runs of every trial as much as its row needs; all jobs, those of added values last, and
    their summaries.

    Args:
        compose: the job of its overrides.
        width: the most lanes in a batch; None: what fits.

    Raises:
        UsageError: the setting cannot be tuned, or a run has no such rungs; nothing was computed.
    """
    rows = checked_rows(jobs, tuning)
    check_places([job.config for job in jobs])
    name_cells(jobs)
    every, lost = list(jobs), set[str]()
    while True:
        known, due, added = _known(every, lost), defaultdict[int, list[Config]](list), list[Job]()
        for row in rows:
            now = row.standing(tuning, known)
            for job in _jobs(row, now.behind):
                _stop(job.config, known.get(run_id(job.config), {}))
            due[now.rung] += [job.config for job in _jobs(row, now.due)]
            if now.best is not None:
                added += row.extend(now.best, tuning, compose)
        if not added and not any(due.values()):
            summaries = [stored(job.config) for job in every]
            print_states(summaries)
            return every, summaries
        name_cells(added, goes_on=True)
        every += added
        for rung in sorted(due, reverse=True):
            summaries = execute(due[rung], width, backend, rung)
            lost |= {summary["run_id"] for summary in summaries if summary["status"] == "failed"}


def _jobs(row: Row, values: Iterable[float]) -> list[Job]:
    return [job for value in values for job in row.trials[value]]


def _known(jobs: Sequence[Job], lost: Collection[str]) -> Summaries:
    """What is stored of `jobs`; a run that failed in another sweep is tried again in this one."""
    found = {run_id(job.config): stored(job.config) for job in jobs}
    return {
        identity: summary
        for identity, summary in found.items()
        if summary.get("status") != "failed" or identity in lost
    }


def _stop(config: Config, summary: Mapping[str, Any]) -> None:
    """Notes that a paused trial does not go on; the state that it could go on from is given up."""
    if summary.get("status") == PAUSED:
        loss = validation_at(summary, summary["rung"])
        noted = {**summary, "status": STOPPED, "rung_validation_loss": loss}
        write_folder(Store(config.store).run_folder(run_id(config)), noted)


def rows_of(jobs: Sequence[Job], setting: str) -> list[Row]:
    """The jobs whose words differ in `setting` and the seed alone, together."""
    rows = defaultdict[tuple[str, ...], Row](Row)
    for job in jobs:
        name = tuple(word for word in job.overrides if key_of(word) not in (setting, "seed"))
        value = _settings(job).get(setting)
        rows[name].trials.setdefault(value, []).append(job)  # type: ignore[arg-type]
    for row in rows.values():
        row.start = len(row.trials)
    return list(rows.values())


def _settings(job: Job) -> dict[str, Any]:
    return flat(plain(job.config))


def checked_rows(jobs: Sequence[Job], tuning: Tuning) -> list[Row]:
    """The rows of a sweep; raises `UsageError` where `tuning` makes no sense for them."""
    name, known = str(tuning.setting), set().union(*map(_settings, jobs))
    if name not in known:
        raise unknown_key(name, known)
    if is_shared(name):
        raise UsageError(
            f"hydra.sweeper.tuning.setting={name} is shared by all methods, so that another value "
            "is another comparison and no trial: name a setting of the methods."
        )
    rows = rows_of(jobs, name)
    tuned = [row for row in rows if row.is_tuned]
    if not tuned:
        raise UsageError(f"hydra.sweeper.tuning.setting={name} is not swept: give it values.")
    for row in tuned:
        if wrong := [value for value in row.trials if not is_positive_number(value)]:
            raise UsageError(
                f"hydra.sweeper.tuning.setting={name} takes positive numbers, not {wrong[0]}."
            )
        for job in _jobs(row, row.trials):
            _check_rungs(job.config, tuning.rungs)
    return rows


def _check_rungs(config: Config, rungs: Sequence[int]) -> None:
    if config.shift.tasks > 1 and rungs:
        raise UsageError(
            "hydra.sweeper.tuning.rungs: targets in sequence are not measured on their way: leave "
            "shift.order=sequence out, or set the rungs to []."
        )
    if rungs and (count := updates(config, "adapt")) < rungs[0]:
        raise UsageError(
            f"hydra.sweeper.tuning.rungs: 1/{rungs[0]} of the {count} updates of "
            f"{config.method.name} is none: take fewer rungs, or train longer."
        )


def is_positive_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
