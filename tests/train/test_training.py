"""The loop against plain torch loops: schedule, batches, clipping, divergence, curves."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from build import CONSTANT, F64, TINY, network, of_method, optimizer_of, points, samples, values
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qlexp.config.schedule import batches_per_epoch, schedule_factor
from qlexp.config.schema import StageConfig
from qlexp.model.backbone import Backbone, layer_of
from qlexp.model.evaluate import Samples, mean_square_error, predict
from qlexp.model.initial import Draw
from qlexp.train.loop import Curves, LossFunction, lane_losses, train

SEEDS = (3, 5, 8)
SHAPE = replace(TINY, depth=2, width=8)
LORA = of_method("lora")  # for its optimiser, AdamW


class Slope(nn.Module):
    """y = w x_1, w (L,); keeps the points of every batch it sees."""

    def __init__(self, lanes: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(lanes, dtype=F64))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.w[:, None] * x[..., 0]


class Recorder(torch.optim.SGD):
    """Moves nothing, and keeps the gradients and rates that it is given."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__(parameters, lr=0.0)
        self.gradients: list[list[Tensor]] = []
        self.rates: list[Tensor] = []

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        group = self.param_groups[0]
        self.gradients.append([p.grad.clone() for p in group["params"]])
        self.rates.append(group["lr"])


def trained(
    model: nn.Module,
    data: Samples,
    stage: StageConfig,
    rates: Sequence[float] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    seeds: Sequence[int] = SEEDS,
    record_every: int = 1,
    losses: LossFunction = lane_losses,
    measure: Callable[[], dict[str, Tensor]] | None = None,
) -> Curves:
    lr = torch.tensor(rates or [stage.learning_rate] * len(data.y), dtype=data.y.dtype)
    parameters = dict(model.named_parameters())
    optimizer = optimizer or optimizer_of(LORA, list(parameters.values()), lr)
    return train(
        model,
        parameters,
        data,
        stage,
        optimizer,
        lr,
        seeds,
        record_every,
        losses,
        measure=measure,
    )


def numbered(lanes: int, n: int) -> Samples:
    """Points whose first coordinate is their number, and whose value is its square."""
    number = torch.arange(n, dtype=F64).repeat(lanes, 1)
    return Samples(torch.stack([number, -number], -1), number.square())


def orders(model: Slope, stage: StageConfig, n: int, seeds: Sequence[int] = SEEDS) -> Tensor:
    """Which samples a lane saw: (lanes, epochs, batches, size)."""
    trained(model, numbered(len(seeds), n), stage, seeds=seeds, optimizer=Recorder([model.w]))
    seen = torch.stack([x[..., 0] for x in model.seen], dim=1)
    return seen.unflatten(1, (stage.epochs, -1)).long()


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 300), st.floats(0, 1), st.sampled_from(["constant", "cosine"]))
def test_the_rate_rises_and_falls(steps: int, warmup: float, schedule: str) -> None:
    stage = replace(CONSTANT, warmup=warmup, schedule=schedule)
    factors = [schedule_factor(stage, step, steps) for step in range(steps)]
    rising = round(warmup * steps)
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:rising] == pytest.approx([(i + 1) / rising for i in range(rising)])
    rest = factors[rising:]
    if schedule == "constant":
        assert rest == [1.0] * len(rest)
    elif rest:
        assert rest[0] == 1.0
        assert all(a > b for a, b in pairwise(rest))
        # the cosine's mean over a half period without its last point, 0
        assert sum(rest) == pytest.approx((len(rest) + 1) / 2)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 5000), st.integers(1, 600))
