"""The notebook runs from its first cell to its last, and shows what it speaks of."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
PATH = ROOT / "examples" / "first_look.ipynb"
QUICK, SMOKE = 'TRAINER = "quick"', 'TRAINER = "smoke"'


@pytest.fixture
def notebook() -> NotebookNode:
    return nbformat.read(PATH, as_version=4)


@pytest.fixture
def shown(
    notebook: NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, dict[str, str]]:
    """What the cells show, by cell and type, after a run of seconds in a folder of its own."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    for home in ("IPYTHONDIR", "JUPYTER_DATA_DIR"):  # not the user's, with kernels of its own
        monkeypatch.setenv(home, str(tmp_path / home))
    settings = next(cell for cell in notebook.cells if QUICK in cell.source)
    settings.source = settings.source.replace(QUICK, SMOKE)
    NotebookClient(
        notebook, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    return {
        cell.id: {
            kind: text for output in cell.outputs for kind, text in output.get("data", {}).items()
        }
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def test_it_shows_the_table_the_contour_and_the_routing_map(
    shown: dict[str, dict[str, str]],
) -> None:
    table = shown["tables"]["text/markdown"]
    rows = re.findall(r"^\| (\w+)", table, re.M)
    assert rows == ["method", "frozen", "lora", "dora", "queryable", "full"]
    for cell in ("figures", "routing"):
        assert shown[cell]["image/svg+xml"].startswith("<svg"), cell
    assert "loss" in shown["api"]["text/plain"]


def test_it_is_kept_without_outputs(notebook: NotebookNode) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if cell.outputs or cell.execution_count] == []


def test_its_links_lead_somewhere(notebook: NotebookNode) -> None:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    assert [link for link in links if not (PATH.parent / link).exists()] == []
