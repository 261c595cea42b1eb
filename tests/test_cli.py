"""The command and `qlexp.run`: bad input is one sentence before any compute, good input a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from build import METHODS, Broken
from conftest import TINY, Command, Outcome, runs, written

import qlexp as package
from qlexp.adapters.lora import LoRA
from qlexp.errors import RunError, UsageError
from qlexp.problem.functions import FUNCTIONS
from qlexp.store.files import read_tensors

SUMMARY_KEYS = {
    "run_id",
    "function",
    "method",
    "seed",
    "status",
    "pretrain_loss",
    "pretrain_r2",
    "frozen_loss",
    "post_train_loss",
    "test_loss",
    "test_loss_raw",
    "trainable_parameters",
    "total_parameters",
    "steps",
    "seconds",
    "peak_memory_bytes",
    "versions",
    "commit",
    "config",
}


BAD_INPUT = {
    "function": ("function=drop_wav", ["'drop_wav'", "'drop_wave'", *FUNCTIONS]),
    "method": ("method=lroa", ["'lroa'", "'lora'", *METHODS]),
    "optimizer": ("optimizer=sopa", ["'sopa'", "'soap'", "adamw"]),
    "experiment": ("experiment=smok", ["'smok'", "'smoke'", "quick", "table1"]),
    "empty name": ("method=", METHODS),
    "key": ("foo=1", ["'foo'", "seed"]),
    "key of a method": ("method.rnak=3", ["'method.rnak'", "'method.rank'", "method.alpha"]),
    "key elsewhere": ("rank=3", ["'rank'", "'method.rank'"]),
    "added key": ("+foo=1", ["'foo'", "seed"]),
    "added key of a node": ("+trainer.adapt.lr=1", ["trainer.adapt.learning_rate"]),
    "added key of a method": ("+method.foo=1", ["method.foo"]),
    "text for an integer": ("method.rank=abc", ["method.rank", "'abc'", "Integer"]),
    "text for the seed": ("seed=abc", ["seed", "'abc'", "Integer"]),
    "fraction for an integer": ("seed=1.5", ["seed", "1.5", "Integer"]),
    "number for a node": ("trainer.adapt=3", ["trainer.adapt", "3"]),
    "null": ("seed=null", ["seed"]),
    "negative seed": ("seed=-1", ["seed=-1", "at least 0"]),
    "negative noise": ("data.noise=-0.1", ["noise=-0.1", "at least 0"]),
    "not a number": ("data.noise=nan", ["noise=nan"]),
    "rank": ("method.rank=9", ["method.rank=9", "at most 8"]),
    "budget": ("budget.rank=9", ["9", "at most 8"]),
    "blocks": ("method=queryable method.block_size=3", ["block_size=3", "backbone.depth=2"]),
    "top k": ("method=queryable method.top_k=17", ["top_k=17", "atoms=16"]),
    "top 1": ("method=queryable method.top_k=1", ["top_k=1", "straight_through=true"]),
    "heads": ("backbone.heads=3", ["backbone.width=8", "3"]),
    "target": ("method.targets=[qkv,key]", ["'key'", "qkv"]),
    "no such class": ("method._target_=foo.Bar", ["foo.Bar", "qlexp.adapters.lora.LoRA"]),
    "no method": ("method._target_=pathlib.Path", ["pathlib.Path", "qlexp.adapters.lora.LoRA"]),
    "null class": ("method._target_=null", ["qlexp.adapters.lora.LoRA"]),
    "domain": ("function.domain=[[0,1],[2,1]]", ["function.domain", "[low, high]"]),
    "coefficient": ("function.coefficients.freq=1", ["function.coefficients.frequency"]),
    "shifted coefficient": ("shift.coefficients=[freq]", ["'freq'", "frequency"]),
    "device": ("device=gpu", ["'gpu'", "'cpu'"]),
    "precision": ("precision=float8", ["'float8'", "float32"]),
    "study": ("study=../tables", ["study", "../tables"]),
    "grammar": ("method=[lora", ["'method=[lora'", "KEY=VALUE"]),
    "no equals sign": ("lora", ["'lora'", "KEY=VALUE"]),
    "several values": ("method=lora,dora", ["method=lora,dora", "-m"]),
    "interpolation": ("store=${nowhere}", ["nowhere", "not found"]),
    "sweep, unknown name": ("-m method=lora,lroa", ["'lroa'", "'lora'"]),
    "sweep, one bad seed": ("-m method=lora,dora seed=0,-1", ["seed=-1"]),
    "sweep, one bad rank": ("-m method.rank=2,9", ["method.rank=9"]),
    "sweep, one bad type": ("-m method.rank=2,abc", ["method.rank", "'abc'"]),
    "sweep, added key": ("-m +foo=1,2", ["'foo'"]),
    "sweep, study": ("-m study=a/b seed=0,1", ["a/b"]),
    "sweep, width": ("-m seed=0,1 hydra.launcher.width=0", ["hydra.launcher.width=0"]),
    "sweep, empty": ("-m function=glob(none*)", ["empty", "glob"]),
    "sweep, launcher": ("-m seed=0,1 hydra/launcher=lane", ["'lane'", "'lanes'"]),
}


def assert_refused(outcome: Outcome, words: list[str]) -> None:
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("qlexp: ")
    assert outcome.err.endswith((".\n", "?\n"))
    assert outcome.err.count("\n") == 1
    for word in words:
        assert word in outcome.err


@pytest.mark.parametrize(("arguments", "words"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_one_sentence_and_stores_nothing(
    arguments: str, words: list[str], qlexp: Command, store: Path
) -> None:
    assert_refused(qlexp(*TINY, *arguments.split()), words)
    assert not store.exists()


def test_cuda_is_refused_where_there_is_none(
    qlexp: Command, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_refused(qlexp(*TINY, "device=cuda"), ["device=cuda", "device=cpu"])
    assert_refused(qlexp(*TINY, "-m", "device=cpu,cuda"), ["device=cuda", "device=cpu"])
    assert not store.exists()


@pytest.mark.parametrize("sweep", [[], ["-m", "seed=0,1"]])
def test_a_store_that_is_a_file_is_refused(sweep: list[str], qlexp: Command, store: Path) -> None:
    store.write_text("not a folder")
    assert_refused(qlexp(*TINY, *sweep), [str(store), "store=PATH"])
    assert store.read_text() == "not a folder"


@pytest.mark.parametrize("text", ["rank: [2", "rank: 2\n  alpha: 3", "{"])
def test_a_broken_yaml_is_refused(text: str, qlexp: Command, store: Path, tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(text)
    outcome = qlexp("--config-dir", str(tmp_path), "method=mine")
    assert_refused(outcome, ["YAML", "mine.yaml"])
    assert not store.exists()


def test_the_installed_command_refuses_in_one_sentence(tmp_path: Path) -> None:
    """Once as users meet it: another process, another folder, W&B asked for without an account."""
    keep = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "qlexp", "-m", "seed=0,1", "tracking=online", *TINY],
        cwd=tmp_path,
        env={**keep, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert_refused(Outcome(done.returncode, done.stdout, done.stderr), ["tracking=online", "login"])
    assert not (tmp_path / "store" / "runs").exists()


def test_a_run_is_stored_whole_and_not_computed_again(
    qlexp: Command, store: Path, tmp_path: Path
) -> None:
    first = qlexp(*TINY)
    assert (first.code, first.err) == (0, "")
    (summary,) = runs(store).values()
    assert summary.keys() >= SUMMARY_KEYS
    assert summary["status"] == "done"
    assert summary["run_id"] in first.out
    folder = store / "runs" / summary["run_id"]
    weights = read_tensors(folder / "adapter.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) == summary["trainable_parameters"]
    curves = pd.read_parquet(folder / "curves.parquet")
    assert curves["step"].iloc[-1] == summary["steps"] - 1
    before = written(store)
    second = qlexp(*TINY)
    assert (second.code, second.err) == (0, "")
    assert written(store) == before
    assert not list((store / "groups").iterdir())


def test_sweep_flag_may_stand_anywhere(qlexp: Command, store: Path) -> None:
    assert qlexp(*TINY, "seed=0,1", "-m", "function=matyas").code == 0
    assert runs(store).keys() == {("matyas", "lora", 0), ("matyas", "lora", 1)}


def test_python_reads_what_the_command_stored(qlexp: Command, store: Path) -> None:
    qlexp(*TINY, "seed=3")
    before = written(store)
    result = package.run([*TINY, "seed=3", f"store={store}", "tracking=none"])
    assert written(store) == before
    assert result.summary == json.loads((result.folder / "summary.json").read_text())
    assert result.summary["seed"] == 3
    assert len(result.curves) > 0


def test_python_raises_what_the_command_prints(store: Path) -> None:
    common = [*TINY, f"store={store}", "tracking=none"]
    with pytest.raises(UsageError, match="'lora'"):
        package.run([*common, "method=lroa"])
    with pytest.raises(UsageError, match=r"method\.rank=9"):
        package.run([*common, "method.rank=9"])
    assert not store.exists()
    with pytest.raises(RunError, match="no forward pass today"):
        package.run([*common, "method._target_=build.Broken"])


def test_a_failed_run_is_named_and_tried_again(
    qlexp: Command, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = (*TINY, "method._target_=build.Broken", "method.name=broken")
    outcome = qlexp(*broken)
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    assert outcome.err.endswith(
        "drop_wave/broken/s0 failed: ArithmeticError: no forward pass today\n"
    )
    (summary,) = runs(store).values()
    assert summary["status"] == "failed"
    assert summary["error"] == "ArithmeticError: no forward pass today"
    monkeypatch.setattr(Broken, "forward", LoRA.forward)
    assert qlexp(*broken).code == 0
    (summary,) = runs(store).values()
    assert summary["status"] == "done"
