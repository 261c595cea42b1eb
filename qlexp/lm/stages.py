"""An adapter goes through the tasks of a run: all mixed, or one after another with no reset.

In sequence (arXiv 2605.08423, appendix C) each task has `trainer.steps` of its own and begins with
fresh optimiser moments and a fresh schedule; only the adapter's weights go on.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from qlexp.lm.data import Data
from qlexp.lm.evaluate import right_answers
from qlexp.lm.exam import answered, joined, mean, shares
from qlexp.lm.routes import drift, mean_routes
from qlexp.lm.schema import LmConfig
from qlexp.lm.tokens import Encoded
from qlexp.lm.train import Trained, train
from qlexp.problem.seeding import seed_stream
from qlexp.train.checkpoint import Checkpoint, Part

_ASKED = 64  # training samples whose accuracy is looked at


@dataclass
class History:
    """What the trainings so far have left.

    Attributes:
        trained: each of them, as the fields of `Trained` without its state.
        accuracies: of every task after 1, 2, ... tasks in sequence.
        learnt: the routes of a task's questions when it had just been learnt.
        drift: after 1, 2, ... tasks, how far the routes of each task learnt have moved since.
    """

    trained: list[dict[str, Any]] = field(default_factory=list)
    accuracies: list[list[float]] = field(default_factory=list)
    learnt: list[Tensor] = field(default_factory=list)
    drift: list[list[float]] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        return all(one["alive"] for one in self.trained)


def adapt(
    model: Any,
    config: LmConfig,
    data: Data,
    tokenizer: Any,
    checkpoint: Checkpoint,
    advance: Callable[[int], object],
) -> History:
    """Trains `model` on the tasks of `config`, from where `checkpoint` is."""
    in_sequence = config.task.order == "sequence"
    stages = [[name] for name in data.train] if in_sequence else [list(data.train)]
    saved = checkpoint.load(torch.device("cpu"))
    number = 0 if saved is None else saved["number"]
    history = History() if saved is None else History(**saved["past"])
    advance(number * config.trainer.steps)
    for index in range(number, len(stages)):
        names = stages[index]
        samples = joined({name: data.train[name] for name in names})
        asked = [one for name in names for one in data.train[name][: _ASKED // len(names)]]
        trained = train(
            model,
            samples,
            joined({name: data.validation[name] for name in names}),
            config.trainer,
            tokenizer.pad_token_id,
            seed_stream("lm order", config.seed, index),
            Part(checkpoint, index, vars(history)),
            partial(_accuracy, model, asked, tokenizer),
            advance,
        )
        _note(history, trained)
        if in_sequence:
            _look_back(history, model, data, tokenizer, index)
        if not trained.alive:
            break
    return history


def _accuracy(model: Any, samples: list[Encoded], tokenizer: Any) -> float:
    return mean(right_answers(model, samples, tokenizer))


def _note(history: History, trained: Trained) -> None:
    kept = ("step", "rows", "path", "best_step", "alive")
    history.trained = [*history.trained, {name: getattr(trained, name) for name in kept}]


def _look_back(history: History, model: Any, data: Data, tokenizer: Any, index: int) -> None:
    """What the model still can of every task, after task `index`."""
    now = shares(answered(model, data.test, tokenizer))
    history.accuracies = [*history.accuracies, list(now.values())]
    tasks = list(data.test.values())
    routes = [mean_routes(model, own, tokenizer.pad_token_id) for own in tasks[: index + 1]]
    if any(one is None for one in routes):
        return
    known = [one for one in routes if one is not None]
    history.learnt = [*history.learnt, known[-1]]
    moved = [drift(before, one) for before, one in zip(history.learnt, known, strict=True)]
    history.drift = [*history.drift, moved]
