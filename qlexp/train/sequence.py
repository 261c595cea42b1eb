"""Continual learning: one adapter goes through its targets in sequence, with no reset.

Source: arXiv 2605.08423, appendix C. What the paper leaves open: each task has `data.adapt` samples
and `trainer.adapt.epochs` of its own, and begins with fresh optimiser moments and a fresh schedule,
as for a user who adapts again later. Only the adapter's weights go on, so the first task is the
ordinary run of its target.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from qlexp.adapters.base import Adapter
from qlexp.adapters.routed import RoutedAdapter
from qlexp.model.evaluate import Samples, mean_square_error, predict
from qlexp.train.checkpoint import Checkpoint, Part
from qlexp.train.loop import Curves

TrainTask = Callable[[Samples, Checkpoint, Tensor | None], Curves]


@dataclass
class History:
    """What the tasks done so far have left, on the CPU; T tasks, L lanes.

    Attributes:
        curves: of each task, as the fields of `Curves`.
        losses: test loss of every task after 0, 1, ... tasks, (L, T) each.
        held_out: validation loss of each task when it had just been learnt, (L,) each.
        learnt: routes of each task's test inputs when it had just been learnt, (L, n, N_b, K), or
            one per token.
        drift: how far the routes of every task learnt have moved since, after 1, 2, ... tasks,
            (L, 1), (L, 2), ...: total variation, mean over inputs and blocks.
        usage: mean weight of each atom over the test inputs of every task, now, (L, T, N_b, K).
    """

    curves: list[dict[str, Any]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    held_out: list[Tensor] = field(default_factory=list)
    learnt: list[Tensor] = field(default_factory=list)
    drift: list[Tensor] = field(default_factory=list)
    usage: Tensor | None = None

    @property
    def alive(self) -> Tensor | None:
        """Lanes that have met no value that is not finite, (L,); None before the first task."""
        return torch.stack([c["alive"] for c in self.curves]).all(0) if self.curves else None

    @property
    def updates(self) -> int:
        return sum(curves["steps"][-1] + 1 for curves in self.curves if curves["steps"])

    @property
    def learnt_loss(self) -> Tensor:
        """Mean over tasks of `held_out`, (L,)."""
        return torch.stack(self.held_out).mean(0)

    def note(self, curves: Curves) -> None:
        """Adds the curves of the task that has just been learnt."""
        self.curves.append(vars(curves))

    def measure(self, adapter: Adapter, tests: Sequence[Samples]) -> None:
        """Adds where `adapter` stands on the test samples of every task."""
        losses = [mean_square_error(adapter, samples) for samples in tests]
        self.losses.append(torch.stack(losses, dim=1))
        if not isinstance(adapter, RoutedAdapter) or not self.curves:
            return
        now = [predict(adapter.routes, test.x, test.instruction).cpu() for test in tests]
        self.usage = torch.stack([weights.flatten(1, -3).mean(1) for weights in now], dim=1)
        self.learnt.append(now[len(self.learnt)])
        pairs = zip(self.learnt, now, strict=False)  # later tasks are not learnt yet
        self.drift.append(torch.stack([total_variation(a, b) for a, b in pairs], dim=1))

    def joined_curves(self) -> Curves:
        """The curves of all tasks, their updates counted on."""
        parts, steps, done = [Curves(**curves) for curves in self.curves], [], 0
        for part in parts:
            steps += [done + step for step in part.steps]
            done += part.steps[-1] + 1 if part.steps else 0
        return Curves(
            steps,
            torch.cat([part.loss for part in parts]),
            torch.cat([part.learning_rate for part in parts]),
            {
                layer: torch.cat([part.gradient_norms[layer] for part in parts])
                for layer in parts[0].gradient_norms
            },
            torch.stack([part.alive for part in parts]).all(0),
        )

    def summary(self, lane: int) -> dict[str, Any]:
        """One lane's numbers as lists, None where there are none: no sequence, no routes.

        `task_losses[j][i]`: of task i after j tasks. `route_drift[j][i]`, i <= j: of task i after
        j + 1 tasks. `atom_usage[i][b][m]`: of atom m in block b on task i, after all tasks.
        """
        return {
            "task_losses": [row[lane].tolist() for row in self.losses] or None,
            "route_drift": [row[lane].tolist() for row in self.drift] or None,
            "atom_usage": None if self.usage is None else self.usage[lane].tolist(),
        }


def total_variation(one: Tensor, other: Tensor) -> Tensor:
    """0.5 |w - w'|_1 of routes (L, n, ..., K), mean over all inputs and blocks: (L,), in [0, 1]."""
    return 0.5 * (one.double() - other.double()).abs().sum(-1).flatten(1).mean(1)


def adapt_in_sequence(
    adapter: Adapter,
    tasks: Sequence[Samples],
    validations: Sequence[Samples],
    tests: Sequence[Samples],
    train_task: TrainTask,
    checkpoint: Checkpoint,
    advance: Callable[[int], object],
) -> History:
    """Trains `adapter` on `tasks` one after the other, and measures it on all `tests` in between,
    and on the validation samples of the task just learnt.

    Args:
        train_task: trains on samples, from and to a checkpoint, the lanes that are alive.
        checkpoint: of the whole sequence.
        advance: called with the updates of the tasks that a checkpoint has done already.
    """
    history = History()
    saved = checkpoint.load(torch.device("cpu"))
    if saved is None:
        history.measure(adapter, tests)
    else:
        history = History(**saved["past"])
        advance(history.updates)
    for number in range(len(history.curves), len(tasks)):
        part = Part(checkpoint, number, vars(history))
        history.note(train_task(tasks[number], part, history.alive))
        history.held_out.append(mean_square_error(adapter, validations[number]))
        history.measure(adapter, tests)
    return history
