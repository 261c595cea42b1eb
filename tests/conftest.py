"""The command, called in this process: a subprocess would cost two seconds of imports each time."""

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from qlexp.main import main
from qlexp.store import Store

TINY = (
    "trainer=smoke",
    "backbone.depth=2",
    "backbone.width=8",
    "backbone.heads=2",
    "backbone.frequencies=2",
    "method.rank=2",
    "data.pretrain=64",
    "data.adapt=32",
    "data.validation=16",
    "data.test=16",
    "device=cpu",
)  # for methods that have a rank; a whole run takes about 0.2 s

Command = Callable[..., "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def quiet_and_single() -> Iterator[None]:
    """One thread, no leftovers of Hydra, and the log handlers as they were."""
    root, threads = logging.getLogger(), torch.get_num_threads()
    handlers, level = list(root.handlers), root.level
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    root.handlers[:] = handlers
    root.setLevel(level)
    GlobalHydra.instance().clear()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where the commands of a test store their runs; not made yet."""
    return tmp_path / "store"


@pytest.fixture
def qlexp(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """`qlexp(*arguments)` as from a shell in an empty folder, with a store of the test's own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Outcome:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["qlexp", f"store={store}", "tracking=none", *arguments])
        capsys.readouterr()
        try:
            main()
        except SystemExit as stop:
            return Outcome(int(stop.code or 0), *capsys.readouterr())
        return Outcome(0, *capsys.readouterr())

    return call


def written(store: Path) -> dict[str, int]:
    """When each file of the runs and backbones in a store was written, in nanoseconds."""
    return {
        str(path.relative_to(store)): path.stat().st_mtime_ns
        for part in ("runs", "backbones")
        for path in sorted((store / part).rglob("*"))
    }


def all_runs(store: Path) -> list[dict[str, Any]]:
    """The stored summaries."""
    summaries = [Store(store).summary(folder.name) for folder in (store / "runs").iterdir()]
    return [summary for summary in summaries if summary is not None]


def runs(store: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The stored summaries by (function, method, seed)."""
    return {(s["function"], s["method"], s["seed"]): s for s in all_runs(store)}
