"""The command and the studies that tests share.

The command is called in this process: a subprocess would cost two seconds of imports each time.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from build import planned
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from made_up import SEEDS, config_of, write_study
from random_tables import TABLES, long_table

from qlexp import extensions
from qlexp.config.identity import run_id
from qlexp.main import main
from qlexp.problem.functions import FUNCTIONS
from qlexp.store.files import write_folder
from qlexp.store.manifest import Cell
from qlexp.store.store import Store
from qlexp.sweep.execute import execute

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


@pytest.fixture(autouse=True)
def nothing_from_outside() -> Iterator[None]:
    """Forgets the folders that a test has named, and what came from them."""
    path, functions = list(sys.path), dict(FUNCTIONS)
    yield
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(tuple(extensions.named_folders())):
            del sys.modules[name]
    for name in FUNCTIONS.keys() - functions.keys():
        del FUNCTIONS[name]
        ConfigStore.instance().repo["function"].pop(f"{name}.yaml", None)
    extensions._folders.clear()
    sys.path[:] = path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where the commands of a test store their runs; not made yet."""
    return tmp_path / "store"


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """`command(*arguments)` is `qlexp ARGUMENTS` as from a shell in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Outcome:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["qlexp", *arguments])
        capsys.readouterr()
        try:
            main()
        except SystemExit as stop:
            return Outcome(int(stop.code or 0), *capsys.readouterr())
        return Outcome(0, *capsys.readouterr())

    return call


@pytest.fixture
def qlexp(store: Path, command: Command) -> Command:
    """The same for runs, with a store of the test's own."""
    return lambda *arguments: command(f"store={store}", "tracking=none", *arguments)


def compute_study(
    root: Path, name: str, cells: Sequence[Sequence[str]], seeds: Sequence[int] = (0,)
) -> Store:
    """A store with a study of tiny runs: those of the given overrides, under every seed."""
    shape = [word for word in TINY if not word.startswith(("method.", "backbone.depth"))]
    places = [f"store={root}", "tracking=none", "budget.enforce=false", "backbone.depth=4"]
    own = [planned(*shape, *places, *overrides) for overrides in cells]
    configs = [replace(config, seed=seed) for config in own for seed in seeds]
    execute(configs)
    store = Store(root)
    named = [Cell(run_id(c), c.function.name, c.method.name, c.seed, "equal_rank") for c in configs]
    store.write_study(name, named)
    return store


@pytest.fixture(scope="session")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The study `tiny`: four methods, two functions, two seeds. Not to be changed."""
    cells = [
        [f"method={method}", f"function={function}", "trainer.adapt.epochs=6"]
        for method in ("frozen", "lora", "queryable", "instruction_queryable")
        for function in ("drop_wave", "matyas")
    ]
    return compute_study(tmp_path_factory.mktemp("studied") / "store", "tiny", cells, (0, 1))


@pytest.fixture
def made_up(tmp_path: Path) -> Store:
    """Nine functions, five methods, three seeds, two budgets, all of it finished.

    lora diverged on ackley with seed 1 (at a ceiling: its losses are finite), queryable on matyas
    with seeds 0 to 2 (null losses); full learns nothing of levy with seed 2; the backbone of
    griewank with seed 0 is weak.
    """
    store = Store(tmp_path / "store")
    write_study(store)
    return store


@pytest.fixture
def gappy(made_up: Store) -> Store:
    """The same with a missing cell, a wholly missing one and a failed one."""
    for name in ("ackley-lora-0", *(f"levy-lora-{seed}" for seed in SEEDS)):
        (made_up.run_folder(name) / "summary.json").unlink()
    (made_up.run_folder("drop_wave-queryable-2") / "summary.json").unlink()
    write_folder(
        made_up.run_folder("drop_wave-queryable-2"),
        {
            "run_id": "drop_wave-queryable-2",
            "function": "drop_wave",
            "method": "queryable",
            "seed": 2,
            "status": "failed",
            "error": "RuntimeError: no | memory\nat all_",
            "config": config_of("drop_wave", "queryable", 2),
        },
    )
    return made_up


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


@pytest.fixture(params=TABLES)
def frame(request: pytest.FixtureRequest) -> pd.DataFrame:
    """A long table of random losses."""
    return long_table(*TABLES[request.param])
