"""The W&B mirror, read back from the files that it writes."""

import logging
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb
from omegaconf import OmegaConf
from wandb_records import MirroredRun, read_run

from qlexp.config.schema import TrackingConfig
from qlexp.errors import UsageError
from qlexp.tracking import check, mirror

ROOT = Path(__file__).parent.parent
LAYERS = ("embed", "layer_0")
CELL = {"function": "ackley", "method": "lora", "seed": 0}
SUMMARY = {**CELL, "status": "done", "r2": 0.875, "validation": {"rmse": 0.25, "mae": None}}


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No settings of the user and no W&B session of another test."""
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    (tmp_path / "home").mkdir()
    wandb.teardown()
    yield
    wandb.teardown()


def tracking(tmp_path: Path, mode: str = "offline", **fields: Any) -> TrackingConfig:
    return TrackingConfig(mode=mode, directory=str(tmp_path / "tracked"), **fields)


def config(function: str = "ackley", seed: int = 0) -> dict[str, Any]:
    return {
        "function": {"name": function, "coefficients": {"a": 20.0}, "domain": [[-5.0, 5.0]] * 2},
        "method": {"_target_": "qlexp.adapters.lora.LoRA", "name": "lora", "rank": 8},
        "optimizer": {"name": "adamw", "beta1": 0.9},
        "seed": seed,
        "compile": False,
    }


def curves(rows: int = 5) -> pd.DataFrame:
    step = pd.Series(range(0, 10 * rows, 10))
    return pd.DataFrame(
        {
            "step": step,
            "loss": 1.0 / (step + 3),
            "learning_rate": 3e-3 * (1 - step / (10 * rows)),
            "gradient_norm.embed": step / 7,
            "gradient_norm.layer_0": step / 11,
        }
    )


def mirrored(tmp_path: Path) -> dict[str, MirroredRun]:
    wandb.teardown()  # its service writes the files, and `finish` does not wait for the last byte
    runs = [read_run(file) for file in (tmp_path / "tracked").glob("wandb/offline-run-*/*.wandb")]
    assert len({run.run_id for run in runs}) == len(runs)
    return {run.run_id: run for run in runs}


def logged(run: MirroredRun) -> list[dict[str, Any]]:
    """The history without W&B's own clock."""
    return [
        {key: value for key, value in row.items() if key not in ("_runtime", "_timestamp")}
        for row in run.history
    ]


