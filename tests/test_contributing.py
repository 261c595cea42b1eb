"""What CONTRIBUTING.md tells is so: its paths exist, its examples work inside of the project."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import TINY, Command, all_runs

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
METHOD = ROOT / "examples" / "extending" / "method"


def test_every_path_exists() -> None:
    paths = set(re.findall(r"`((?:qlexp|conf|tests|examples|analysis)/[\w./]+)`", TEXT))
    missing = {path for path in paths if not (ROOT / path).exists()}
    assert missing == {"qlexp/adapters/parallel.py", "conf/method/parallel.yaml"}  # to be added


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example of a method as it is inside of the project, its YAML in a folder of its own."""
    module = ModuleType("qlexp.adapters.parallel")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys.modules["qlexp.adapters"], "parallel", module, raising=False)
    exec((METHOD / "parallel.py").read_text(), vars(module))
    text = (METHOD / "method" / "parallel.yaml").read_text()
    (tmp_path / "conf" / "method").mkdir(parents=True)
    target = "_target_: qlexp.adapters.parallel.Parallel"
    assert target in TEXT
    text = text.replace("_target_: parallel.Parallel", target)
    (tmp_path / "conf" / "method" / "parallel.yaml").write_text(text)
    return tmp_path / "conf"


def test_the_method_runs_beside_lora(inside: Path, qlexp: Command, store: Path) -> None:
    outcome = qlexp("-m", "--config-dir", str(inside), *TINY, "method=lora,parallel")
    assert (outcome.code, outcome.out, outcome.err) == (0, "2 done\n", "")
    for summary in all_runs(store):
        assert summary["test_loss"] != summary["frozen_loss"]


def test_the_method_keeps_its_promises(inside: Path, command: Command) -> None:
    outcome = command("check", "--config-dir", str(inside), "method=parallel", "backbone.depth=2")
    assert (outcome.code, outcome.err) == (0, "")
    assert "broken" not in outcome.out
