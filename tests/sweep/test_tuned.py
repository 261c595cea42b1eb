"""A tuned sweep: trials stop and go on in other batches, and a survivor's numbers are its own."""

import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from build import NARROW, Broken, planned
from conftest import TINY, Command, all_runs, written

from qlexp.adapters.lora import LoRA
from qlexp.config.identity import run_id
from qlexp.config.schema import Config
from qlexp.config.settings import flat
from qlexp.store.files import read_curves, read_tensors
from qlexp.store.store import Store
from qlexp.sweep import execute as executing
from qlexp.sweep import tuned
from qlexp.sweep.execute import execute
from qlexp.sweep.halving import validation_at
from qlexp.train import loop, stages
from qlexp.train.loop import update_lanes

RATE = "trainer.adapt.learning_rate"
RATES = (2.5e-3, 5e-3, 1e-2, 2e-2)
LOSSES = ("post_train_loss", "validation_loss", "test_loss")
TUNED = (
    *("-m", *TINY, "trainer.adapt.epochs=16", "function=drop_wave,matyas", "seed=0,1"),
    *(f"{RATE}={','.join(map(str, RATES))}", "tracking=none"),
    f"hydra.sweeper.tuning.setting={RATE}",
)


def lanes(store: Path, *overrides: str) -> list[Config]:
    """Eight runs of 32 updates that could share a batch."""
    return [
        planned(
            *NARROW,
            *("trainer.pretrain.epochs=1", "data.validation=16", "data.test=16"),
            *("trainer.adapt.epochs=16", "trainer.record_every=3", "precision=float64"),
            *(f"seed={lane // 4}", f"{RATE}={RATES[lane % 4]}", f"store={store}", *overrides),
        )
        for lane in range(8)
    ]


def folder(config: Config) -> Path:
    return Store(config.store).run_folder(run_id(config))