def expected(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of `curves` under W&B's names."""
    names = {"step": "_step", **{f"gradient_norm.{x}": f"gradient_norm/{x}" for x in LAYERS}}
    return [dict(row) for _, row in table.astype(object).rename(columns=names).iterrows()]


def test_two_runs_of_one_process_are_read_back_whole(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cells = {"0a" * 8: config("ackley", 0), "1b" * 8: config("booth", 3)}
    tables = {"0a" * 8: curves(5), "1b" * 8: curves(400)}  # the second fills several blocks
    check(tracking(tmp_path, project="mine"))
    for run_id, cell in cells.items():
        own = {**SUMMARY, "function": cell["function"]["name"], "seed": cell["seed"]}
        mirror(tracking(tmp_path, project="mine"), run_id, "main", cell, own, tables[run_id])
    runs = mirrored(tmp_path)
    assert runs.keys() == cells.keys()
    for run_id, run in runs.items():
        assert (run.group, run.project, run.job_type) == ("main", "mine", "adapt")
        assert {name: run.config[name] for name in cells[run_id]} == cells[run_id]
        assert logged(run) == expected(tables[run_id])
        cell = cells[run_id]
        own = {**SUMMARY, "function": cell["function"]["name"], "seed": cell["seed"]}
        assert {key: run.summary[key] for key in own} == own
        assert not {"loss", "learning_rate"} & run.summary.keys()
        assert run.exit_code == 0
    assert runs["0a" * 8].name == "ackley/lora/s0"
    assert runs["1b" * 8].name == "booth/lora/s3"
    assert set(runs["1b" * 8].tags) == {"booth", "lora", "adamw", "done"}
    assert capfd.readouterr() == ("", "")


def test_values_that_are_not_finite_survive(tmp_path: Path) -> None:
    table = curves(3)
    table.loc[1, "loss"] = math.inf
    table.loc[2, ["loss", "gradient_norm.embed"]] = math.nan
    summary = {**CELL, "status": "diverged", "r2": math.nan, "loss": math.inf}
    mirror(tracking(tmp_path), "2c" * 8, "main", config(), summary, table)
    (run,) = mirrored(tmp_path).values()
    for row, wanted in zip(logged(run), expected(table), strict=True):
        assert row == pytest.approx(wanted, rel=0, abs=0, nan_ok=True)
    assert run.summary["r2"] == "NaN"  # the texts that W&B takes for these numbers
    assert run.summary["loss"] == "Infinity"
    assert run.exit_code == 0


def test_a_run_without_curves_has_no_history(tmp_path: Path) -> None:
    mirror(tracking(tmp_path), "3d" * 8, "main", config(), {**CELL, "status": "failed"}, None)
    (run,) = mirrored(tmp_path).values()
    assert run.history == []
    assert run.summary["status"] == "failed"


def test_a_failure_costs_one_warning_and_the_run_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("disk full\nand more")

    monkeypatch.setattr(wandb.Run, "log", full)
    with caplog.at_level(logging.WARNING):
        mirror(tracking(tmp_path), "4e" * 8, "main", config(), SUMMARY, curves())
    (record,) = caplog.records
    assert "4e" * 8 in record.getMessage()
    assert "disk full" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert mirrored(tmp_path)["4e" * 8].exit_code == 1


def test_a_wandb_that_cannot_start_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise wandb.Error("service gone")

    monkeypatch.setattr(wandb, "init", gone)
    mirror(tracking(tmp_path), "5f" * 8, "main", config(), SUMMARY, curves())
    (record,) = caplog.records
    assert "service gone" in record.getMessage()


@pytest.mark.parametrize("mode", ["online", "disabled"])
def test_the_config_outranks_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    mirror(tracking(tmp_path), "6a" * 8, "main", config(), SUMMARY, curves())
    assert mirrored(tmp_path).keys() == {"6a" * 8}


def test_none_writes_nothing_and_does_not_import_wandb(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from qlexp.config.schema import TrackingConfig\n"
        "from qlexp.tracking import check, mirror\n"
        f"none = TrackingConfig(mode='none', directory={str(tmp_path / 'tracked')!r})\n"
        "check(none)\n"
        "mirror(none, 'id', 'main', {}, {}, None)\n"
        "sys.exit('wandb' in sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not (tmp_path / "tracked").exists()
    assert not (tmp_path / "wandb").exists()


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_online_without_a_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)  # has no say
    with pytest.raises(UsageError, match="no W&B API key: run `wandb login`"):
        check(tracking(tmp_path, "online"))


def test_online_accepts_a_key_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    check(tracking(tmp_path, "online"))
    assert capfd.readouterr() == ("", "")


def test_online_accepts_a_key_of_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "keys"
    netrc.write_text(f"machine wandb.test\n  login user\n  password {'0' * 40}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.test")
    check(tracking(tmp_path, "online"))


def test_online_accepts_a_key_of_the_settings_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings").write_text(f"[default]\napi_key = {'0' * 40}\n")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    check(tracking(tmp_path, "online"))


def test_a_malformed_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(UsageError, match=r"cannot use the API key .*40"):
        check(tracking(tmp_path, "online"))


def test_offline_needs_no_key(tmp_path: Path) -> None:
    check(tracking(tmp_path, "offline"))


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_directory_that_is_not_writable_is_refused(tmp_path: Path, mode: str) -> None:
    (tmp_path / "tracked").write_text("a file in the way")
    with pytest.raises(UsageError, match=r"tracked is not writable .*tracking\.directory"):
        check(tracking(tmp_path, mode))


@pytest.mark.parametrize("project", ["a/b", "what?", "x" * 129])
def test_a_project_that_wandb_refuses_is_refused(tmp_path: Path, project: str) -> None:
    with pytest.raises(UsageError, match=r"tracking\.project"):
        check(tracking(tmp_path, project=project))


@pytest.mark.parametrize("mode", ["online", "offline", "none"])
def test_each_file_of_the_group_sets_every_field_and_comments_it(mode: str) -> None:
    file = ROOT / "conf" / "tracking" / f"{mode}.yaml"
    whole = OmegaConf.create({"store": "store", "tracking": OmegaConf.load(file)})
    values = OmegaConf.to_container(whole, resolve=True)["tracking"]
    assert TrackingConfig(**values) == TrackingConfig(mode=mode)
    assert set(values) == {"mode", "project", "entity", "directory"}
    assert all(" # " in line for line in file.read_text().splitlines())