def test_batches_are_at_most_as_large_as_asked(n: int, size: int) -> None:
    batches = batches_per_epoch(n, size)
    assert n // batches <= size
    assert n - batches * (n // batches) < batches  # what sits out
    assert batches == 1 or -(-n // (batches - 1)) > size
    assert batches_per_epoch(n, None) == 1


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_a_lane_is_a_plain_adamw_loop(batch_size: int | None, clip: float | None) -> None:
    stage = StageConfig(
        epochs=12,
        batch_size=batch_size,
        learning_rate=3e-3,
        schedule="cosine",
        warmup=0.2,
        clip=clip,
    )
    data, model, plain = samples([3], 12), network([3], SHAPE), network([3], SHAPE)
    curves = trained(model, data, stage, seeds=[3])

    parameters = list(plain.parameters())
    config = LORA.optimizer.config
    optimizer = torch.optim.AdamW(
        parameters,
        lr=stage.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    batches = 1 if batch_size is None else 3
    steps, warmup = 12 * batches, round(0.2 * 12 * batches)
    generator = torch.Generator().manual_seed(3)
    expected = []
    for step in range(steps):
        if step % batches == 0:
            order = torch.arange(12) if batches == 1 else torch.randperm(12, generator=generator)
        chosen = order.chunk(batches)[step % batches]
        loss = (plain(data.x[:, chosen])[0] - data.y[0, chosen]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if clip is not None and norm > clip:
            # clip_grad_norm_ without the 1e-6 that it adds to the norm
            for gradient in gradients:
                gradient.mul_(clip / norm)
        falling = 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (steps - warmup))
        factor = (step + 1) / warmup if step < warmup else falling
        optimizer.param_groups[0]["lr"] = stage.learning_rate * factor
        optimizer.step()
        expected.append([loss.item(), stage.learning_rate * factor])
    found = torch.stack([curves.loss[:, 0], curves.learning_rate[:, 0]], dim=1)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=F64), rtol=0, atol=1e-10)
    for name, value in values(plain).items():
        torch.testing.assert_close(values(model)[name], value, rtol=0, atol=1e-10)


def test_clipping_is_torchs_in_every_lane() -> None:
    data, clip = samples(SEEDS, 6), 30.0
    data.y[1] *= 1000  # one lane of steep gradients
    model = network(SEEDS, SHAPE)
    recorder = Recorder(list(model.parameters()))
    trained(model, data, replace(CONSTANT, clip=clip), optimizer=recorder)
    norms = []
    for lane, seed in enumerate(SEEDS):
        solo = network([seed], SHAPE)
        lane_losses(solo, data.x[lane : lane + 1], data.y[lane : lane + 1]).sum().backward()
        norms.append(nn.utils.clip_grad_norm_(solo.parameters(), clip).item())
        for found, parameter in zip(recorder.gradients[0], solo.parameters(), strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(found[lane], parameter.grad[0], rtol=1e-6, atol=1e-12)
    assert [norm > clip for norm in norms] == [False, True, False]


@pytest.mark.parametrize(("n", "batch_size"), [(12, 4), (10, 4), (7, 1), (6, 5)])
def test_an_epoch_shows_every_sample_once(n: int, batch_size: int) -> None:
    stage = replace(CONSTANT, epochs=3, batch_size=batch_size)
    order = orders(Slope(len(SEEDS)), stage, n).flatten(2)  # (lanes, epochs, samples)
    size = n // batches_per_epoch(n, batch_size)
    assert order.shape[2] == n - n % size
    for epoch in order.flatten(0, 1):
        assert len(epoch.unique()) == len(epoch)
        assert set(epoch.tolist()) <= set(range(n))
    assert len(order.flatten(0, 1).unique(dim=0)) == 3 * len(SEEDS)  # no order occurs twice


def test_a_lanes_order_depends_on_its_seed_alone() -> None:
    stage = replace(CONSTANT, epochs=3, batch_size=4)
    batch = orders(Slope(3), stage, 12)
    for lane, seed in enumerate(SEEDS):
        assert torch.equal(orders(Slope(1), stage, 12, [seed])[0], batch[lane])
    assert torch.equal(orders(Slope(3), stage, 12, [5, 5, 5])[2], batch[1])


def test_a_point_keeps_its_value_and_its_instruction() -> None:
    model, batches = Slope(3), []

    def losses(model: nn.Module, x: Tensor, y: Tensor, instruction: Tensor | None) -> Tensor:
        batches.append((x[..., 0], y, instruction))
        return lane_losses(model, x, y)

    data = numbered(3, 12)
    lane = torch.arange(3, dtype=F64)[:, None].expand(3, 12)
    data = replace(data, instruction=torch.stack([data.x[..., 0], lane], dim=-1))
    stage = replace(CONSTANT, epochs=2, batch_size=4)
    trained(model, data, stage, optimizer=Recorder([model.w]), losses=losses)
    assert len(batches) == 6
    for number, y, instruction in batches:
        assert instruction is not None
        assert torch.equal(number.square(), y)
        assert torch.equal(number, instruction[..., 0])
        assert torch.equal(instruction[..., 1], lane[:, :4])


def test_a_full_batch_is_the_samples_in_their_order() -> None:
    order = orders(Slope(3), replace(CONSTANT, epochs=2), 5)
    assert torch.equal(order, torch.arange(5).expand(3, 2, 1, 5))


def infinite_at(step: int, lane: int) -> LossFunction:
    """The losses, of which `lane`'s is infinite at one update."""
    count = 0

    def losses(model: nn.Module, x: Tensor, y: Tensor, instruction: Tensor | None) -> Tensor:
        nonlocal count
        loss = lane_losses(model, x, y)
        if count == step:
            loss = loss * torch.ones_like(loss).index_fill(0, torch.tensor(lane), torch.inf)
        count += 1
        return loss

    return losses


@pytest.mark.parametrize("method", ["full", "full_adamw"])
@pytest.mark.parametrize("step", [0, 3])
def test_a_lane_stops_for_good_where_its_loss_is_not_finite(method: str, step: int) -> None:
    data, stage = samples(SEEDS), replace(CONSTANT, epochs=6)

    def run(stage: StageConfig, **options: Any) -> tuple[Backbone, Curves]:
        model = network(SEEDS, SHAPE)
        lr = torch.full((len(SEEDS),), stage.learning_rate, dtype=F64)
        optimizer = optimizer_of(of_method(method), list(model.parameters()), lr)
        return model, trained(model, data, stage, optimizer=optimizer, **options)

    quiet, calm = run(stage)
    until, _ = run(replace(stage, epochs=step))
    model, curves = run(stage, losses=infinite_at(step, lane=1))
    assert calm.alive.tolist() == [True, True, True]
    assert curves.alive.tolist() == [True, False, True]
    assert curves.loss[:, 1].isfinite().tolist() == [index != step for index in range(6)]
    for name, value in values(model).items():
        assert torch.equal(value[1], values(until)[name][1])
        for lane in (0, 2):
            assert torch.equal(value[lane], values(quiet)[name][lane])


def test_a_gradient_that_is_not_finite_stops_a_lane_too() -> None:
    class Root(Slope):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).sqrt()  # at 0 its slope is infinite

    model, data = Root(2), numbered(2, 3)
    data.x[0] += 1
    curves = trained(model, data, CONSTANT, seeds=[1, 2])
    assert curves.loss.isfinite().all()
    assert curves.alive.tolist() == [True, False]
    assert model.w[0] != 1
    assert model.w[1] == 1


@pytest.mark.parametrize(("updates", "every"), [(7, 1), (7, 3), (6, 3), (5, 100)])
def test_rows_are_the_updates_asked_for_and_the_last(updates: int, every: int) -> None:
    seen = []

    def losses(model: nn.Module, x: Tensor, y: Tensor, instruction: Tensor | None) -> Tensor:
        seen.append(lane_losses(model, x, y))
        return seen[-1]

    stage = replace(CONSTANT, epochs=updates, schedule="cosine", warmup=0.4)
    rates = [1e-2, 2e-2, 4e-2]
    model = network(SEEDS, SHAPE)
    curves = trained(model, samples(SEEDS), stage, rates, record_every=every, losses=losses)
    steps = sorted({*range(0, updates, every), updates - 1})
    assert curves.steps == steps
    assert torch.equal(curves.loss, torch.stack([seen[step].detach() for step in steps]))
    factors = [[schedule_factor(stage, step, updates)] for step in steps]
    wanted = torch.tensor(factors, dtype=F64) * torch.tensor(rates, dtype=F64)
    torch.testing.assert_close(curves.learning_rate, wanted)


@pytest.mark.parametrize("method", ["lora", "queryable", "full_adamw"])
def test_gradient_norms_are_those_before_clipping_by_layer(method: str) -> None:
    def adapter() -> Any:
        kind, config = of_method(method).method.kind, of_method(method).method.config
        return kind(network(SEEDS), config, Draw(SEEDS, F64))

    data, model = samples(SEEDS), adapter()
    recorder = Recorder(list(model.trainable().values()))
    lr = torch.ones(len(SEEDS), dtype=F64)
    stage = replace(CONSTANT, clip=1e-3)
    curves = train(model, model.trainable(), data, stage, recorder, lr, SEEDS, record_every=1)

    plain = adapter()
    lane_losses(plain, data.x, data.y).sum().backward()
    layers = {f"layer_{index}": plain.backbone.layers[index] for index in range(TINY.depth)}
    others = {"router", "tokens", "norm", "head"} & {
        name.split(".")[0] for name in model.trainable()
    }
    assert curves.gradient_norms.keys() == layers.keys() | others
    for name in curves.gradient_norms:
        part = layers.get(name) or getattr(plain, name, None) or getattr(plain.backbone, name)
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        square = sum(g.square().reshape(len(SEEDS), -1).sum(1) for g in gradients)
        torch.testing.assert_close(curves.gradient_norms[name][0], torch.as_tensor(square).sqrt())


def test_parameters_are_counted_in_their_layer() -> None:
    names = ["layers.0.qkv.A", "layers.12.norm1.bias", "router.keys", "head.weight"]
    assert [layer_of(name) for name in names] == ["layer_0", "layer_12", "router", "head"]


def test_no_epochs_change_nothing() -> None:
    model = network(SEEDS, SHAPE)
    curves = trained(model, samples(SEEDS), replace(CONSTANT, epochs=0))
    assert curves.steps == []
    assert curves.loss.shape == (0, len(SEEDS))
    assert curves.alive.all()
    for name, value in values(network(SEEDS, SHAPE)).items():
        assert torch.equal(values(model)[name], value)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_predictions_do_not_depend_on_the_chunk(chunk: int) -> None:
    model, x = network(SEEDS, SHAPE), points(SEEDS, 9)
    y = predict(model, x, chunk=chunk)
    assert not y.requires_grad
    torch.testing.assert_close(y, model(x).detach(), rtol=0, atol=1e-12)


def test_the_final_loss_is_the_mean_over_all_samples() -> None:
    model, data = network(SEEDS, SHAPE, torch.float32), samples(SEEDS, 9, torch.float32)
    loss = mean_square_error(model, data)
    assert loss.dtype == F64
    expected = lane_losses(model, data.x, data.y).double()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


def test_a_training_is_measured_where_a_shorter_one_would_end() -> None:
    data = samples(SEEDS, 20)

    def measured(epochs: int) -> tuple[Curves, dict[str, Tensor]]:
        model = network(SEEDS, SHAPE)

        def measure() -> dict[str, Tensor]:
            return {"loss": mean_square_error(model, data)}

        curves = trained(model, data, replace(CONSTANT, epochs=epochs), measure=measure)
        return curves, measure()

    curves, _ = measured(24)
    assert [updates for updates, _ in curves.path] == [1, 3, 6, 12]
    for updates, losses in curves.path:
        torch.testing.assert_close(losses["loss"], measured(updates)[1]["loss"])
