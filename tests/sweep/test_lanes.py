"""Sweeps on the lanes launcher: what is missing is computed in batches, and a cell fails alone."""

import math
import shutil
from pathlib import Path

import pytest
from build import METHODS, composed
from conftest import TINY, Command, all_runs, runs, written
from torch import Tensor

from qlexp.adapters.lora import LoRA
from qlexp.store.store import Store
from qlexp.sweep.groups import plan_groups

GRID = ("-m", *TINY, "function=drop_wave,matyas", "method=lora,dora")
LORA = "qlexp.adapters.lora.LoRA"
LOSSES = (
    "pretrain_loss",
    "pretrain_r2",
    "frozen_loss",
    "post_train_loss",
    "validation_loss",
    "test_loss",
    "test_loss_clean",
    "test_loss_raw",
)


class Crowded(LoRA):
    """A method that works in a batch of its own only."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and len(x) > 1:
            raise MemoryError("two lanes are too many")
        return super().forward(x)


def test_a_grid_is_stored_and_then_left_alone(qlexp: Command, store: Path, tmp_path: Path) -> None:
    first = qlexp(*GRID)
    assert (first.code, first.out, first.err) == (0, "4 done\n", "")
    stored = runs(store)
    assert stored.keys() == {(f, m, 0) for f in ("drop_wave", "matyas") for m in ("lora", "dora")}
    assert {summary["lanes"] for summary in stored.values()} == {2}
    assert len(list((store / "backbones").iterdir())) == 2
    before = written(store)
    assert qlexp(*GRID).code == 0
    assert written(store) == before
    assert list(tmp_path.iterdir()) == [store]


def test_a_larger_grid_adds_what_is_missing(qlexp: Command, store: Path) -> None:
    qlexp(*GRID)
    before = written(store)
    assert qlexp(*GRID, "seed=0,1").out == "8 done\n"
    after = written(store)
    assert {name: after[name] for name in before} == before
    assert len(runs(store)) == 8
    assert len(Store(store).study("adhoc")) == 8


def test_a_lost_run_is_computed_again_and_equal(qlexp: Command, store: Path) -> None:
    qlexp(*GRID)
    before, stored = written(store), runs(store)
    lost = stored["matyas", "dora", 0]
    shutil.rmtree(store / "runs" / lost["run_id"])
    qlexp(*GRID)
    again, after = runs(store)["matyas", "dora", 0], written(store)
    assert {name for name in after if before.get(name) != after[name]} == {
        name for name in after if lost["run_id"] in name
    }
    for key in LOSSES:
        assert again[key] == pytest.approx(lost[key], rel=1e-4)


def test_the_smoke_experiment_runs_every_method(qlexp: Command, store: Path) -> None:
    outcome = qlexp("experiment=smoke", "device=cpu")
    assert (outcome.code, outcome.err) == (0, "")
    cells = {(f, method, 0) for f in ("drop_wave", "matyas") for method in METHODS}
    stored = runs(store)
    assert stored.keys() == cells
    assert {summary["status"] for summary in stored.values()} == {"done"}
    assert {(c.function, c.method, c.seed) for c in Store(store).study("smoke")} == cells
    for function in ("drop_wave", "matyas"):
        starts = {stored[function, method, 0]["frozen_loss"] for method in METHODS}
        assert max(starts) == pytest.approx(min(starts), rel=1e-5)
        frozen = stored[function, "frozen", 0]
        assert frozen["trainable_parameters"] == frozen["steps"] == 0
        assert frozen["test_loss"] == pytest.approx(frozen["frozen_loss"], rel=1e-6)
        full = stored[function, "full", 0]
        assert full["trainable_parameters"] == full["total_parameters"]


def test_two_studies_share_a_cell(qlexp: Command, store: Path) -> None:
    qlexp(*GRID, "study=first")
    before = written(store)
    qlexp("-m", *TINY, "method=lora", "budget=equal_rank,lora_r2", "study=second")
    assert written(store) == before  # LoRA at rank 2 is what `method.rank=2` asks for
    cells = Store(store).study("second")
    assert [cell.budget for cell in cells] == ["equal_rank", "lora_r2"]
    assert len({cell.run_id for cell in cells}) == 1


@pytest.mark.parametrize("width", ["1", "2", "null"])
def test_a_failing_method_fails_alone(width: str, qlexp: Command, store: Path) -> None:
    kinds = f"method._target_=build.Broken,{LORA}"
    grid = ("-m", *TINY, "seed=0,1", kinds, f"hydra.launcher.width={width}")
    outcome = qlexp(*grid)
    assert outcome.code == 1
    assert outcome.out.endswith("2 done, 2 failed\n")
    assert outcome.err.splitlines()[-1].endswith("failed: ArithmeticError: no forward pass today")
    assert "Traceback" not in outcome.err
    states = {
        folder.name: Store(store).summary(folder.name) for folder in (store / "runs").iterdir()
    }
    done = {name for name, summary in states.items() if summary and summary["status"] == "done"}
    failed = states.keys() - done
    assert (len(done), len(failed)) == (2, 2)
    before = written(store)
    qlexp(*grid)
    after = written(store)
    changed = {Path(name).parts[1] for name in after if before.get(name) != after[name]}
    assert changed == failed


def test_hydras_own_launcher_stores_the_same_runs(qlexp: Command, store: Path) -> None:
    """The way of every plain Hydra launcher: one job after the other, each alone in its batch."""
    grid = ("-m", *TINY, "seed=0,1")
    outcome = qlexp(*grid, "hydra/launcher=basic", f"method._target_=build.Broken,{LORA}")
    assert outcome.code == 1
    assert sorted(summary["status"] for summary in all_runs(store)) == [
        *["done"] * 2,
        *["failed"] * 2,
    ]
    before = written(store)
    assert qlexp(*grid).out.endswith("2 done\n")
    assert written(store) == before


def test_a_batch_that_fails_is_tried_in_halves(qlexp: Command, store: Path) -> None:
    grid = ("-m", *TINY, "seed=0,1,2", f"method._target_={__name__}.Crowded")
    assert qlexp(*grid).out.endswith("3 done\n")
    assert {summary["lanes"] for summary in runs(store).values()} == {1}


def test_the_test_samples_do_not_say_what_diverged(qlexp: Command, store: Path) -> None:
    qlexp("-m", *TINY, "seed=range(8)")
    seen = {seed: summary for (_, _, seed), summary in runs(store).items()}
    gaps = {
        seed: summary["test_loss"] - max(summary["validation_loss"], summary["post_train_loss"])
        for seed, summary in seen.items()
    }
    seed = max(gaps, key=lambda key: gaps[key])
    assert gaps[seed] > 0
    ceiling = seen[seed]["test_loss"] - gaps[seed] / 2
    outcome = qlexp(*TINY, f"seed={seed}", f"trainer.loss_ceiling={ceiling}")
    assert (outcome.code, outcome.err) == (0, "")
    (again,) = (s for s in all_runs(store) if s["config"]["trainer"]["loss_ceiling"] == ceiling)
    assert again["status"] == "done"
    below = seen[seed]["validation_loss"] / 2
    qlexp(*TINY, f"seed={seed}", f"trainer.loss_ceiling={below}")
    (lost,) = (s for s in all_runs(store) if s["config"]["trainer"]["loss_ceiling"] == below)
    assert lost["status"] == "diverged"


def test_a_diverging_run_is_stored_and_its_neighbour_does_not_notice(
    qlexp: Command, store: Path, tmp_path: Path
) -> None:
    rates = "trainer.adapt.learning_rate=1e30,5e-3"
    outcome = qlexp("-m", *TINY, "trainer.adapt.clip=null", rates)
    assert (outcome.code, outcome.out) == (0, "1 diverged, 1 done\n")
    by_state = {summary["status"]: summary for summary in all_runs(store)}
    diverged, neighbour = by_state["diverged"], by_state["done"]
    assert diverged["lanes"] == neighbour["lanes"] == 2
    assert diverged["test_loss"] is None
    assert diverged["post_train_loss"] is None
    assert math.isfinite(diverged["frozen_loss"])
    alone = tmp_path / "alone"
    qlexp(*TINY, "trainer.adapt.clip=null", "trainer.adapt.learning_rate=5e-3", f"store={alone}")
    (solo,) = runs(alone).values()
    assert solo["lanes"] == 1
    for key in LOSSES:
        assert neighbour[key] == pytest.approx(solo[key], rel=1e-4)
    before = written(store)
    qlexp("-m", *TINY, "trainer.adapt.clip=null", rates)
    assert written(store) == before


@pytest.mark.parametrize("word", [f"study={'x' * 300}", "study=a/b", f"store={'x' * 300}"])
@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")])
def test_a_name_that_names_no_file_ends_before_any_compute(
    word: str, sweep: tuple[str, ...], qlexp: Command, store: Path
) -> None:
    outcome = qlexp(*sweep, *TINY, word)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert not store.exists()


@pytest.mark.parametrize("stage", ["pretrain", "adapt"])
@pytest.mark.parametrize(("every", "sizes"), [((2, 2), [2]), ((1, 3), [1, 1])])
def test_lanes_that_record_at_other_intervals_are_no_batch(
    stage: str, every: tuple[int, int], sizes: list[int], tmp_path: Path
) -> None:
    configs = [
        composed(f"function={function}", f"trainer.record_every={updates}", f"store={tmp_path}")
        for function, updates in zip(("drop_wave", "matyas"), every, strict=True)
    ]
    assert [len(group.configs) for group in plan_groups(stage, configs, width=9)] == sizes
