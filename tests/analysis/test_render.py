"""Markdown, LaTeX and numbers as texts."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import STUDY, render

from analysis.render import Grid, Section, Text, latex, markdown
from analysis.text import number
from qlexp.store.store import Store


def test_latex_is_well_formed(gappy: Store, tmp_path: Path) -> None:
    assert render("tables", gappy, tmp_path, "--allow-missing") == 0
    folder = tmp_path / STUDY
    for path in folder.glob("*.tex"):
        text = path.read_text()
        assert text.isascii()
        assert "?" not in text
        unescaped = re.sub(r"\\label{.*?}|\\.", "", text)
        assert unescaped.count("{") == unescaped.count("}")
        assert unescaped.count("$") % 2 == 0
        assert "_" not in unescaped
        begun, ended = (re.findall(rf"\\{word}{{([^}}]*)}}", text) for word in ("begin", "end"))
        assert sorted(begun) == sorted(ended)
        columns = len(re.search(r"begin{tabular}{(\w+)}", text)[1])
        body = text[text.index("\\toprule") : text.index("\\bottomrule")]
        rows = [line for line in body.splitlines() if " & " in line]
        assert {line.count("&") + 1 for line in rows} == {columns}
        assert all(line.endswith("\\\\") for line in rows)
    assert "\\textbf{" in (folder / "table1.tex").read_text()
    assert "shared\\_lora$^\\dagger$" in (folder / "table1.tex").read_text()


@given(st.text(max_size=40))
def test_any_text_survives_rendering(text: str) -> None:
    grid = Grid("label", "caption", [text, "b"], [Section(text, [[Text(text), Text("1", True)]])])
    tex = re.sub(r"\\.", "", latex(grid))
    assert tex.isascii()
    assert tex.count("{") == tex.count("}")
    assert not set("_^#") & set(re.sub(r"\$[^$]*\$", "", tex))
    pipes = [len(re.findall(r"(?<!\\)\|", line)) for line in markdown(grid).split("\n")]
    assert pipes.count(3) == 3


@given(st.floats(1e-12, 1e12))
def test_a_printed_number_keeps_three_digits(value: float) -> None:
    assert float(number(value)) == pytest.approx(value, rel=5.1e-3)
