"""Engines that run whole groups on workers: same results as here, and every cell stored once."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from build import planned
from conftest import all_runs

from analysis.load import load_study
from qlexp.config.identity import run_id
from qlexp.config.schema import Config
from qlexp.errors import UsageError
from qlexp.main import main
from qlexp.store.store import Store
from qlexp.sweep.backends import Backend, run_elsewhere, submit
from qlexp.sweep.execute import execute, run_payload
from qlexp.sweep.groups import Group

TINY = ("backbone.depth=2", "backbone.width=8", "backbone.heads=2", "backbone.frequencies=2")
SMOKE = ("trainer=smoke", "data.pretrain=64", "data.adapt=32", "data.validation=16", "data.test=16")


def cells(store: Path) -> list[Config]:
    """Two methods of two seeds: two groups to adapt, one to pretrain."""
    common = (*TINY, *SMOKE, "tracking=none", f"store={store}")
    return [planned(*common, f"method={m}", f"seed={s}") for m in ("lora", "dora") for s in (0, 1)]


def losses(summaries: Sequence[dict[str, object]]) -> list[object]:
    return [summary["test_loss"] for summary in summaries]


@pytest.mark.parametrize(
    "backend",
    [
        Backend("joblib", workers=2),
        Backend("submitit_local", workers=2, options={"timeout_min": 5}),
        Backend("ray", workers=1),
    ],
    ids=lambda backend: backend.name,
)
def test_workers_store_what_this_process_would(backend: Backend, tmp_path: Path) -> None:
    expected = execute(cells(tmp_path / "here"), width=2)
    configs = cells(tmp_path / "there")
    found = execute(configs, width=2, backend=backend)
    assert losses(found) == pytest.approx(losses(expected), rel=1e-5)
    store = Store(tmp_path / "there")
    assert len(all_runs(store.root)) == len(configs)
    assert not list((store.root / "groups").iterdir())
    written = {
        path: path.stat().st_mtime_ns for path in (store.root / "runs").glob("*/summary.json")
    }
    execute(configs, width=2, backend=backend)
    assert written == {path: path.stat().st_mtime_ns for path in written}


def test_a_lost_job_does_not_take_the_others_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in Path(__file__).parents[:2]:  # this file's and the one of its helpers
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    backend = Backend("submitit_local", workers=3, options={"timeout_min": 5})
    payloads = [{"updates": 3}, {"updates": None}, {"updates": 5}]
    assert sorted(run_elsewhere(backend, updates_of, payloads, tmp_path)) == [3, 5]


def updates_of(payload: dict[str, int | None]) -> int:
    """A worker's task that ends its process where there is nothing to do."""
    if payload["updates"] is None:
        os._exit(1)
    return payload["updates"]


def test_two_workers_on_one_cell_store_it_once(tmp_path: Path) -> None:
    (config, *_) = cells(tmp_path)
    first = execute([config])[0]
    summary = Store(tmp_path).run_folder(run_id(config)) / "summary.json"
    written = summary.stat().st_mtime_ns
    run_payload(Group("adapt", (config,)).payload())
    assert summary.stat().st_mtime_ns == written
    assert execute([config])[0] == first


def test_the_slurm_script_asks_for_what_the_options_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, body in (("srun", ""), ("sbatch", f'cp "$1" {tmp_path}/script\necho job 4711')):
        tool = tmp_path / name
        tool.write_text(f"#!/bin/sh\n{body}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    configs = cells(tmp_path / "store")
    groups = [Group("adapt", tuple(configs[:2])), Group("adapt", tuple(configs[2:]))]
    options = {"slurm_partition": "gpu", "timeout_min": 90, "gpus_per_node": 1}
    jobs = submit(
        Backend("submitit_slurm", workers=3, options=options),
        run_payload,
        [group.payload() for group in groups],
        tmp_path,
    )
    script = (tmp_path / "script").read_text()
    assert [job.job_id for job in jobs] == ["4711_0", "4711_1"]
    assert "#SBATCH --array=0-1%2" in script  # two jobs: submitit lowers the limit of three
    assert "#SBATCH --partition=gpu" in script
    assert "#SBATCH --time=90" in script
    assert "#SBATCH --gpus-per-node=1" in script
    assert sys.executable in script


def test_an_engine_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'qlexp\[ray\]'"):
        Backend("ray")
    with pytest.raises(UsageError, match="Did you mean 'joblib'"):
        Backend("joblip")


def test_workers_want_a_backend_that_has_some() -> None:
    with pytest.raises(UsageError, match=r"add hydra\.launcher\.backend=joblib"):
        Backend(workers=2)


@pytest.mark.parametrize(
    "launcher",
    [
        ["hydra.launcher.backend=joblib", "hydra.launcher.workers=2"],
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"],
    ],
    ids=["whole groups", "Hydra's own joblib, one cell a job"],
)
def test_a_sweep_from_the_command_line(
    launcher: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    sweep = ["-m", "method=lora,dora", "seed=0", "tracking=none", f"store={store}"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["qlexp", *sweep, *TINY, *SMOKE, *launcher])
    main()
    assert {summary["method"] for summary in all_runs(store)} == {"lora", "dora"}


def test_the_optuna_sweeper_minimises_the_validation_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    search = [
        "-m",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=4",
        "hydra.sweeper.n_jobs=2",
        "hydra.sweeper.direction=minimize",
        "trainer.adapt.learning_rate=tag(log,interval(1e-4,1e-1))",
        "tracking=none",
        f"store={store}",
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["qlexp", *search, *TINY, *SMOKE])
    main()
    summaries = all_runs(store)
    assert len(summaries) == 4
    assert load_study(Store(store), "adhoc")["overrides"].nunique() == 4
    assert {summary["lanes"] for summary in summaries} == {2}  # trials of a round share a batch
    best = json.loads(json.dumps(min(summary["validation_loss"] for summary in summaries)))
    assert best > 0
