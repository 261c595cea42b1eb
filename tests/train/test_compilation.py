"""A compiled step gives the eager one's numbers, and one that cannot be compiled trains eagerly."""

import shutil
from typing import Any

import pytest
import torch
from conftest import TINY, Command, runs
from torch._inductor.exc import InductorError

from qlexp.cell import configure
from qlexp.sweep.execute import execute
from qlexp.train import compilation

SHALLOW = (*TINY, "backbone.depth=1", "function=matyas", "precision=float64", "tracking=none")


@pytest.fixture(autouse=True)
def anew() -> None:
    compilation._can_compile.cache_clear()
    compilation._compiled.cache_clear()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++")
def test_a_compiled_step_gives_the_eager_numbers(qlexp: Command, store: Any) -> None:
    losses = []
    for compiled in ("true", "false"):
        assert qlexp(*SHALLOW, f"compile={compiled}").code == 0
        losses.append(runs(store)["matyas", "lora", 0]["test_loss"])
        shutil.rmtree(store)
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_without_a_compiler_it_trains_eagerly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", refuse)
    found = compilation.loss_function(True, torch.device("cpu"), "any")
    assert found is compilation.lane_losses
    assert "no working C++ compiler found" in caplog.text
    assert "Install a C++ compiler" in caplog.text


def test_a_broken_cache_of_the_compiler_costs_no_run(
    store: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*inputs: Any) -> torch.Tensor:
        raise InductorError(ImportError("kernel.so: file too short"), None)

    monkeypatch.setattr(compilation, "_can_compile", lambda device: True)
    monkeypatch.setattr(compilation, "_compiled", lambda mode, shape: broken)
    (summary,) = execute([configure([*SHALLOW, "compile=true", f"store={store}"])])
    assert summary["status"] == "done"
    assert "file too short" in caplog.text
    assert "trained uncompiled" in caplog.text
