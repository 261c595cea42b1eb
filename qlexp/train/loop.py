"""One loop for a batch of lanes; it knows no Hydra and no W&B.

The lanes of a batch have the same shapes and method, and each its own data, seed, weights, learning
rate and order of samples. They train in lockstep and never influence each other: gradient clipping,
optimiser moments and divergence are per lane. A lane whose loss or gradient is not finite stops
there: its gradient and its learning rate are zero from then on, and its neighbours do not notice.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from qlexp.adapters.base import Adapter
from qlexp.config.schedule import batches_per_epoch, schedule_factor
from qlexp.config.schema import StageConfig
from qlexp.model.backbone import layer_of
from qlexp.model.evaluate import Samples
from qlexp.train.checkpoint import Checkpoint, Relay

Measured = tuple[int, dict[str, Tensor]]
LossFunction = Callable[[nn.Module, Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Curves:
    """What a batch of lanes recorded, R rows of L lanes.

    Attributes:
        steps: how many updates were done before each row.
        loss: training loss on the row's batch, penalties included, (R, L).
        learning_rate: (R, L).
        gradient_norms: by layer of the network, before clipping, (R, L) each.
        alive: (L,) of bool, False for a lane that met a value that is not finite.
        path: losses along the way, (L,) each by name, with the updates done by then.
    """

    steps: list[int]
    loss: Tensor
    learning_rate: Tensor
    gradient_norms: dict[str, Tensor]
    alive: Tensor
    path: list[Measured] = field(default_factory=list)


def lane_losses(
    model: nn.Module, x: Tensor, y: Tensor, instruction: Tensor | None = None
) -> Tensor:
    """Mean square error of each lane and what its method penalises, (L,)."""
    if not isinstance(model, Adapter):
        return (model(x) - y).square().mean(1)
    prediction, context = model.run(x, instruction)
    error = (prediction - y).square().mean(1)
    return error if context.penalty is None else error + context.penalty


def train(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    samples: Samples,
    stage: StageConfig,
    optimizer: Optimizer,
    learning_rate: Tensor,
    order_seeds: Sequence[int],
    record_every: int,
    losses: LossFunction = lane_losses,
    checkpoint: Checkpoint | None = None,
    advance: Callable[[int], object] = lambda updates: None,
    measure: Callable[[], dict[str, Tensor]] | None = None,
    until: int | None = None,
) -> Curves:
    """Trains `parameters` (L, ...) of `model` for `stage.epochs` and returns what was recorded.

    Args:
        optimizer: steps all lanes at once; its `lr` is set to a tensor (L,) before every update.
        learning_rate: the peak of each lane, (L,).
        order_seeds: one a lane, for the order of its minibatches.
        record_every: updates between two rows of the curves; the last update has a row too.
        losses: each lane's loss from (model, x, y, instruction); a compiled one is welcome.
        checkpoint: where to go on from, and where to save to.
        advance: called with the number of updates just done.
        measure: the losses of every lane by name, asked for after the `moments` of the way. Those
            of a lane that is not alive are infinite.
        until: after how many updates to pause. With a `Relay` for `checkpoint` each lane can go on
            from there, in whatever batch, as if it had not paused.
    """
    batches = batches_per_epoch(samples.x.shape[1], stage.batch_size)
    steps = stage.epochs * batches
    measured_at = moments(steps) if measure is not None else ()
    tensors = list(parameters.values())
    state = _State(torch.ones_like(learning_rate, dtype=torch.bool))
    if checkpoint is not None and (saved := checkpoint.load(learning_rate.device)) is not None:
        state = _restore(saved, tensors, optimizer)
        advance(state.step)
    order = _minibatches(samples, stage.epochs, batches, order_seeds)
    for step, batch in islice(enumerate(order), state.step, until):
        lr = learning_rate * schedule_factor(stage, step, steps)
        loss, norms, state.alive = update_lanes(
            model, tensors, batch, lr, state.alive, stage.clip, optimizer, losses
        )
        if step % record_every == 0 or step == steps - 1:
            state.rows.append((step, loss.detach().clone(), lr, norms.mT))
        state.step = step + 1
        if measure is not None and state.step in measured_at:
            still = state.alive.cpu()
            losses_now = {name: torch.where(still, v, math.inf) for name, v in measure().items()}
            state.path.append((state.step, losses_now))
        if checkpoint is not None:
            checkpoint.save_if_due(lambda: _saved(state, tensors, optimizer))
        advance(1)
    if isinstance(checkpoint, Relay):
        checkpoint.end(_saved(state, tensors, optimizer))
    return replace(_curves(state.rows, list(parameters), state.alive), path=state.path)


def moments(updates: int) -> list[int]:
    """After how many of `updates` a training is looked at on its way: 1/64, 1/32, ..., 1/2."""
    return sorted({updates >> power for power in range(1, 7)} - {0})


def update_lanes(
    model: nn.Module,
    tensors: Sequence[Tensor],
    batch: Samples,
    learning_rate: Tensor,
    alive: Tensor,
    clip: float | None,
    optimizer: Optimizer,
    losses: LossFunction = lane_losses,
) -> tuple[Tensor, Tensor, Tensor]:
    """One update of every lane that is alive; nothing is read back to the host.

    Returns:
        The losses (L,), the gradient norms by tensor and lane (tensors, L), and which lanes are
        alive now (L,).
    """
    loss = losses(model, batch.x, batch.y, batch.instruction)
    gradients = torch.autograd.grad(loss.sum(), tensors)
    norms = torch.stack([torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1) for g in gradients])
    norm = torch.linalg.vector_norm(norms, dim=0)
    alive = alive & loss.isfinite() & norm.isfinite()
    factor = alive if clip is None else alive * (clip / norm).clamp(max=1.0)
    lanes = {
        axes: (alive.view(-1, *[1] * (axes - 1)), factor.view(-1, *[1] * (axes - 1)))
        for axes in {gradient.ndim for gradient in gradients}
    }
    for tensor, gradient in zip(tensors, gradients, strict=True):
        kept, scale = lanes[gradient.ndim]  # 0 in a lane that is not alive, whatever its gradient
        tensor.grad = torch.where(kept, gradient * scale, 0.0)
    optimizer.param_groups[0]["lr"] = torch.where(alive, learning_rate, 0.0)
    optimizer.step()
    return loss, norms, alive


@dataclass
class _State:
    """How far a batch is: updates done, lanes alive, rows recorded (step, loss, rate, norms), and
    what was measured on the way. Every tensor in it has a leading axis of lanes."""

    alive: Tensor
    step: int = 0
    rows: list[tuple[int, Tensor, Tensor, Tensor]] = field(default_factory=list)
    path: list[Measured] = field(default_factory=list)


def _saved(state: _State, tensors: Sequence[Tensor], optimizer: Optimizer) -> dict[str, Any]:
    return {
        **vars(state),
        "tensors": [tensor.detach() for tensor in tensors],
        "optimizer": optimizer.state_dict(),
    }


def _restore(saved: dict[str, Any], tensors: Sequence[Tensor], optimizer: Optimizer) -> _State:
    for tensor, value in zip(tensors, saved["tensors"], strict=True):
        tensor.data.copy_(value)
    optimizer.load_state_dict(saved["optimizer"])
    return _State(saved["alive"], saved["step"], saved["rows"], saved["path"])


def _minibatches(
    samples: Samples, epochs: int, batches: int, seeds: Sequence[int]
) -> Iterator[Samples]:
    """The batches of every epoch, each lane's in an order of its own."""
    lanes, n = samples.y.shape
    if batches == 1:
        for _ in range(epochs):
            yield samples
        return
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    size = n // batches
    lane = torch.arange(lanes, device=samples.y.device).unsqueeze(1)
    for _ in range(epochs):
        order = torch.stack([torch.randperm(n, generator=g) for g in generators])
        order = order.to(samples.y.device, non_blocking=True)
        for batch in range(batches):
            chosen = order[:, batch * size : (batch + 1) * size]
            instruction = samples.instruction
            yield Samples(
                samples.x[lane, chosen],
                samples.y[lane, chosen],
                None if instruction is None else instruction[lane, chosen],
            )


def _curves(
    rows: list[tuple[int, Tensor, Tensor, Tensor]], names: list[str], alive: Tensor
) -> Curves:
    if not rows:
        empty = torch.empty(0, len(alive))
        return Curves([], empty, empty, {}, alive.cpu())
    steps, loss, lr, norms = zip(*rows, strict=True)
    square = torch.stack(norms).square().mT.cpu()  # (R, tensors, L)
    members: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        members.setdefault(layer_of(name), []).append(index)
    return Curves(
        steps=list(steps),
        loss=torch.stack(loss).cpu(),
        learning_rate=torch.stack(lr).cpu(),
        gradient_norms={
            layer: square[:, indices].sum(1).sqrt() for layer, indices in members.items()
        },
        alive=alive.cpu(),
    )
