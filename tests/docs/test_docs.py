"""The pages say what the project does: they build, and what they name exists."""

import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

from analysis.__main__ import _parser
from analysis.view import views
from qlexp.config.schema import register_schema
from qlexp.lm import jobs
from qlexp.lm.main import LM_CONF
from qlexp.main import CONF

ROOT = Path(__file__).parents[2]
PAGES = [*(ROOT / "docs" / "pages").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
TEXT = "\n".join(page.read_text() for page in PAGES)
STUDIES = {path.stem for path in (CONF / "experiment").glob("*.yaml")}
LM_STUDIES = {path.stem for path in (LM_CONF / "experiment").glob("*.yaml")}
UNSTORED = ("parallel", "VIEW")  # an example's study; a placeholder


def commands(*beginning: str) -> Iterator[list[str]]:
    """The words behind `beginning` of every command line in a block or between backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", TEXT, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", TEXT)
    for line in lines:
        if not line.startswith(f"{beginning[0]} "):
            continue
        words = shlex.split(line, comments=True)
        if words[: len(beginning)] == [*beginning]:
            yield words[len(beginning) :]


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    build(load_config(str(ROOT / "docs" / "mkdocs.yml"), site_dir=str(tmp_path)))
    return tmp_path


def test_the_site_builds_without_a_warning(built: Path) -> None:
    assert "each method" in (built / "index.html").read_text().lower()
    assert (built / "results" / "quick" / "table2.html").is_file()
    analysis = (built / "analysis.html").read_text()
    assert [name for name in views() if f"{name}</" not in analysis] == []


def test_a_broken_link_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    pages = tmp_path / "docs" / "pages"
    pages.mkdir(parents=True)
    (pages / "index.md").write_text("# One\n\n[a table](../../results/quick/no_such_table.md)\n")
    hooks = (ROOT / "docs" / "hooks.py").read_text()
    (tmp_path / "docs" / "hooks.py").write_text(hooks)
    (tmp_path / "docs" / "mkdocs.yml").write_text(
        "site_name: one\ndocs_dir: pages\nstrict: true\nhooks: [hooks.py]\n"
    )
    with pytest.raises(Abort, match="1 warning"):
        build(load_config(str(tmp_path / "docs" / "mkdocs.yml"), site_dir=str(tmp_path / "site")))


def test_shown_views_and_their_options_exist() -> None:
    shown = [words for words in commands("qlexp", "show") if "VIEW" not in words]
    assert len(shown) > 4
    for words in shown:
        options = _parser("qlexp show").parse_args(words)
        assert options.study in {*STUDIES, *LM_STUDIES, *UNSTORED}


@pytest.mark.parametrize(
    ("command", "root", "least"), [("qlexp", CONF, 9), ("qlexp-lm", LM_CONF, 3)]
)
def test_overrides_compose(command: str, root: Path, least: int) -> None:
    register_schema()
    jobs.register_schema()
    parser = OverridesParser.create()
    seen = 0
    for words in commands(command):
        if words[0] in ("show", "check", "migrate") or "--config-dir" in words:
            continue
        given = [word for word in words if "=" in word and "parallel" not in word]
        first = [_first(word, parser) for word in given if "sweeper" not in word]
        with initialize_config_dir(str(root.resolve()), version_base="1.3"):
            compose("config", overrides=first)
        seen += 1
    assert seen >= least


def _first(override: str, parser: OverridesParser) -> str:
    """The override, or of a sweep its first value."""
    parsed = parser.parse_override(override)
    if not parsed.is_sweep_override():
        return override
    if isinstance(parsed.value(), Glob):
        return f"{parsed.key_or_group}=matyas"
    if isinstance(parsed.value(), IntervalSweep):
        return f"{parsed.key_or_group}={parsed.value().start}"
    return f"{parsed.key_or_group}={next(iter(parsed.sweep_string_iterator()))}"


def test_named_modules_and_targets_exist() -> None:
    modules = [words[0] for words in commands("python", "-m")]
    assert {"benchmarks.step", "benchmarks.inference"} <= {*modules}
    assert [name for name in modules if find_spec(name) is None] == []
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert {words[0] for words in commands("make")} <= {*targets}


def test_named_choices_exist() -> None:
    groups = {path.parent.name for path in CONF.rglob("*.yaml")} - {"function"}
    for group, names in re.findall(r"\b(\w+)=([\w,]+)(?![\w,*])", TEXT):
        if group in groups:
            for name in {*names.split(",")} - {"mine", "NAME", "parallel"}:
                places = [root / group / f"{name}.yaml" for root in (CONF, LM_CONF)]
                assert any(place.exists() for place in places), f"{group}={name}"


def test_every_choice_and_view_is_named() -> None:
    for group in ("method", "experiment", "backbone", "optimizer", "trainer", "budget"):
        for path in (CONF / group).glob("*.yaml"):
            assert re.search(rf"\b{path.stem}\b", TEXT), f"{group}={path.stem}"
    for name in LM_STUDIES:
        assert f"`{name}`" in TEXT
    assert [name for name in views() if f"`{name}`" not in TEXT] == []
