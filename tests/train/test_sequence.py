"""Targets in sequence: the tasks, the matrix, the route's drift, and what a stop leaves."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from build import NARROW, adapted, jolt, of_method, planned, samples

from qlexp.adapters.queryable import Queryable
from qlexp.adapters.stored import load_run
from qlexp.config.identity import group_id, run_id
from qlexp.config.schedule import updates
from qlexp.config.schema import Config, ShiftConfig
from qlexp.errors import UsageError
from qlexp.main import CONF
from qlexp.model.evaluate import Samples
from qlexp.problem.targets import make_problem, problem_of, served_shifts
from qlexp.store.files import read_curves, read_tensors
from qlexp.store.store import Store
from qlexp.sweep import execute as executing
from qlexp.sweep.execute import execute
from qlexp.train.checkpoint import Checkpoint
from qlexp.train.loop import Curves
from qlexp.train.sequence import adapt_in_sequence, total_variation

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
ROUTED = ("queryable", "instruction_queryable", "prior_only", "query_only")
TASKS = 3
TINY = (
    *NARROW,
    *("trainer.pretrain.epochs=0", "trainer.adapt.epochs=2", "trainer.loss_ceiling=1000"),
    *("data.validation=8", "data.test=12", "precision=float64"),
)
UPDATES = 2 * 2  # of one task
SEQUENCE = (*TINY, f"shift.targets={TASKS}", "shift.order=sequence")

Compose = Callable[..., Config]


@pytest.fixture
def composed(tmp_path: Path) -> Compose:
    """A tiny sequence; its store is a folder of the test's own."""

    def make(*overrides: str, store: str = "store", base: Sequence[str] = SEQUENCE) -> Config:
        return planned(*base, f"store={tmp_path / store}", *overrides)

    return make


def lanes(config: Config, store: str) -> list[Config]:
    """Three lanes that differ in seed, shift, noise and learning rate."""
    batch = [deepcopy(config) for _ in range(3)]
    for lane, own in enumerate(batch):
        own.seed = lane
        own.shift.rotation = 10.0 + 5 * lane
        own.data.noise = 0.1 * lane
        own.trainer.adapt.learning_rate = 1e-3 * (1 + lane)
        own.store = f"{config.store}-{store}"
    return batch


def adapter_of(config: Config) -> dict[str, torch.Tensor]:
    return read_tensors(Store(config.store).run_folder(run_id(config)) / "adapter.safetensors")


def test_every_task_has_samples_of_its_own(composed: Compose) -> None:
    config = composed("data.noise=0")
    problem, shifts = problem_of(config), served_shifts(config.shift)
    for split, size in ((problem.adapt, 32), (problem.validation, 8), (problem.test, 12)):
        assert split.shifts == shifts
        assert split.target.tolist() == [task for task in range(TASKS) for _ in range(size)]
        for task, shift in enumerate(shifts):
            own = replace(shift, targets=1, order="together")
            alone = make_problem(config.function, own, config.data, config.seed)
            rows = split.target == task
            np.testing.assert_allclose(split.y[rows], alone.target(split.x[rows]))
    assert len(problem.unseen.y) == 12


def test_samples_taken_together_are_what_they_were(composed: Compose) -> None:
    problem = problem_of(composed("shift.targets=4", base=TINY))
    assert problem.adapt.target.tolist() == [0, 1, 2, 3] * 8
    assert problem.pretrain.target.tolist() == [0] * 64


@pytest.mark.parametrize("method", ["lora", "queryable", "lily", "full"])
def test_the_first_task_is_the_run_of_its_target(composed: Compose, method: str) -> None:
    config = composed(f"method={method}")
    first = served_shifts(config.shift)[0]
    alone = composed(
        f"method={method}",
        f"shift.strength={first.strength}",
        f"shift.rotation={first.rotation}",
        base=TINY,
    )
    whole, part = execute([config, alone])
    assert whole["task_losses"][0][0] == pytest.approx(part["frozen_loss"], rel=1e-12)
    assert whole["task_losses"][1][0] == pytest.approx(part["test_loss"], rel=1e-12)
    curves = [read_curves(Store(c.store).run_folder(run_id(c))) for c in (config, alone)]
    np.testing.assert_allclose(curves[0][:UPDATES], curves[1], rtol=1e-9)
    assert curves[0]["step"].tolist() == list(range(TASKS * UPDATES))
    assert whole["steps"] == TASKS * part["steps"] == TASKS * UPDATES


