"""A lane's numbers are its solo run's, whatever its neighbours do and wherever it stopped."""

import shutil
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from build import NARROW, planned
from omegaconf import OmegaConf

from qlexp.adapters.base import Adapter
from qlexp.config.identity import backbone_id, run_id
from qlexp.config.schema import Config
from qlexp.main import CONF
from qlexp.model.backbone import Backbone
from qlexp.store.files import read_curves, read_tensors
from qlexp.store.store import Store
from qlexp.sweep import execute as executing
from qlexp.sweep.execute import execute
from qlexp.sweep.groups import Group, plan_groups
from qlexp.train import stages
from qlexp.train.memory import lane_bytes

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
TINY = (
    *NARROW,
    *("trainer.pretrain.epochs=1", "trainer.record_every=7", "data.validation=16", "data.test=16"),
)
UPDATES_PER_EPOCH = 2
LONG = ("lora", "queryable", "full")  # tried for longer, and in more lanes, than the others
FUNCTIONS = ("ackley", "drop_wave", "matyas", "levy")

Compose = Callable[..., Config]


@pytest.fixture
def composed(tmp_path: Path) -> Compose:
    """A tiny config; its store is a folder of the test's own."""

    def make(*overrides: str, store: str = "store") -> Config:
        return planned(*TINY, f"store={tmp_path / store}", *overrides)

    return make


def cells(composed: Compose, count: int, *overrides: str, store: str) -> list[Config]:
    """Lanes that differ in function, seed, shift, noise and learning rate."""
    return [
        composed(
            f"function={FUNCTIONS[lane % 4]}",
            f"seed={lane // 4}",
            f"shift.rotation={5 * lane}",
            f"data.noise={0.01 * lane}",
            f"trainer.adapt.learning_rate={2e-4 * (1 + lane)}",
            *overrides,
            store=store,
        )
        for lane in range(count)
    ]


def adapters(configs: list[Config]) -> list[dict[str, torch.Tensor]]:
    folders = [Store(config.store).run_folder(run_id(config)) for config in configs]
    return [read_tensors(folder / "adapter.safetensors") for folder in folders]


@pytest.mark.parametrize("method", METHODS)
def test_lanes_equal_solo_runs(composed: Compose, method: str) -> None:
    settings = [
        f"method={method}",
        f"trainer.adapt.epochs={(200 if method in LONG else 60) // UPDATES_PER_EPOCH}",
        "precision=float64",
    ]
    if method == "queryable":
        settings.append("method.block_size=1")
    weights = 1e-6 if method == "full" else 1e-8  # SOAP's bases amplify the last digits
    lanes = 8 if method in LONG else 3
    together = cells(composed, lanes, *settings, store="together")
    alone = cells(composed, lanes, *settings, store="alone")
    batch, solo = execute(together, width=lanes), execute(alone, width=1)
    for one, other in zip(batch, solo, strict=True):
        assert (one["lanes"], other["lanes"]) == (lanes, 1)
        for key in ("pretrain_loss", "post_train_loss", "test_loss", "frozen_loss"):
            assert one[key] == pytest.approx(other[key], rel=1e-8)
    for one, other in zip(adapters(together), adapters(alone), strict=True):
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=0, atol=weights)


@pytest.mark.parametrize("method", METHODS)
def test_in_float32_a_run_does_not_depend_on_its_batch_or_its_threads(
    composed: Compose, method: str
) -> None:
    settings = (
        f"method={method}",
        "backbone.depth=2",
        "trainer.pretrain.epochs=3",
        "trainer.adapt.epochs=8",
        "trainer.adapt.learning_rate=5e-3",
        "data.test=64",
    )

    def alone_and_with(neighbours: int, threads: int) -> tuple[float, dict[str, torch.Tensor]]:
        store = f"{neighbours} {threads}"
        seeds = [composed(*settings, f"seed={s}", store=store) for s in range(1 + neighbours)]
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            loss = execute(seeds, width=9)[0]["test_loss"]
        finally:
            torch.set_num_threads(before)
        folder = Store(seeds[0].store).backbone_folder(backbone_id(seeds[0]))
        return loss, read_tensors(folder / "backbone.safetensors")

    loss, backbone = alone_and_with(0, threads=1)
    for neighbours, threads in ((1, 1), (8, 2)):
        other, same = alone_and_with(neighbours, threads)
        assert other == pytest.approx(loss, rel=1e-3)
        assert all(torch.equal(value, same[name]) for name, value in backbone.items())


