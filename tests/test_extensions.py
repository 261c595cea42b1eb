"""What lives outside is loaded once, found by workers and views, and refused in one sentence."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from conftest import TINY, Command, all_runs

import qlexp as package
from qlexp import extensions
from qlexp.errors import UsageError
from qlexp.problem.functions import FUNCTIONS

EXAMPLES = Path(__file__).parents[1] / "examples" / "extending"
BOTH = [f"--config-dir={EXAMPLES / name}" for name in ("method", "function")]
SMALL = [word for word in TINY if not word.startswith("method.")]


@pytest.mark.parametrize(
    "launcher",
    [
        [],
        ["hydra.launcher.backend=joblib", "hydra.launcher.workers=2"],
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    ],
    ids=["here", "batches on workers", "Hydra's own joblib"],
)
def test_workers_find_what_is_outside(launcher: list[str], qlexp: Command, store: Path) -> None:
    """Workers are other processes, which have loaded nothing."""
    sweep = ["-m", "method=parallel", "function=four_wells,levy", "study=mine"]
    outcome = qlexp(*BOTH, *SMALL, *sweep, *launcher)
    assert outcome.code == 0, outcome.err
    done = {(summary["function"], summary["status"]) for summary in all_runs(store)}
    assert done == {("four_wells", "done"), ("levy", "done")}


@pytest.mark.parametrize("view", ["tables", "figures"])
def test_views_show_what_is_outside(view: str, qlexp: Command, command: Command) -> None:
    sweep = ["-m", "method=lora,parallel", "function=four_wells", "study=mine"]
    assert qlexp(*BOTH, *SMALL, *sweep).code == 0
    outcome = command("show", view, "mine", *BOTH)
    assert (outcome.code, outcome.err) == (0, "")


def test_python_takes_a_folder(store: Path) -> None:
    for name in ("method", "function"):
        package.extend(EXAMPLES / name)
        package.extend(str(EXAMPLES / name))
    words = [*SMALL, "method=parallel", "function=four_wells", "tracking=none", f"store={store}"]
    result = package.run(words)
    assert (result.summary["method"], result.summary["function"]) == ("parallel", "four_wells")


def test_an_installed_package_registers_and_brings_its_configs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qlexp: Command, store: Path
) -> None:
    plugin = (EXAMPLES / "function" / "qlexp_plugin.py").read_text()
    (tmp_path / "stranger.py").write_text(plugin.replace("four_wells", "strange"))
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    study = (EXAMPLES / "study" / "experiment" / "wide_rates.yaml").read_text()
    study = study.replace("drop_wave,matyas", "strange").replace("study: wide_rates", "study: odd")
    (tmp_path / "conf" / "experiment" / "odd.yaml").write_text(study)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(extensions, "_modules", {})
    entry = EntryPoint("odd", "stranger", extensions.GROUP)
    monkeypatch.setattr(extensions, "entry_points", lambda group: [entry])
    words = ["method=lora", "trainer.adapt.learning_rate=1e-3", "seed=0"]
    assert qlexp("experiment=odd", *SMALL, *words).out == "1 done\n"
    assert {summary["function"] for summary in all_runs(store)} == {"strange"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / 0", ["qlexp_plugin.py", "ZeroDivisionError"]),
        ("def", ["qlexp_plugin.py", "SyntaxError"]),
        (
            "from dataclasses import replace\n"
            "from qlexp.problem.functions import FUNCTIONS, register\n"
            "register(replace(FUNCTIONS['levy'], title='Mine'))",
            ["'levy'", "another name"],
        ),
    ],
)
def test_a_plugin_that_fails_is_refused(
    text: str, words: list[str], tmp_path: Path, qlexp: Command, store: Path
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / extensions.PLUGIN).write_text(text)
    outcome = qlexp("--config-dir", "own")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("qlexp: ")
    assert outcome.err.count("\n") == 1
    assert all(word in outcome.err for word in words)
    assert FUNCTIONS["levy"].title == "Levy"
    assert not store.exists()


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        package.extend(tmp_path / "nowhere")
    assert extensions.named_folders() == []


def test_a_folder_that_failed_is_tried_again(tmp_path: Path) -> None:
    plugin = tmp_path / extensions.PLUGIN
    plugin.write_text("1 / 0")
    for _ in range(2):
        with pytest.raises(UsageError, match="ZeroDivisionError"):
            package.extend(tmp_path)
    plugin.write_text("")
    package.extend(tmp_path)
    assert extensions.named_folders() == [str(tmp_path)]
