"""The README says what the project does: its table is the rendered one, its names exist."""

import re
from pathlib import Path

from qlexp.main import CONF

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_table_is_the_rendered_one() -> None:
    block = re.search(r"<!-- (results/\S+\.md) -->\n(.*?)<!-- end -->", README, re.DOTALL)
    assert block is not None
    rows = [line for line in block[2].splitlines() if line.startswith("|")]
    assert len(rows) > 5
    assert "\n".join(rows) in (ROOT / block[1]).read_text()


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_named_choices_exist() -> None:
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    for group, names in re.findall(r"\b(\w+)=([\w,]+)", README):
        if group in groups - {"function"}:
            for name in names.split(","):
                assert (CONF / group / f"{name}.yaml").exists(), f"{group}={name}"


def test_every_choice_is_named() -> None:
    for group in ("method", "experiment", "backbone", "optimizer", "trainer", "budget"):
        for path in (CONF / group).glob("*.yaml"):
            assert re.search(rf"\b{path.stem}\b", README), f"{group}={path.stem}"