def test_each_task_begins_with_a_fresh_schedule(composed: Compose) -> None:
    config = composed()
    execute([config])
    rates = read_curves(Store(config.store).run_folder(run_id(config)))["learning_rate"].to_numpy()
    assert len(set(rates[:UPDATES])) > 2
    np.testing.assert_array_equal(rates, np.tile(rates[:UPDATES], TASKS))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_through_and_a_lane_equals_its_solo_run(
    composed: Compose, method: str
) -> None:
    config = composed(f"method={method}")
    together = lanes(config, "together")[:2]
    alone = lanes(config, "alone")[1]
    found, solo = execute(together, width=2)[1], execute([alone])[0]
    assert (found["lanes"], solo["lanes"]) == (2, 1)
    assert found["status"] == solo["status"] == "done"
    for key in ("task_losses", "atom_usage"):
        if solo[key] is not None:
            np.testing.assert_allclose(found[key], solo[key], rtol=1e-6, atol=1e-9)
    assert np.shape(solo["task_losses"]) == (TASKS + 1, TASKS)
    assert (solo["route_drift"] is not None) == (solo["atom_usage"] is not None)
    assert (solo["route_drift"] is not None) == (method in ROUTED)
    if method in ROUTED:
        assert [len(row) for row in solo["route_drift"]] == [1, 2, 3]
        np.testing.assert_allclose(
            np.concatenate(found["route_drift"]), np.concatenate(solo["route_drift"]), atol=1e-7
        )
        np.testing.assert_allclose(np.sum(solo["atom_usage"], axis=-1), 1.0)
    one, other = adapter_of(together[1]), adapter_of(alone)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["lora", "instruction_queryable"])
def test_the_last_row_is_the_stored_adapter(composed: Compose, method: str) -> None:
    config = composed(f"method={method}")
    summary = execute([config])[0]
    assert np.mean(summary["task_losses"][-1]) == pytest.approx(summary["test_loss"], rel=1e-12)
    assert np.mean(summary["task_losses"][0]) == pytest.approx(summary["frozen_loss"], rel=1e-12)
    if method == "lora":
        adapter, problem = load_run(Store(config.store), run_id(config))
        for task in range(TASKS):
            rows = problem.test.target == task
            y = adapter(torch.as_tensor(problem.test.x[rows])[None])[0].detach().numpy()
            loss = np.mean((y - problem.test.y[rows]) ** 2)
            assert summary["task_losses"][-1][task] == pytest.approx(loss, rel=1e-10)


def test_a_route_per_token_is_measured_too(composed: Compose) -> None:
    summary = execute([composed("method=queryable", "method.routing=token")])[0]
    assert [len(row) for row in summary["route_drift"]] == [1, 2, 3]
    assert 0 < summary["route_drift"][-1][0] <= 1
    assert np.shape(summary["atom_usage"]) == (TASKS, 2, 16)
    np.testing.assert_allclose(np.sum(summary["atom_usage"], axis=-1), 1.0)


def test_what_is_frozen_does_not_forget(composed: Compose) -> None:
    summary = execute([composed("method=frozen")])[0]
    assert summary["steps"] == 0
    assert summary["task_losses"] == [summary["task_losses"][0]] * (TASKS + 1)
    assert summary["learnt_loss"] == pytest.approx(summary["frozen_validation_loss"], rel=1e-12)
    assert summary["test_loss_clean"] == summary["frozen_loss_clean"]


def test_one_target_has_no_matrix(composed: Compose) -> None:
    config = composed("method=queryable", "shift.targets=3", base=TINY)
    summary = execute([config])[0]
    for key in ("task_losses", "route_drift", "atom_usage"):
        assert summary[key] is None
    assert summary["learnt_loss"] == summary["validation_loss"]
    variance = problem_of(config).validation.y.var()
    assert summary["learnt_r2"] == pytest.approx(1 - summary["learnt_loss"] / variance)


