"""Which trials of a row go on: successive halving by validation loss, and a grid that grows.

The trials of a row differ in one setting alone. All are trained up to the first rung, a fraction of
the updates; the best of them go on to the next, and what is left of them to the end. Where the best
then has the smallest or the largest value tried, the next one beyond is tried as well, in the same
way. What comes next follows from the losses known so far and from nothing else, so that a sweep
that was stopped goes on as if it had not been.

Source: Karnin, Koren and Somekh 2013; Jamieson and Talwalkar 2016 (arXiv 1502.07943).
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from qlexp.config.checks import Checked, bounded
from qlexp.errors import UsageError
from qlexp.store.files import FINISHED

RUNGS = (64, 32, 16, 8, 4, 2)  # after 1/64, ..., 1/2 of its updates a run is measured

T = TypeVar("T")
Losses = Callable[[T, int], Sequence[float] | None]


@dataclass
class Tuning(Checked):
    """How a sweep looks for the best value of one setting.

    `setting` is the dotted name of a swept number, such as trainer.adapt.learning_rate; None: every
    cell of the sweep is trained to its end.
    """

    setting: str | None = None
    rungs: list[int] = field(default_factory=lambda: [4])  # at 1/4 of the updates
    keep: float = bounded(0.2, above=0.0, maximum=1.0)  # the share of the trials that a rung keeps
    extend: int = bounded(4, minimum=0)  # the most values that are added to a row's grid

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rungs = list(self.rungs)
        if self.rungs != [rung for rung in RUNGS if rung in self.rungs]:
            raise UsageError(
                f"rungs={self.rungs} must be some of {', '.join(map(str, RUNGS))}, in this order: "
                "8 is 1/8 of a run's updates."
            )

    def ladder(self, trials: int) -> list[tuple[int, int]]:
        """Every rung, with how many of a row's trials go on from there; rung 1, the end, keeps one.

        Args:
            trials: of the starting grid; values that are added later do not change the counts, so
                that no trial that was stopped is called back for them.
        """
        shares = [self.keep ** (n + 1) for n in range(len(self.rungs))]
        counts = [max(1, math.ceil(trials * share - 1e-9)) for share in shares]
        return [*zip(self.rungs, counts, strict=True), (1, 1)]


@dataclass(frozen=True)
class Standing(Generic[T]):
    """How far a row is.

    Attributes:
        due: the trials to be trained next, up to `rung`; none where the row has come to its end.
        behind: those that a rung has not kept.
        best: what the last rung kept.
    """

    rung: int
    due: list[T]
    behind: list[T]
    best: T | None = None


def standing(
    trials: Sequence[T], ladder: Sequence[tuple[int, int]], losses: Losses[T]
) -> Standing[T]:
    """What follows from the losses of a row's trials.

    Args:
        trials: in the order in which equal ones are preferred.
        losses: the validation losses of a trial at a rung, one a seed; None: it was not there yet.
    """
    going, behind = list(trials), list[T]()
    for rung, kept in ladder:
        found = {trial: losses(trial, rung) for trial in going}
        due = [trial for trial in going if found[trial] is None]
        if due:
            return Standing(rung, due, behind)
        going.sort(key=lambda trial: _rank(found[trial] or ()))
        going, behind = going[:kept], behind + going[kept:]
    return Standing(1, [], behind, going[0])


def replay(
    trials: Sequence[T], ladder: Sequence[tuple[int, int]], losses: Losses[T]
) -> tuple[T, dict[T, int]]:
    """The trial that a row would keep, and up to which rung it would train every one, where
    `losses` knows what each of them would come to."""
    reached: dict[T, int] = {}

    def seen(trial: T, rung: int) -> Sequence[float] | None:
        return losses(trial, rung) if reached.get(trial, math.inf) <= rung else None

    while (now := standing(trials, ladder, seen)).best is None:
        reached |= dict.fromkeys(now.due, now.rung)
    return now.best, reached


def _rank(losses: Sequence[float]) -> tuple[int, float]:
    """As the analysis ranks: fewest seeds that are not finite, then the mean of the others."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    return len(losses) - len(finite), statistics.fmean(finite) if finite else math.inf


def beyond(values: Sequence[float], best: float) -> float | None:
    """The next value where `best` is the smallest or the largest of two or more; else None.

    It is as far from `best` as that from its neighbour, as a ratio, to six digits.
    """
    ordered = sorted(values)
    neighbours = {ordered[0]: ordered[1], ordered[-1]: ordered[-2]} if len(ordered) > 1 else {}
    if best not in neighbours:
        return None
    return float(f"{best * best / neighbours[best]:.6g}")


def validation_at(summary: Mapping[str, Any], rung: int) -> float | None:
    """The validation loss of a stored run at a rung: infinite where it diverged or failed, None
    where it has not got there."""
    status = summary.get("status")
    if status in ("diverged", "failed"):
        return math.inf
    if status == "done" and (rung == 1 or summary.get("path") is None):
        loss = summary["validation_loss"]
    elif status in FINISHED or summary.get("rung", math.inf) <= rung:
        path, updates = summary["path"], summary.get("planned_steps", summary["steps"])
        loss = path["validation_loss"][path["updates"].index(updates // rung)]
    else:
        return None
    return math.inf if loss is None else loss