@pytest.mark.parametrize("method", ["lora", "queryable", "full"])  # full: SOAP
@pytest.mark.parametrize("draw", range(2))
def test_a_survivors_numbers_are_those_of_its_undisturbed_run(
    tmp_path: Path, method: str, draw: int
) -> None:
    """Whatever batches it went through, in whatever order."""
    chance = random.Random(draw)
    whole = lanes(tmp_path / "whole", f"method={method}")
    expected = execute(whole, width=8)
    going = lanes(tmp_path / "rungs", f"method={method}")
    for rung, count in ((8, 8), (4, 6), (2, 5), (1, 3)):
        going = chance.sample(going, count)
        found = execute(going, width=chance.randint(1, 5), rung=rung)
        if rung > 1:
            assert {summary["status"] for summary in found} == {"paused"}
            assert {summary["steps"] for summary in found} == {32 // rung}
    names = [run_id(config) for config in whole]
    for config, summary in zip(going, found, strict=True):
        lane = names.index(run_id(config))
        other = expected[lane]
        assert summary["status"] == "done"
        for key in LOSSES:
            assert summary[key] == pytest.approx(other[key], rel=1e-9)
        for key, values in other["path"].items():
            assert summary["path"][key] == pytest.approx(values, rel=1e-9)
        curves = (read_curves(folder(own)).to_numpy() for own in (config, whole[lane]))
        np.testing.assert_allclose(*curves, rtol=1e-7)
        weights = (
            read_tensors(folder(own) / "adapter.safetensors") for own in (config, whole[lane])
        )
        torch.testing.assert_close(*weights, rtol=0, atol=1e-8)
        assert not (folder(config) / "state.pt").exists()


class Stop(BaseException):
    """The process is ended."""


def stopping(work: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """`work` until it has been called so often."""
    left = iter(range(calls))

    def counted(*arguments: Any, **named: Any) -> Any:
        if next(left, None) is None:
            raise Stop
        return work(*arguments, **named)

    return counted


@pytest.mark.parametrize(("writes", "seconds"), [(4, 60.0), (10, 60.0), (10, 0.0), (16, 60.0)])
def test_a_batch_that_is_stopped_while_its_lanes_are_stored_trains_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int, seconds: float
) -> None:
    """Stored are two backbones, six lanes at each of two rungs, and six at the end."""
    counted: list[int] = []
    monkeypatch.setattr(executing, "CHECKPOINT_SECONDS", seconds)
    monkeypatch.setattr(
        loop,
        "update_lanes",
        lambda *given: (counted.append(1), update_lanes(*given))[1],
    )
    expected = execute(lanes(tmp_path / "whole")[:6])
    once = len(counted)
    configs = lanes(tmp_path / "stopped")[:6]

    def by_rungs() -> list[dict[str, Any]]:
        for rung in (4, 2):
            execute(configs, rung=rung)
        return execute(configs)

    with monkeypatch.context() as patch:
        patch.setattr(stages, "write_folder", stopping(stages.write_folder, writes))
        with pytest.raises(Stop):
            by_rungs()
    found = by_rungs()
    assert len(counted) == 2 * once
    for one, other in zip(found, expected, strict=True):
        for key in LOSSES:
            assert one[key] == pytest.approx(other[key], rel=1e-9)
    assert not list((Store(configs[0].store).root / "groups").iterdir())


def statuses(store: Path) -> dict[str, int]:
    found = [summary["status"] for summary in all_runs(store)]
    return {status: found.count(status) for status in set(found)}


def test_a_tuned_sweep_trains_what_the_rungs_keep(qlexp: Command, store: Path) -> None:
    settings = [f"hydra.sweeper.tuning.{word}" for word in ("extend=0", "rungs=[8,2]", "keep=0.4")]
    outcome = qlexp(*TUNED, *settings)
    assert (outcome.code, outcome.out, outcome.err) == (0, "4 done, 12 stopped\n", "")
    stored = all_runs(store)
    for function in ("drop_wave", "matyas"):
        rows = [summary for summary in stored if summary["function"] == function]
        rungs = sorted(summary.get("rung", 1) for summary in rows)
        assert rungs == [1] * 2 + [2] * 2 + [8] * 4
        assert {rate_of(s) for s in rows if s["status"] == "done"} <= set(RATES)
        assert len({rate_of(s) for s in rows if s["status"] == "done"}) == 1
    for summary in stored:
        if summary["status"] == "stopped":
            assert summary["steps"] == 16 // summary["rung"]
            assert summary["planned_steps"] == 16
            assert summary["rung_validation_loss"] == summary["path"]["validation_loss"][-1]
            assert "test_loss" not in summary
    assert not list(store.rglob("state.pt"))
    assert not list((store / "groups").iterdir())
    assert len(Store(store).study("adhoc")) == 16
    before = written(store)
    assert qlexp(*TUNED, *settings).out == "4 done, 12 stopped\n"
    assert written(store) == before


def rate_of(summary: dict[str, Any]) -> float:
    return summary["config"]["trainer"]["adapt"]["learning_rate"]


def test_the_decisions_are_those_of_the_whole_grid(
    qlexp: Command, store: Path, tmp_path: Path
) -> None:
    """What a rung knows of a run does not depend on whether it was stopped."""
    qlexp(*TUNED)
    early = {s["run_id"]: s for s in all_runs(store) if s["status"] == "done"}
    whole = tmp_path / "whole"
    qlexp(*TUNED, "hydra.sweeper.tuning.setting=null", f"store={whole}")
    finished = {s["run_id"]: s for s in all_runs(whole)}
    for identity in early.keys() & finished.keys():
        for key in LOSSES:
            assert early[identity][key] == pytest.approx(finished[identity][key], rel=1e-4)
    before = written(whole)
    qlexp(*TUNED, f"store={whole}", "hydra.sweeper.tuning.extend=0")
    assert written(whole) == before


def test_a_trial_that_was_stopped_can_be_asked_for(qlexp: Command, store: Path) -> None:
    qlexp(*TUNED, "hydra.sweeper.tuning.extend=0")
    assert qlexp(*TUNED, "hydra.sweeper.tuning.setting=null").out == "16 done\n"


def test_a_plain_sweep_goes_on_from_paused_trials(
    qlexp: Command, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tuned, "_stop", stopping(lambda *given: None, 0))
        with pytest.raises(Stop):
            qlexp(*TUNED)
    assert statuses(store) == {"paused": 16}
    counted: list[int] = []
    monkeypatch.setattr(
        stages,
        "_left",
        lambda *given: (left := LEFT(*given), counted.append(len(left)))[0],
    )
    assert qlexp(*TUNED, "hydra.sweeper.tuning.setting=null").out == "16 done\n"
    assert sum(counted) == 16


LEFT = stages._left


def judged_by(key: str, best: float) -> Callable[..., float | None]:
    """Validation losses that are the smaller, the nearer a setting of a run lies to `best`."""

    def judge(summary: Mapping[str, Any], rung: int) -> float | None:
        if validation_at(summary, rung) is None:
            return None
        return abs(math.log(flat(summary["config"])[key] / best))

    return judge


@pytest.mark.parametrize(
    ("best", "added"), [(1e-3, [1.25e-3, 6.25e-4]), (5e-3, []), (4e-2, [4e-2, 8e-2])]
)
def test_the_grid_grows_until_the_best_lies_inside(
    qlexp: Command, store: Path, monkeypatch: pytest.MonkeyPatch, best: float, added: list[float]
) -> None:
    monkeypatch.setattr(tuned, "validation_at", judged_by(RATE, best))
    few = (*TUNED, "function=matyas")
    assert qlexp(*few).code == 0
    cells = Store(store).study("adhoc")
    assert sorted({cell.settings[RATE] for cell in cells if not cell.extension}) == list(RATES)
    found = {cell.extension: cell.settings[RATE] for cell in cells if cell.extension}
    assert list(found.values()) == added
    assert list(found) == list(range(1, 1 + len(added)))
    before = written(store)
    qlexp(*few)
    assert written(store) == before
    assert Store(store).study("adhoc") == cells


def test_the_grid_grows_so_far_and_no_further(
    qlexp: Command, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuned, "validation_at", judged_by(RATE, 1e3))
    qlexp(*TUNED, "function=matyas", "seed=0", "hydra.sweeper.tuning.extend=2")
    assert max(cell.settings[RATE] for cell in Store(store).study("adhoc")) == 8e-2


def test_a_value_that_no_run_can_have_ends_the_grid(
    qlexp: Command,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tuned, "validation_at", judged_by("method.rank", 0.1))
    ranks = ("function=matyas", "seed=0", "method.rank=1,2", f"{RATE}=5e-3")
    outcome = qlexp(*TUNED, *ranks, "hydra.sweeper.tuning.setting=method.rank")
    assert (outcome.code, outcome.out) == (0, "1 done, 1 stopped\n")
    assert "the grid of method.rank ends at 1" in caplog.text
    assert len(Store(store).study("adhoc")) == 2


def test_what_trains_nothing_is_not_tuned(qlexp: Command, store: Path) -> None:
    words = [word for word in TUNED if word != "method.rank=2"]
    assert qlexp(*words, "method=lora,frozen", "seed=0", "function=levy").code == 0
    frozen = [summary for summary in all_runs(store) if summary["method"] == "frozen"]
    assert [summary["status"] for summary in frozen] == ["done"] * len(RATES)
    assert not any(c.extension for c in Store(store).study("adhoc") if c.method == "frozen")


def test_a_trial_that_fails_falls_behind_and_is_tried_again(qlexp: Command, store: Path) -> None:
    kinds = f"method._target_=build.{Broken.__name__},{LoRA.__module__}.LoRA"
    few = (*TUNED, "function=matyas", "seed=0", kinds, "hydra.sweeper.tuning.extend=0")
    outcome = qlexp(*few)
    assert outcome.code == 1
    assert outcome.out.endswith("1 done, 4 failed, 3 stopped\n")
    before = written(store)
    assert qlexp(*few).code == 1
    after = written(store)
    assert {Path(name).parts[1] for name in after if before.get(name) != after[name]} == {
        summary["run_id"] for summary in all_runs(store) if summary["status"] == "failed"
    }


def test_where_the_best_diverges_in_the_end_the_next_goes_on(
    qlexp: Command, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = (*TUNED, "function=matyas", "seed=0", "hydra.sweeper.tuning.extend=0")
    qlexp(*few)
    (best,) = (s for s in all_runs(store) if s["status"] == "done")
    other = store.with_name("ceiling")
    ceiling = (
        f"trainer.loss_ceiling={max(best['post_train_loss'], best['validation_loss']) * 0.999}"
    )
    qlexp(*few, ceiling, f"store={other}")
    ends = [s["status"] for s in all_runs(other) if s["status"] not in ("stopped", "paused")]
    assert ends.count("diverged") >= 1
    assert len(ends) > 1 or ends == ["done"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["hydra.sweeper.tuning.setting=trainer.adapt.learnin_rate"], f"Did you mean '{RATE}'"),
        (["hydra.sweeper.tuning.setting=data.noise", "data.noise=0,0.1"], "shared by all methods"),
        (["hydra.sweeper.tuning.setting=method.rank"], "is not swept"),
        (["hydra.sweeper.tuning.rungs=[2,8]"], "in this order"),
        (["hydra.sweeper.tuning.rungs=[3]"], "in this order"),
        (["hydra.sweeper.tuning.rungs=[64,2]"], "1/64 of the 16 updates of lora is none"),
        (["hydra.sweeper.tuning.keep=0"], "keep=0"),
        (["hydra.sweeper.tuning.extend=-1"], "extend=-1"),
        (["hydra.sweeper.tuning.kept=1"], "kept"),
        (["hydra/launcher=basic"], "hydra/launcher=lanes alone"),
        (
            ["hydra.sweeper.tuning.setting=trainer.adapt.clip", "trainer.adapt.clip=1,null"],
            "takes positive numbers, not None",
        ),
        (["shift.targets=2", "shift.order=sequence"], "targets in sequence"),
    ],
)
def test_what_cannot_be_tuned_is_refused(
    qlexp: Command, store: Path, words: list[str], text: str
) -> None:
    outcome = qlexp(*TUNED, *words)
    assert outcome.code == 2
    assert text in outcome.err
    assert outcome.err.count("\n") == 1
    assert not all_runs(store) if (store / "runs").is_dir() else True