def test_tasks_come_in_their_order_and_are_all_measured_in_between(tmp_path: Path) -> None:
    """A stand-in for the training that moves the head's bias to the mean of what it is given."""
    seeds = [3, 5]
    adapter = adapted(of_method("full"), seeds)
    adapter.backbone.head.weight.data.zero_()
    data = samples(seeds, 12)
    tasks, tests = data.chunk(3), samples([7, 9], 6).chunk(3)
    validations = samples([8, 10], 9).chunk(3)
    order = []

    def train_task(own: Samples, part: Checkpoint, alive: torch.Tensor | None) -> Curves:
        order.append(own)
        adapter.backbone.head.bias.data[:] = own.y.mean(1, keepdim=True)
        one = torch.ones(1, len(seeds))
        return Curves([0], one * len(order), one, {"head": one}, alive=one[0] > 0)

    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", interval=1e9)
    history = adapt_in_sequence(
        adapter, tasks, validations, tests, train_task, checkpoint, lambda done: None
    )
    for own, rows in zip(order, (slice(0, 4), slice(4, 8), slice(8, 12)), strict=True):
        assert torch.equal(own.y, data.y[:, rows])
        assert torch.equal(own.x, data.x[:, rows])
    for lane in range(2):
        losses = history.summary(lane)["task_losses"]
        for after, own in enumerate(order, start=1):
            for task, test in enumerate(tests):
                loss = (own.y[lane].mean() - test.y[lane]).square().mean()
                assert losses[after][task] == pytest.approx(loss.item(), rel=1e-12)
        just_learnt = [
            (own.y[lane].mean() - held_out.y[lane]).square().mean().item()
            for own, held_out in zip(order, validations, strict=True)
        ]
        learnt = history.learnt_loss[lane].item()
        assert learnt == pytest.approx(np.mean(just_learnt), rel=1e-12)
    curves = history.joined_curves()
    assert curves.steps == [0, 1, 2]
    assert curves.loss.tolist() == [[1, 1], [2, 2], [3, 3]]


@torch.no_grad()
@pytest.mark.parametrize("method", ["queryable", "instruction_queryable"])
def test_drift_and_usage_are_those_of_copies_kept_on_the_way(tmp_path: Path, method: str) -> None:
    """A stand-in for the training that moves the router, of every task in its own direction."""
    seeds, config = [3, 5], of_method(method)
    adapter = adapted(config, seeds)
    assert isinstance(adapter, Queryable)
    tasks = samples(seeds, 12, config=config).chunk(TASKS)
    tests = samples([7, 9], 15, config=config).chunk(TASKS)
    copies: list[Queryable] = []

    def train_task(own: Samples, part: Checkpoint, alive: torch.Tensor | None) -> Curves:
        jolt(adapter.router, [seed + 10 * len(copies) for seed in seeds], std=0.3)
        copies.append(deepcopy(adapter))
        one = torch.ones(1, len(seeds))
        return Curves([0], one, one, {"head": one}, alive=one[0] > 0)

    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", interval=1e9)
    history = adapt_in_sequence(
        adapter, tasks, tests, tests, train_task, checkpoint, lambda done: None
    )
    for lane in range(len(seeds)):
        routes = [
            [copy.routes(test.x, test.instruction)[lane].numpy() for test in tests]
            for copy in copies
        ]  # after each task, of each task's inputs: (n, N_b, K)
        summary = history.summary(lane)
        assert [len(row) for row in summary["route_drift"]] == [1, 2, 3]
        for after, row in enumerate(summary["route_drift"]):
            for task, drift in enumerate(row):
                learnt, now = routes[task][task], routes[after][task]
                distances = [
                    sum(abs(learnt[n, b] - now[n, b])) / 2
                    for n in range(len(now))
                    for b in range(now.shape[1])
                ]
                assert drift == pytest.approx(np.mean(distances), abs=1e-12)
                assert (drift == 0) == (after == task)
        for task, usage in enumerate(summary["atom_usage"]):
            mean = sum(routes[-1][task]) / len(routes[-1][task])
            np.testing.assert_allclose(usage, mean, atol=1e-12)
        assert not np.allclose(summary["atom_usage"][0], summary["atom_usage"][-1], atol=1e-3)


