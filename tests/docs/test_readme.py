"""The front door is short, its links lead somewhere, and its table's rows are the rendered ones."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_table_of_the_findings_is_the_rendered_one() -> None:
    findings = (ROOT / "docs" / "pages" / "findings.md").read_text()
    block = re.search(r"<!-- (results/\S+\.md) -->\n(.*?)<!-- end -->", findings, re.DOTALL)
    assert block is not None
    rows = [line for line in block[2].splitlines() if line.startswith("|")]
    assert len(rows) > 5
    assert "\n".join(rows) in (ROOT / block[1]).read_text()
