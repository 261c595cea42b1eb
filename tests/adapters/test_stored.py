"""Which class stands behind a stored run: what is imported for it, and what is not."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

from qlexp.adapters.lora import LoRA
from qlexp.adapters.stored import stored_method

FOREIGN = """
from qlexp.adapters.lora import LoRA

class Mine(LoRA): ...
"""


def test_methods_of_this_package_are_found_by_their_target() -> None:
    assert stored_method("qlexp.adapters.lora.LoRA") is LoRA


@pytest.mark.parametrize(
    "target",
    [
        *(None, "", "LoRA", "qlexp.adapters.lora", "qlexp.adapters.lora.Lora"),
        *("qlexp.adapters.gone.LoRA", "qlexp.adapters.lora.LoRAConfig", "qlexp.__main__.main"),
        "os.system",
    ],
)
def test_what_is_no_method_is_none(target: object) -> None:
    assert stored_method(target) is None


def test_a_foreign_module_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "foreign_method.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    assert stored_method("foreign_method.Mine") is None
    assert "foreign_method" not in sys.modules
    module = import_module("foreign_method")
    assert stored_method("foreign_method.Mine") is module.Mine
    monkeypatch.delitem(sys.modules, "foreign_method")