@pytest.mark.parametrize("method", ["queryable", "full"])
def test_a_neighbour_that_diverges_at_once_changes_nothing(composed: Compose, method: str) -> None:
    settings = [f"method={method}", "trainer.adapt.epochs=10"]
    quiet = cells(composed, 4, *settings, store="quiet")
    disturbed = cells(composed, 4, *settings, store="disturbed")
    disturbed[1].trainer.adapt.learning_rate = 1e38
    expected, found = execute(quiet, width=4), execute(disturbed, width=4)
    assert found[1]["status"] == "diverged"
    assert found[1]["test_loss"] is None or found[1]["test_loss"] > 10
    for lane in (0, 2, 3):
        assert found[lane]["status"] == "done"
        assert found[lane]["test_loss"] == expected[lane]["test_loss"]
    same = zip(adapters(quiet), adapters(disturbed), strict=True)
    for lane, (one, other) in enumerate(same):
        if lane != 1:
            assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("method", ["lora", "queryable", "full"])
def test_a_stopped_sweep_goes_on_to_the_same_numbers(
    composed: Compose, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [f"method={method}", "trainer.adapt.epochs=15"]
    undisturbed = cells(composed, 3, *settings, store="undisturbed")
    stopped = cells(composed, 3, *settings, store="stopped")
    expected = execute(undisturbed, width=3)

    monkeypatch.setattr(executing, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(executing, "tqdm", stopping_after(3 * (4 + 17)))
    with pytest.raises(KeyboardInterrupt):
        execute(stopped, width=3)
    monkeypatch.undo()
    assert list((Store(stopped[0].store).root / "groups").glob("*/checkpoint.pt"))

    spent = an_hour_longer(Store(stopped[0].store).root)
    found = execute(stopped[1:])  # other cells: the plan decides
    assert [summary["lanes"] for summary in found] == [3, 3]
    assert all(3 * summary["seconds"] > spent for summary in found)
    assert Store(stopped[0].store).finished(run_id(stopped[0]))
    assert not list((Store(stopped[0].store).root / "groups").iterdir())
    for one, other in zip(found, expected[1:], strict=True):
        assert one["test_loss"] == other["test_loss"]
        assert one["path"] == other["path"]
        assert one["path"]["updates"] == [1, 3, 7, 15]  # of 30
    for one, other in zip(undisturbed, stopped, strict=True):
        curves = [
            read_curves(Store(config.store).run_folder(run_id(config))) for config in (one, other)
        ]
        np.testing.assert_array_equal(curves[0].to_numpy(), curves[1].to_numpy())
    for one, other in zip(adapters(undisturbed), adapters(stopped), strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_stopped_batch_goes_on_as_the_rerun_asks(
    composed: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch was too wide for the memory, or its machine is not there any more."""
    settings = ["trainer.adapt.epochs=15"]
    configs = cells(composed, 3, *settings, store="stopped")
    monkeypatch.setattr(executing, "tqdm", stopping_after(3 * (4 + 17)))
    with pytest.raises(KeyboardInterrupt):
        execute(configs, width=3)
    monkeypatch.undo()
    (plan,) = (Store(configs[0].store).root / "groups").glob("*/plan.json")
    plan.write_text(plan.read_text().replace('"device": "auto"', '"device": "cuda"'))
    (whole,) = plan_groups("adapt", configs, None)
    assert {config.device for config in whole.configs} == {"auto"}
    assert [len(group.configs) for group in plan_groups("adapt", configs, 2)] == [2, 1]
    assert not plan.exists()
    assert [summary["lanes"] for summary in execute(configs, width=2)] == [2, 2, 1]


def test_a_batch_that_another_process_trains_is_waited_for(composed: Compose) -> None:
    group = Group("adapt", tuple(cells(composed, 3, store="busy")))
    group.write_plan()
    with group.store.lock(group.identity):
        found = plan_groups("adapt", group.configs, 1)
    assert [len(own.configs) for own in found] == [3]


def test_a_failed_batch_holds_no_memory_while_its_halves_run(composed: Compose) -> None:
    configs = cells(composed, 2, store="held")
    failed: list[weakref.ref] = []

    def build(lanes: Sequence[Config], backbone: Backbone) -> Adapter:
        assert all(adapter() is None for adapter in failed)
        adapter = build_adapter(lanes, backbone)
        if len(lanes) > 1:
            failed.append(weakref.ref(adapter))
        return adapter

    def narrow(model: Adapter, *rest: Any, **more: Any) -> Any:
        if len(rest[0].configs) > 1:
            raise MemoryError("two lanes are too many")
        return train_stage(model, *rest, **more)

    build_adapter, train_stage = stages.build_adapter, stages._train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "build_adapter", build)
        execute(configs[:1])
        patch.setattr(stages, "_train", narrow)
        for config in configs:
            shutil.rmtree(Store(config.store).run_folder(run_id(config)), ignore_errors=True)
        assert [summary["status"] for summary in execute(configs, width=2)] == ["done", "done"]
    assert len(failed) == 1


def an_hour_longer(store: Path) -> float:
    """Makes a stopped training a long one: what its checkpoint says it has taken, plus an hour."""
    (path,) = (store / "groups").glob("*/checkpoint.pt")
    saved = torch.load(path, weights_only=True)
    saved["seconds"] += 3600
    torch.save(saved, path)
    return saved["seconds"]


def stopping_after(updates: int) -> type:
    """A progress bar that is interrupted once `updates` are done."""

    class Stopping:
        done = 0

        def __init__(self, **options: object) -> None: ...

        def __enter__(self) -> "Stopping":
            return self

        def __exit__(self, *error: object) -> None: ...

        def update(self, count: int) -> None:
            self.done += count
            if self.done >= updates:
                raise KeyboardInterrupt

    return Stopping


def test_an_unreadable_checkpoint_starts_the_batch_anew(composed: Compose) -> None:
    config = composed("method=lora")
    expected = execute([composed("method=lora", store="other")])
    group = Group("adapt", (config,))
    (group.write_plan() / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut short")
    assert execute([config])[0]["test_loss"] == expected[0]["test_loss"]


def test_a_plan_holds_its_group(composed: Compose) -> None:
    group = Group("adapt", (composed("method=queryable"), composed("seed=1")))
    rebuilt = Group.of(group.payload())
    assert rebuilt.identities == group.identities
    assert OmegaConf.create(rebuilt.payload()) == OmegaConf.create(group.payload())


@pytest.mark.parametrize("method", ["lora", "queryable"])
def test_recomputed_activations_change_nothing_and_hold_less(
    composed: Compose, method: str
) -> None:
    settings = (f"method={method}", "backbone.depth=8", "precision=float64")
    plain = composed(*settings)
    lean = composed(*settings, "recompute=true", store="lean")
    assert run_id(plain) == run_id(lean)
    kept, recomputed = execute([plain])[0], execute([lean])[0]
    assert recomputed["test_loss"] == pytest.approx(kept["test_loss"], rel=1e-12)
    assert lane_bytes(lean, "adapt") < lane_bytes(plain, "adapt") / 2


@pytest.mark.parametrize("method", ["lora", "queryable"])
def test_what_lower_precision_costs(composed: Compose, method: str) -> None:
    """bfloat16 moves the final loss by far less than the adaptation does."""
    settings = (f"method={method}", "function=himmelblau", "backbone.width=16", "trainer=quick")
    size = ("data.pretrain=512", "data.adapt=256", "data.test=256", "trainer.adapt.epochs=40")
    losses = {
        precision: execute(
            [composed(*settings, *size, "trainer.adapt.batch_size=64", f"precision={precision}")]
        )[0]
        for precision in ("float32", "bfloat16", "tf32")
    }
    full = losses["float32"]
    gained = full["frozen_loss"] - full["test_loss"]
    for precision in ("bfloat16", "tf32"):
        assert abs(losses[precision]["test_loss"] - full["test_loss"]) < 0.1 * gained
