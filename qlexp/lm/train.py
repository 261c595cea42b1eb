"""Training of an adapter on answers: AdamW, minibatches in a seeded order, the best state kept."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qlexp.lm.evaluate import answer_losses, mean_loss
from qlexp.lm.schema import LmTrainerConfig
from qlexp.lm.tokens import Encoded, collate
from qlexp.problem.seeding import seed_stream
from qlexp.train.checkpoint import Checkpoint

Row = dict[str, float]


@dataclass
class Trained:
    """Where a training is, or what came of it.

    Attributes:
        step: updates done.
        rows: of the curves: step, loss, learning_rate, gradient_norm.<layer>.
        path: (updates, validation loss, training accuracy or NaN) at each evaluation.
        best: the state that is kept, and the updates after which it stood.
        alive: False where a loss or a gradient was not finite.
    """

    step: int = 0
    rows: list[Row] = field(default_factory=list)
    path: list[tuple[int, float, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_step: int = 0
    best_score: float = math.inf
    alive: bool = True


def train(
    model: Any,
    samples: Sequence[Encoded],
    validation: Sequence[Encoded],
    trainer: LmTrainerConfig,
    padding: int,
    seed: int,
    checkpoint: Checkpoint,
    accuracy: Callable[[], float],
    advance: Callable[[int], object] = lambda updates: None,
) -> Trained:
    """Trains what of `model` is trainable, and leaves it in the state that `trainer.keep` names.

    Args:
        seed: of the order of the samples.
        accuracy: on training samples; asked for where the best of it is kept.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=trainer.learning_rate, weight_decay=trainer.weight_decay
    )
    found = _resumed(checkpoint, parameters, optimizer, model.device)
    advance(found.step)
    looks = {
        round(trainer.steps * part / trainer.evaluations) for part in range(trainer.evaluations + 1)
    }
    order = _order(len(samples), trainer, seed)
    model.train()
    for step, chosen in enumerate(order):
        if step < found.step or not found.alive:
            continue
        for group in optimizer.param_groups:
            group["lr"] = trainer.learning_rate * factor(trainer, step)
        batch = collate([samples[i] for i in chosen], padding, model.device)
        with torch.random.fork_rng():  # dropout, the same whatever ran before and after a kill
            torch.manual_seed(seed_stream("lm dropout", seed, step))
            loss = answer_losses(model, batch).sum() / batch.asked.sum()
            loss.backward()
        norms = gradient_norms(parameters)
        norm = math.hypot(*norms.values())
        found.alive = math.isfinite(loss.item()) and math.isfinite(norm)
        if trainer.clip is not None and norm > trainer.clip:
            for parameter in parameters.values():
                if parameter.grad is not None:
                    parameter.grad *= trainer.clip / norm
        if step % trainer.record_every == 0 or step == trainer.steps - 1:
            rate = optimizer.param_groups[0]["lr"]
            named = {f"gradient_norm.{layer}": value for layer, value in norms.items()}
            found.rows.append({"step": step, "loss": loss.item(), "learning_rate": rate, **named})
        if found.alive:
            optimizer.step()
        optimizer.zero_grad()
        found.step = step + 1
        if found.step in looks and found.alive:
            _look(
                model,
                parameters,
                found,
                trainer,
                mean_loss(model.eval(), validation, padding),
                accuracy,
            )
            model.train()
        checkpoint.save_if_due(lambda: _saved(found, parameters, optimizer))
        advance(1)
    if trainer.keep != "last":
        _put(parameters, found.best)
    else:
        found.best_step = found.step
    model.eval()
    return found


def _look(
    model: Any,
    parameters: Mapping[str, nn.Parameter],
    found: Trained,
    trainer: LmTrainerConfig,
    loss: float,
    accuracy: Callable[[], float],
) -> None:
    """An evaluation on the way; keeps the state where it is the best so far."""
    by_accuracy = trainer.keep == "training_accuracy"
    share = accuracy() if by_accuracy else math.nan
    found.path.append((found.step, loss, share))
    score = -share if by_accuracy else loss
    if score < found.best_score:
        found.best = {name: p.detach().clone() for name, p in parameters.items()}
        found.best_step, found.best_score = found.step, score


def factor(trainer: LmTrainerConfig, step: int) -> float:
    """What the learning rate is multiplied by at an update: a linear rise, then constant or a
    cosine to zero."""
    rise = max(1, round(trainer.warmup * trainer.steps))
    if step < rise:
        return (step + 1) / rise
    if trainer.schedule == "constant":
        return 1.0
    return 0.5 + 0.5 * math.cos(math.pi * (step - rise) / max(1, trainer.steps - rise))


def gradient_norms(parameters: Mapping[str, nn.Parameter]) -> dict[str, float]:
    """The gradient's norm by decoder layer, `layer_k`, and of a bank."""
    squares: dict[str, list[Tensor]] = {}
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            squares.setdefault(layer_of(name), []).append(parameter.grad.float().square().sum())
    return {layer: torch.stack(own).sum().sqrt().item() for layer, own in squares.items()}


def layer_of(parameter: str) -> str:
    """Where a parameter's gradient is counted: `layer_3`, or `shared`."""
    match = re.search(r"\.layers\.(\d+)\.", parameter)
    return f"layer_{match[1]}" if match else "shared"


def _order(n: int, trainer: LmTrainerConfig, seed: int) -> Iterator[list[int]]:
    """The samples of every update: epochs, each in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    for _ in range(trainer.steps):
        while len(waiting) < trainer.batch_size:
            waiting += torch.randperm(n, generator=generator).tolist()
        chosen, waiting = waiting[: trainer.batch_size], waiting[trainer.batch_size :]
        yield chosen


def _put(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        parameters[name].data.copy_(value)


def _saved(
    found: Trained, parameters: Mapping[str, nn.Parameter], optimizer: Any
) -> dict[str, Any]:
    tensors = {name: parameter.detach() for name, parameter in parameters.items()}
    return {"found": vars(found), "tensors": tensors, "optimizer": optimizer.state_dict()}


def _resumed(
    checkpoint: Checkpoint,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> Trained:
    saved = checkpoint.load(device)
    if saved is None:
        return Trained()
    _put(parameters, saved["tensors"])
    optimizer.load_state_dict(saved["optimizer"])
    return Trained(**saved["found"])