@pytest.mark.parametrize(("method", "stop"), [("lora", 3), ("queryable", 6), ("full", 8)])
def test_a_stopped_sequence_goes_on_to_the_same_numbers(
    composed: Compose, method: str, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the first task, in the second, and just as the second ends."""
    config = composed(f"method={method}")
    undisturbed, stopped = lanes(config, "undisturbed"), lanes(config, "stopped")
    expected = execute(undisturbed, width=3)
    bars: list[Any] = []

    class Bar:
        def __init__(self, **options: object) -> None:
            self.done = 0
            bars.append(self)

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *error: object) -> None: ...

        def update(self, count: int) -> None:
            self.done += count
            if len(bars) == 1 and self.done >= 3 * stop:
                raise KeyboardInterrupt

    monkeypatch.setattr(executing, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(executing, "tqdm", Bar)
    with pytest.raises(KeyboardInterrupt):
        execute(stopped, width=3)
    found = execute(stopped, width=3)
    assert bars[1].done == 3 * TASKS * UPDATES  # what the checkpoint had done is counted
    for one, other in zip(found, expected, strict=True):
        for key in ("task_losses", "route_drift", "atom_usage", "test_loss"):
            assert one[key] == other[key]
    for one, other in zip(undisturbed, stopped, strict=True):
        folders = [Store(config.store).run_folder(run_id(config)) for config in (one, other)]
        curves = [read_curves(folder).to_numpy() for folder in folders]
        np.testing.assert_array_equal(*curves)
        assert all(torch.equal(v, adapter_of(other)[n]) for n, v in adapter_of(one).items())


def test_a_lane_that_diverges_stops_for_good_and_alone(composed: Compose) -> None:
    config = composed("method=lora", "trainer.adapt.clip=null")
    quiet, disturbed = lanes(config, "quiet"), lanes(config, "disturbed")
    disturbed[1].trainer.adapt.learning_rate = 1e300
    expected, found = execute(quiet, width=3), execute(disturbed, width=3)
    assert [summary["status"] for summary in found] == ["done", "diverged", "done"]
    curves = read_curves(Store(disturbed[1].store).run_folder(run_id(disturbed[1])))
    assert (curves["learning_rate"][UPDATES:] == 0).all()
    for lane in (0, 2):
        assert found[lane]["task_losses"] == expected[lane]["task_losses"]


def test_lanes_of_a_batch_have_the_same_tasks(composed: Compose) -> None:
    ids = [
        group_id(composed(f"shift.targets={targets}", f"shift.order={order}", base=TINY))
        for targets, order in ((2, "sequence"), (3, "sequence"), (2, "together"), (3, "together"))
    ]
    assert len({*ids[:3]}) == 3
    assert ids[2] == ids[3] == group_id(composed(base=TINY))
    mixed = [composed("shift.targets=2"), composed(), composed(base=TINY)]
    assert [len(s["task_losses"] or []) for s in execute(mixed)] == [3, 4, 0]
    assert [updates(config, "adapt") for config in mixed] == [2 * UPDATES, 3 * UPDATES, UPDATES]


def test_a_sequence_of_one_is_refused() -> None:
    with pytest.raises(UsageError, match=r"set shift\.targets to at least 2"):
        ShiftConfig(order="sequence")


def test_total_variation_is_that_of_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.rand(2, 5, 3, 4, generator=generator).softmax(-1) for _ in range(2))
    for lane in range(2):
        values = [
            max(float((one[lane, n, b] - other[lane, n, b])[list(part)].sum()) for part in SUBSETS)
            for n in range(5)
            for b in range(3)
        ]
        assert total_variation(one, other)[lane].item() == pytest.approx(np.mean(values), rel=1e-5)
    ends = torch.eye(2)[None, None]  # (1, 1, 2, 2): all weight on either of two atoms
    assert total_variation(ends, ends.flip(-1)).item() == 1


SUBSETS = [[m for m in range(4) if number >> m & 1] for number in range(16)]  # events over 4 atoms
