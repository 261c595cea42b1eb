"""The examples of `examples/extending`, run as a stranger would: in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY, all_runs

EXAMPLES = Path(__file__).parents[1] / "examples" / "extending"
PLACES = ("tracking=none", "store=store", "budget.enforce=false")
SMALL = tuple(word for word in TINY if not word.startswith("method."))


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(EXAMPLES.parents[1]), *sys.path])
    return subprocess.run(
        [sys.executable, "-m", "qlexp", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("example", "words", "methods", "functions"),
    [
        ("method", ("method=parallel", "function=matyas"), {"parallel"}, {"matyas"}),
        ("function", ("function=four_wells",), {"lora"}, {"four_wells"}),
        (
            "study",
            ("experiment=wide_rates", "seed=0", "trainer.adapt.learning_rate=5e-3"),
            {"lora", "queryable", "full"},
            {"drop_wave", "matyas"},
        ),
    ],
)
def test_a_folder_outside_of_the_project_is_found(
    tmp_path: Path, example: str, words: tuple[str, ...], methods: set[str], functions: set[str]
) -> None:
    done = run(tmp_path, "--config-dir", str(EXAMPLES / example), *SMALL, *PLACES, *words)
    assert (done.returncode, done.stderr) == (0, "")
    summaries = all_runs(tmp_path / "store")
    assert {summary["method"] for summary in summaries} == methods
    assert {summary["function"] for summary in summaries} == functions


def test_a_method_outside_of_the_project_is_checked(tmp_path: Path) -> None:
    named = ("--config-dir", str(EXAMPLES / "method"))
    done = run(tmp_path, "check", *named, "method=parallel")
    assert (done.returncode, done.stderr) == (0, "")
    assert "budget" in done.stdout


def test_every_readme_names_its_own_folder() -> None:
    for readme in EXAMPLES.glob("*/README.md"):
        assert f"examples/extending/{readme.parent.name}" in readme.read_text()
