"""The examples of CONTRIBUTING.md, used as it says."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from conftest import TINY, Command, all_runs
from hydra.core.config_store import ConfigStore

from qlexp.problem import functions
from qlexp.problem.functions import FUNCTIONS, Function
from qlexp.store.store import Store

ROOT = Path(__file__).parent.parent
EXAMPLES = dict(
    re.findall(r"^`(\S+)`\n```\w+\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)
)


@pytest.fixture
def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A config folder beside the project's, with the method, the function and the study."""
    for name, text in EXAMPLES.items():
        if name.startswith("conf/"):
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).write_text(text)
    method = ModuleType("qlexp.adapters.parallel")
    monkeypatch.setitem(sys.modules, method.__name__, method)
    exec(EXAMPLES["qlexp/adapters/parallel.py"], vars(method))
    monkeypatch.setattr(sys.modules["qlexp.adapters"], "parallel", method, raising=False)
    entry = eval(EXAMPLES["qlexp/problem/functions.py"], vars(functions))
    assert isinstance(entry, Function)
    monkeypatch.setitem(FUNCTIONS, entry.name, entry)
    yield tmp_path / "conf"
    ConfigStore.instance().repo["function"].pop("branin.yaml", None)


def test_the_method_and_the_function_run(followed: Path, qlexp: Command, store: Path) -> None:
    cells = ("method=lora,parallel", "function=matyas,branin")
    outcome = qlexp("-m", "--config-dir", str(followed), *TINY, *cells)
    assert (outcome.code, outcome.out, outcome.err) == (0, "4 done\n", "")
    for summary in all_runs(store):
        assert summary["test_loss"] != summary["frozen_loss"]


def test_the_study_runs(followed: Path, qlexp: Command, store: Path) -> None:
    tiny = [item for item in TINY if not item.startswith("method.")]
    outcome = qlexp("--config-dir", str(followed), "experiment=parallel", *tiny, "seed=0")
    assert (outcome.code, outcome.err) == (0, "")
    asked = yaml.safe_load(EXAMPLES["conf/experiment/parallel.yaml"])["hydra"]["sweeper"]["params"]
    cells = Store(store).study("parallel")
    assert {cell.method for cell in cells} == set(asked["method"].split(","))
    assert {cell.budget for cell in cells} == {asked["budget"]}
    assert len(all_runs(store)) == len(cells) == 4


def test_the_function_is_at_its_minimum(followed: Path) -> None:
    function = FUNCTIONS["branin"]
    x1, x2 = np.array(function.minimizers).T
    assert function.evaluate(x1, x2, function.coefficients) == pytest.approx(function.minimum)
