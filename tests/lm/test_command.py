"""The command `qlexp-lm`: studies, refusals before any compute, and the views of its runs."""

import subprocess
import sys
from pathlib import Path

import pytest
from made import SMALL, planned

from qlexp import UsageError
from qlexp.lm import main as lm_main
from qlexp.lm.main import LM_CONF
from qlexp.store.store import Store

EXPERIMENTS = sorted(path.stem for path in (LM_CONF / "experiment").glob("*.yaml"))


def command(*words: str) -> subprocess.CompletedProcess:
    program = [sys.executable, "-m", "qlexp.lm", *words]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def test_a_study_runs_goes_on_and_is_whole(tmp_path: Path) -> None:
    words = ("-m", *SMALL, f"store={tmp_path}", "study=mine", "task=gcd")
    first = command(*words, "method=frozen,lora", "seed=0,1")
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip().splitlines()[-1] == "4 done"
    folders = {folder: folder.stat().st_mtime_ns for folder in (tmp_path / "runs").iterdir()}
    again = command(*words, "method=frozen,lora,queryable", "seed=0,1")
    assert again.returncode == 0, again.stderr
    cells = Store(tmp_path).study("mine")
    assert {(cell.function, cell.method, cell.seed) for cell in cells} == {
        ("gcd", method, seed) for method in ("frozen", "lora", "queryable") for seed in (0, 1)
    }
    for folder, written in folders.items():
        assert folder.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("method=lorra",), "Did you mean 'lora'"),
        (("model.source=package:nowhere",), "in the package nowhere, which is not installed"),
        (("model.source=/nowhere",), "is no folder"),
        (("method._target_=os.system",), "must name a config class of peft or qlexp"),
        (("+method.rank=3",), "Unknown field of peft.LoraConfig 'rank'"),
        (("model.target_modules=[nothing]",), "does not fit the model"),
        (("budget=equal_rank", "method=queryable", "method.r=99"), "r=99 is larger than"),
        (("method=instruction_queryable",), "reads an instruction: choose instruction="),
        (("budget=equal_rank", "method.r=9999"), "r=9999 is larger than the linear"),
        (("method=queryable", "method.block_size=99"), "block_size=99 exceeds"),
        (("method=vb_lora", "method.vector_length=48"), "does not fit the model"),
        (("trainer.steps=0",), "steps=0 is out of range"),
        (("data.longest=8",), "a sample of"),
        (("task.order=sequence",), "takes one part after another"),
    ],
)
def test_bad_input_is_one_sentence(
    words: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["qlexp-lm", *SMALL, f"store={tmp_path}", *words])
    with pytest.raises(SystemExit) as left:
        lm_main.main()
    assert left.value.code == 2
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert shown.startswith("qlexp-lm: ")
    assert sentence in shown
    assert not list(tmp_path.glob("runs/*"))


def test_a_sweep_with_a_task_that_cannot_be_had_computes_nothing(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "broken.yaml").write_text(
        "name: broken\nparts: {broken: {source: jsonl, name: /nowhere, score: exact}}\n"
    )
    found = command(
        "-m", "--config-dir", str(tmp_path), *SMALL, f"store={tmp_path}", "task=gcd,broken"
    )
    assert found.returncode == 2
    assert (
        found.stderr.strip()
        .splitlines()[-1]
        .startswith("qlexp-lm: Task broken could not read /nowhere")
    )
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_study_says_what_it_is_for(name: str) -> None:
    first, second, *_ = (LM_CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert first == "# @package _global_"
    assert second.startswith("# ")


def test_a_method_keeps_near_loras_count() -> None:
    with pytest.raises(UsageError, match="comes no nearer to LoRA's"):
        planned("method=queryable", "method.atoms=512")
