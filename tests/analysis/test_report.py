"""The report of a made-up study: the page as a parser and as a browser see it."""

import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from itertools import pairwise, product
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import SEEDS, cell_of, summary_of, write_run
from matplotlib.figure import Figure
from playwright.sync_api import Browser, Page, sync_playwright
from test_continual import summary_of as sequence_summary

from analysis import continual, gradients, outputs, routing, stats, tables
from analysis.ablation import __main__ as ablation
from analysis.claims import __main__ as claims
from analysis.load import load_study
from analysis.notes import spread
from analysis.render import Grid, Section, Text
from analysis.report import __main__ as report
from analysis.report import chapters
from analysis.report.page import headings, numeric_columns, sort_number
from analysis.report.svg import contrast, inline_svg
from analysis.style import figure_style
from qlexp.store.files import write_folder
from qlexp.store.store import Store

STUDY = "made_up"
NASTY = "<b>&\"'{{ x }}</script>"  # a method's name that wants to be markup
METHODS = ("frozen", "lora", NASTY, "queryable", "full")
VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}


def make_store(root: Path) -> Store:
    """Two functions, five methods, three seeds; lora diverged on matyas with seed 1."""
    store = Store(root)
    cells = []
    for function in ("drop_wave", "matyas"):
        for method in METHODS:
            for seed in SEEDS:
                known = "lora" if method == NASTY else method
                identity = f"{function}-{METHODS.index(method)}-{seed}"
                state = "diverged" if (function, method, seed) == ("matyas", "lora", 1) else "done"
                summary = summary_of(function, known, seed, status=state)
                summary |= {"run_id": identity, "method": method}
                write_run(store, summary)
                cells += [cell_of(summary, budget) for budget in ("equal_rank", "lora_r4")]
    store.write_study(STUDY, cells)
    return store


def lose_cells(store: Store) -> None:
    """A missing cell and a failed one."""
    shutil.rmtree(store.run_folder("drop_wave-1-0"))
    shutil.rmtree(store.run_folder("matyas-3-2"))
    failed = {"function": "matyas", "method": "queryable", "seed": 2, "status": "failed"}
    write_folder(store.run_folder("matyas-3-2"), {**failed, "error": "OSError: no <disk>"})


def make_sequence(root: Path) -> Store:
    """Study "swept": lora and queryable in sequence by learning rate, queryable by block size."""
    store, cells = Store(root), []
    rates = [f"trainer.adapt.learning_rate={rate}" for rate in ("1e-3", "2e-3")]
    rows = [("lora", rate) for rate in rates]
    rows += [("queryable", f"method.block_size={n}", rate) for n in (2, 4) for rate in rates]
    for (method, *words), seed in product(rows, SEEDS):
        matrix = sequence_summary("drop_wave", method, seed)
        summary = summary_of("drop_wave", method, seed)
        summary |= {name: matrix[name] for name in ("task_losses", "route_drift", "atom_usage")}
        summary["run_id"] = "-".join([method, *words, str(seed)])
        summary["validation_loss"] = float(words[-1].partition("=")[2])  # the first rate is kept
        write_run(store, summary)
        cells.append(cell_of(summary, "equal_rank", *words))
    store.write_study("swept", cells)
    return store


def command(store: Store, out: Path, *more: str, study: str = STUDY) -> int:
    return report.main(["--study", study, "--store", str(store.root), "--out", str(out), *more])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the whole study's page and of its tables."""
    folder = tmp_path_factory.mktemp("whole")
    store = make_store(folder / "store")
    assert command(store, folder) == 0
    arguments = ["--study", STUDY, "--store", str(store.root), "--out", str(folder)]
    assert tables.main(arguments) == 0
    return folder / STUDY


@pytest.fixture(scope="module")
def gappy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the study with a missing cell and a failed one."""
    folder = tmp_path_factory.mktemp("gappy")
    store = make_store(folder / "store")
    lose_cells(store)
    assert command(store, folder, "--allow-missing") == 0
    return folder / STUDY / "report.html"


@pytest.fixture(scope="module")
def inside(studied: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study of real runs, which can be looked into."""
    folder = tmp_path_factory.mktemp("inside")
    assert command(studied, folder, study="tiny") == 0
    return folder / "tiny" / "report.html"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study over targets in sequence that sweeps two settings."""
    folder = tmp_path_factory.mktemp("swept")
    assert command(make_sequence(folder / "store"), folder, study="swept") == 0
    return folder / "swept" / "report.html"


class Tree(HTMLParser):
    """Every element as (tag, attributes, tags around it), and the text of each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], tuple[str, ...]]] = []
        self.texts: list[str] = []
        self.open: list[tuple[str, int]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append((tag, len(self.elements) - 1))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes, tuple(name for name, _ in self.open)))
        self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, index in self.open:
            self.texts[index] += data

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]

    def text_of(self, tag: str) -> list[str]:
        return [
            text
            for (name, _, _), text in zip(self.elements, self.texts, strict=True)
            if name == tag
        ]

    def ids_of(self, tag: str) -> dict[str, str]:
        """The texts of the elements of a tag by their ids."""
        return {
            attributes["id"]: text
            for (name, attributes, _), text in zip(self.elements, self.texts, strict=True)
            if name == tag
        }

    def rows(self) -> list[list[str]]:
        """The texts of every row of every table."""
        rows: list[list[str]] = []
        for (tag, _, _), text in zip(self.elements, self.texts, strict=True):
            if tag == "tr":
                rows.append([])
            elif tag in ("th", "td"):
                rows[-1].append(text)
        return rows


@pytest.fixture(scope="module", params=["folder", "gappy", "inside", "swept"])
def tree(request: pytest.FixtureRequest) -> Tree:
    path = request.getfixturevalue(request.param)
    path = path / "report.html" if path.is_dir() else path
    tree = Tree(path.read_text(encoding="utf-8"))
    assert not tree.open
    return tree


# The page as a parser sees it


def test_nothing_is_fetched(tree: Tree) -> None:
    for tag, attributes, _ in tree.elements:
        for name, value in attributes.items():
            assert "//" not in value or value.startswith("data:image/png;base64,"), (tag, name)
            assert name not in ("src", "srcset", "action", "ping", "data", "poster")
            if name == "href":
                assert value.startswith(("#", "data:")), (tag, value)
    (style,) = tree.text_of("style")
    assert "url(" not in style
    assert "@import" not in style
    (script,) = tree.text_of("script")
    assert not re.search(r"fetch|XMLHttpRequest|import|http", script)


def test_ids_are_unique_and_references_have_targets(tree: Tree) -> None:
    ids = Counter(a["id"] for _, a, _ in tree.elements if "id" in a)
    assert [name for name, count in ids.items() if count > 1] == []
    wanted = set()
    for _, attributes, _ in tree.elements:
        for name, value in attributes.items():
            if name == "href" and value.startswith("#"):
                wanted.add(value[1:])
            if name == "aria-labelledby":
                wanted.update(value.split())
            wanted.update(re.findall(r"url\(#([^)]+)\)", value))
    assert len(wanted) > 20
    assert wanted - set(ids) == set()


def test_landmarks_and_headings(tree: Tree) -> None:
    tags = Counter(tag for tag, _, _ in tree.elements)
    assert [tags[tag] for tag in ("h1", "header", "nav", "main", "footer")] == [1, 1, 1, 1, 1]
    levels = [int(tag[1]) for tag, _, _ in tree.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert tree.attributes("html") == [{"lang": "en"}]
    first = next(attributes for tag, attributes, _ in tree.elements if tag == "a")
    assert (first["class"], first["href"]) == ("skip", "#main")
    assert any(meta.get("name") == "viewport" for meta in tree.attributes("meta"))


def test_tables_can_be_read_aloud(tree: Tree) -> None:
    scopes = {"thead": "col", "tbody": ("row", "rowgroup")}
    names = tree.ids_of("h3")
    tables = tree.attributes("table")
    assert len(tables) >= 5
    assert all(names[table["aria-labelledby"]].strip() for table in tables)
    for tag, attributes, around in tree.elements:
        if tag == "th":
            assert attributes["scope"] in scopes["thead" if "thead" in around else "tbody"]
        if tag == "table":
            assert around[-1] == "div"
    boxes = [a for a in tree.attributes("div") if "scroll" in a.get("class", "")]
    assert all(a["tabindex"] == "0" and a["role"] == "group" for a in boxes)
    assert {box["aria-labelledby"] for box in boxes} <= set(names)


def test_every_table_and_figure_has_a_heading_of_its_own(tree: Tree) -> None:
    named = [a["aria-labelledby"] for tag in ("table", "svg") for a in tree.attributes(tag)]
    headings = tree.ids_of("h3")
    assert sorted(named) == sorted(headings)
    assert len(set(headings.values())) == len(headings)


def test_the_long_table_of_settings_is_folded(tree: Tree) -> None:
    folded = [a["id"] for tag, a, around in tree.elements if tag == "h3" and "summary" in around]
    assert folded == ["table-fields"]


def test_figures_have_names(tree: Tree) -> None:
    figures = tree.attributes("svg")
    assert len(figures) == len(tree.text_of("figcaption")) > 3
    assert len(tree.text_of("title")) == 1  # of the page: an own one would repeat the heading
    for attributes in figures:
        assert attributes["role"] == "img"
        assert attributes["aria-labelledby"].endswith("-title")


@pytest.mark.parametrize(
    ("captions", "wanted"),
    [
        (
            ["loss against rate: means. Bands: 95 %."],
            [("Loss against rate", "Means. Bands: 95 %.")],
        ),
        (["One sentence."], [("One sentence", "")]),
        (
            ["Curves. A. Lines.", "Curves. B. Lines."],
            [("Curves. A", "Lines."), ("Curves. B", "Lines.")],
        ),
    ],
)
def test_a_heading_is_the_shortest_of_its_own(
    captions: list[str], wanted: list[tuple[str, str]]
) -> None:
    assert [headings(captions)[caption] for caption in captions] == wanted


@pytest.mark.parametrize(
    ("colour", "adapts"),
    [("#b52a00", True), ("black", True), ("#404040", True), ("#8a1f8a", False), ("#332288", False)],
)
def test_a_figure_is_dark_where_its_colours_can_be_seen_there(colour: str, adapts: bool) -> None:
    with figure_style():
        figure = Figure()
        figure.subplots().plot([0, 1], [0, 1], color=colour)
        svg = inline_svg(figure, "name")
    assert ('class="adapts"' in svg) == adapts
    assert "#000000" not in svg
    assert "#ffffff" not in svg
    assert (colour in svg) == (colour not in ("black", "#404040"))


def test_contrast_is_that_of_the_guidelines() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=5e-3)  # WebAIM's checker
    assert contrast("#ffffff", "#0000ff") == pytest.approx(8.59, abs=5e-3)


def test_texts_are_escaped(folder: Path) -> None:
    tree = Tree((folder / "report.html").read_text())
    assert tree.attributes("b") == []
    assert tree.text_of("th").count(f"{NASTY}†") + tree.text_of("th").count(NASTY) >= 3
    assert tree.text_of("h1") == [f"Study {STUDY}"]


def test_diverged_cells_are_listed(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    chapter = text[text.index(">Diverged cells</h2>") :]
    assert re.search(
        r"<th scope=\"row\">lora</th>\s*<td>matyas</td>\s*<td>equal_rank</td>", chapter
    )
    assert "inf (1/3)" in text
    assert "Missing and failed" not in text


def test_gaps_come_first(gappy: Path) -> None:
    tree = Tree(gappy.read_text())
    assert tree.text_of("h2")[0] == "Missing and failed cells"
    listed = [text for text in tree.text_of("li") if text.startswith(("missing:", "failed:"))]
    assert listed == [
        "missing: lora on drop_wave (equal_rank), seed 0",
        "failed: queryable on matyas (equal_rank), seed 2: OSError: no <disk>",
        "missing: lora on drop_wave (lora_r4), seed 0",
        "failed: queryable on matyas (lora_r4), seed 2: OSError: no <disk>",
    ]
    assert "54 done, 2 diverged, 2 failed, 2 missing" in tree.text_of("dd")


def test_gaps_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "store")
    lose_cells(store)
    assert command(store, tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "missing: lora on drop_wave" in message
    assert not (tmp_path / "out").exists()


def test_a_store_that_cannot_be_read_is_not_blamed_on_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise OSError("a broken disk")

    monkeypatch.setattr(report, "CHAPTERS", [broken])
    with pytest.raises(OSError, match="a broken disk"):
        command(make_store(tmp_path / "store"), tmp_path)


def test_a_study_of_which_nothing_is_stored(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.write_study(STUDY, [cell_of(summary_of("levy", "lora", 0), "equal_rank")])
    assert command(store, tmp_path, "--allow-missing") == 0
    tree = Tree((tmp_path / STUDY / "report.html").read_text())
    assert tree.attributes("svg") == []
    assert "1 missing" in tree.text_of("dd")


def test_the_same_store_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    store = Store(folder.parent / "store")
    assert command(store, tmp_path) == 0
    page = (tmp_path / STUDY / "report.html").read_bytes()
    assert page == (folder / "report.html").read_bytes()
    assert len(page) < 3_000_000
    assert str(folder.parent).encode() not in page
    assert b"/somewhere" not in page


def test_the_page_holds_the_tables_and_their_latex(folder: Path) -> None:
    page = Tree((folder / "report.html").read_text())
    listings = page.text_of("pre")
    for name in ("table1", "table2", "table2_raw", "backbones"):
        latex = (folder / f"{name}.tex").read_text()
        assert "\\toprule" in latex
        assert latex.strip() in [listing.strip() for listing in listings]


ALWAYS = {"Losses", "Statistics", "Learning curves", "Targets", "Backbones", "Settings"}


@pytest.mark.parametrize(
    ("page", "more"),
    [
        ("folder", {"Claims", "Diverged cells", "Routing"}),
        ("inside", {"Claims", "Gradient flow", "Routing"}),
        ("swept", {"Ablation", "Continual", "Routing"}),
    ],
)
def test_chapters_stand_where_a_study_has_what_they_need(
    page: str, more: set[str], request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(page)
    tree = Tree((path / "report.html" if path.is_dir() else path).read_text())
    titles = tree.text_of("h2")
    assert set(titles) == ALWAYS | more
    assert titles[0] == "Losses"
    assert "Claims" not in titles or titles[1] == "Claims"
    weightless = page != "inside"  # made-up runs: the page says so and stands
    assert ("Not shown:" in tree.texts[0]) == weightless


@pytest.mark.parametrize(
    ("page", "commands"),
    [
        ("inside", (claims, gradients, routing)),
        ("swept", (tables, stats, ablation, continual)),
    ],
)
def test_the_page_shows_what_the_commands_write(
    page: str,
    commands: Sequence[ModuleType],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    path = request.getfixturevalue(page)
    store = (
        request.getfixturevalue("studied") if page == "inside" else Store(path.parents[1] / "store")
    )
    study = path.parent.name
    monkeypatch.setattr(outputs, "save_svg", lambda figure, path: path.touch())
    for module in commands:
        arguments = ["--study", study, "--store", str(store.root), "--out", str(tmp_path)]
        assert module.main(arguments) == 0
    tree = Tree(path.read_text())
    rows = {tuple(row) for row in tree.rows()}
    for file in (tmp_path / study).glob("*.md"):
        lines = [line for line in file.read_text().splitlines() if line.startswith("|")]
        written = {tuple(cells_in(line)) for line in lines if "---" not in line}
        assert written
        assert written - rows == set(), file.name
    figures = {a["aria-labelledby"].removesuffix("-title") for a in tree.attributes("svg")}
    drawn = {file.stem for file in (tmp_path / study).glob("*.svg")}
    missing = {"routing_matyas"} if page == "inside" else set()  # one function's map is enough
    assert drawn - figures == missing


def cells_in(line: str) -> list[str]:
    """The texts of a row of a Markdown table."""
    texts = [text.strip() for text in re.split(r"(?<!\\)\|", line)[1:-1]]
    bare = [text[2:-2] if text.startswith("**") else text for text in texts]
    return [re.sub(r"\\(.)", r"\1", text) for text in bare]


def test_losses_and_statistics_are_those_of_the_best_trials(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(swept.read_text())
    rows = {"lora", "queryable (method.block_size=2)", "queryable (method.block_size=4)"}
    marked = [row for row in tree.rows() if row[-1].endswith("¶")]  # of two rates each is an edge
    assert len(marked) == 3 * len(rows)
    assert {row[0] for row in marked} == rows
    tuned = "Tuned: 2 trials for every method (trainer.adapt.learning_rate in 1e-3, 2e-3)"
    assert sum(note.startswith(tuned) for note in tree.text_of("li")) == 2
    assert "lora (equal_rank) Drop-Wave 1e-3" in " ".join(tree.text_of("li"))
    monkeypatch.setattr(report, "CHAPTERS", [chapters.losses])
    assert command(Store(swept.parents[1] / "store"), tmp_path, "--tune", study="swept") == 0
    rows = {row[0] for row in Tree((tmp_path / "swept" / "report.html").read_text()).rows()}
    assert "lora (trainer.adapt.learning_rate=2e-3)" in rows


@pytest.mark.parametrize(("most", "wanted"), [(4, "4 of 8 runs, seed 0."), (1, "0 of 8 runs, ")])
def test_of_many_runs_that_route_the_first_seeds_are_looked_at(
    most: int, wanted: str, studied: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chapters, "ROUTED", most)
    with figure_style():
        chapter = chapters.routes(chapters.Study("tiny", studied, load_study(studied, "tiny")))
    assert chapter is not None
    assert f"Looked at here: {wanted}" in chapter.text[0]
    assert bool(chapter.grids) == bool(chapter.pictures) == (most > 1)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0.0210 ± 0.0027", 0.021),
        ("16,384", 16384.0),
        ("600/1,000", 600.0),
        ("9.3e-05", 9.3e-5),
        ("-0.25", -0.25),
        ("inf (1/3)", math.inf),
        ("-inf", -math.inf),
        ("missing", None),
        ("–", None),
        ("2.13.0", None),
        ("033f714e", None),
        ("infinite", None),
        ("", None),
    ],
)
def test_what_a_text_is_sorted_by(text: str, wanted: float | None) -> None:
    assert sort_number(Text(text)) == wanted


LOSS = st.floats(1e-9, 1e6) | st.just(math.inf)


@given(st.lists(LOSS, min_size=1, max_size=5))
def test_a_printed_mean_sorts_as_the_mean(values: list[float]) -> None:
    mean = math.fsum(values) / len(values)
    assert sort_number(Text(spread(values))) == pytest.approx(mean, rel=6e-3)
    assert sort_number(Text(spread(values), value=mean)) == mean
    assert sort_number(Text("missing", value=math.nan)) is None


def test_columns_of_words_are_no_numbers() -> None:
    texts = [("1", "2.5", "a", "–"), ("2", "inf", "3 words", "–"), ("3", "–", "4", "unknown")]
    rows = [[Text(text) for text in row] for row in texts]
    grid = Grid("label", "caption", list("abcd"), [Section("", rows)])
    assert numeric_columns(grid) == [False, True, False, False]


def test_ids_of_two_figures_do_not_meet() -> None:
    with figure_style():
        first, second = (_drawn(name) for name in ("first", "second"))
    ids = [set(re.findall(r'id="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert first.replace("first-", "second-") == second
    assert "://" not in first
    assert "<style" not in first


def _drawn(name: str) -> str:
    figure = Figure()
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], "o-")
    axis.text(0, 0, "<b>")
    return inline_svg(figure, name)


# The page as a browser sees it


FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"No browser here: none of {', '.join(names)} is on the PATH.")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, folder: Path) -> Iterator[Page]:
    """The page, opened; a word on the console or a request of anything else fails the test."""
    address = (folder / "report.html").as_uri()
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    noise: list[str] = []
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("request", lambda request: noise.append(request.url))
    page.goto(address)
    yield page
    page.close()
    assert noise == [address]


def column(page: Page, header: str) -> list[list[str]]:
    """The texts of a column of the first table, by section."""
    return page.evaluate(
        """(header) => {
            const table = document.querySelector("table");
            const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
            const index = names.findIndex((name) => name.startsWith(header));
            const rows = (body) => [...body.querySelectorAll("tr:not(.title)")];
            const text = (row) => row.cells[index].textContent;
            return [...table.tBodies].map((body) => rows(body).map(text));
        }""",
        header,
    )


def means(texts: list[str]) -> list[float]:
    return [float(text.split()[0]) for text in texts]


def test_a_click_sorts_by_the_mean_and_inf_comes_last(page: Page) -> None:
    rendered = column(page, "method")
    button = page.locator("table").first.get_by_role("button", name="Matyas")
    header = button.locator("xpath=..")
    for direction, backwards in (("ascending", False), ("descending", True)):
        button.click()
        assert header.get_attribute("aria-sort") == direction
        for section in column(page, "Matyas"):
            assert means(section)[:-1] == sorted(means(section)[:-1], reverse=backwards)
            assert section[-1] == "inf (1/3)"
    status = page.get_by_role("status").text_content()
    assert status == f"Test loss, study {STUDY}: sorted by Matyas, descending"
    button.click()
    assert header.get_attribute("aria-sort") is None
    assert column(page, "method") == rendered


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_keys_sort_too(page: Page, key: str) -> None:
    rendered = column(page, "method")
    button = page.locator("table").first.get_by_role("button", name="method")
    button.focus()
    page.keyboard.press(key)
    assert column(page, "method") == [sorted(part) for part in rendered]
    page.keyboard.press(key)
    page.keyboard.press(key)
    assert column(page, "method") == rendered
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "trainable"


def test_the_first_tab_leads_past_the_navigation(page: Page) -> None:
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


def resize(page: Page, size: Mapping[str, int]) -> None:
    """Another viewport, and what the page makes of it in the frames that follow."""
    page.set_viewport_size({"width": size["width"], "height": size["height"]})
    frame = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    page.evaluate(f"{frame}.then(() => {frame})")


@pytest.mark.parametrize("size", [PHONE, DESK])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_of_the_viewport(
    page: Page, size: Mapping[str, int], scheme: Literal["light", "dark"]
) -> None:
    page.emulate_media(color_scheme=scheme)
    resize(page, size)
    out = page.evaluate(
        """[...document.querySelectorAll("body *:not(.skip)")]
            .filter((node) => !node.parentElement.closest("[tabindex='0'], svg"))
            .filter((node) => node.getBoundingClientRect().right > innerWidth + 1)
            .map((node) => node.outerHTML.slice(0, 80))"""
    )
    assert out == []
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]


@pytest.mark.parametrize("size", [PHONE, DESK])
def test_tab_reaches_what_overflows_and_no_other_box(page: Page, size: Mapping[str, int]) -> None:
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    resize(page, size)
    boxes = page.evaluate(
        """[...document.querySelectorAll(".scroll, pre")].map((box) => {
            const wide = box.scrollWidth > box.clientWidth + 1;
            const tall = box.scrollHeight > box.clientHeight + 1;
            return [box.localName, box.tabIndex === 0, wide || (tall && box.matches("pre"))];
        })"""
    )
    assert [name for name, reached, overflows in boxes if reached != overflows] == []
    assert any(reached for name, reached, _ in boxes if name == "div") == (size is PHONE)


def test_names_stay_while_a_table_is_scrolled(page: Page) -> None:
    resize(page, {"width": 390, "height": 300})
    box = page.locator(".scroll[tabindex]").first
    box.scroll_into_view_if_needed()
    left, top, method, row, seen = box.evaluate(
        """(box) => {
            box.scrollTo(150, 60);
            const { left, top } = box.getBoundingClientRect();
            const corner = box.querySelector("thead th").getBoundingClientRect();
            const row = [...box.querySelectorAll("[scope=row]")].at(-1).getBoundingClientRect();
            const seen = document.elementFromPoint(corner.left + 20, corner.top + 15);
            const at = [corner.left - left, corner.top - top];
            return [box.scrollLeft, box.scrollTop, at, row.left - left, seen.textContent];
        }"""
    )
    assert left > 50
    assert top == 60
    assert method == pytest.approx([0, 0], abs=1)
    assert row == pytest.approx(0, abs=1)
    assert seen == "method"


def test_prose_is_a_card_a_row_on_a_phone(page: Page) -> None:
    cells = page.locator("table.cards td:not([data-gap])")
    labels = """(cells) => cells.map((cell) => {
        const table = cell.closest("table");
        const { left, right } = cell.getBoundingClientRect();
        return [
            getComputedStyle(cell, "::before").content,
            table.tHead.rows[0].cells[cell.cellIndex].textContent,
            left >= 0 && right <= innerWidth,
        ];
    })"""
    assert {content for content, _, _ in cells.evaluate_all(labels)} == {"none"}
    resize(page, PHONE)
    found = cells.evaluate_all(labels)
    assert len(found) > 10
    assert all(content == f'"{header}"' and inside for content, header, inside in found)
    assert page.locator("table.cards thead button").first.is_visible()


def test_a_figure_is_whole_on_a_phone_and_can_be_enlarged(page: Page) -> None:
    resize(page, PHONE)
    widths = """(panel) => {
        const figure = panel.querySelector("svg");
        const drawn = figure.getBoundingClientRect().width;
        return [drawn, figure.width.baseVal.value, panel.clientWidth];
    }"""
    panel = page.locator(".paper").first
    drawn, natural, room = panel.evaluate(widths)
    assert drawn < room < natural
    panel.locator("xpath=..").get_by_role("button", name="Enlarge").click()
    assert panel.evaluate(widths)[0] == pytest.approx(natural, abs=1)
    assert panel.get_attribute("tabindex") == "0"
    panel.click()
    assert panel.evaluate(widths)[0] == pytest.approx(drawn, abs=1)
    panel.click(position={"x": room - 20, "y": 40})  # what was tapped comes to the middle
    assert panel.evaluate("(panel) => panel.scrollLeft") > 50
    assert panel.evaluate(widths)[0] == pytest.approx(natural, abs=1)
    resize(page, DESK)
    assert panel.evaluate(widths)[0] == pytest.approx(natural, abs=1)
    assert not panel.locator("xpath=..").get_by_role("button").is_visible()


# Every colour of a text or a figure that is shown, with the background that it lies on.
COLOURS = """() => {
    const ground = (node) => {
        const own = getComputedStyle(node).backgroundColor;
        return own === "rgba(0, 0, 0, 0)" && node.parentElement ? ground(node.parentElement) : own;
    };
    const texts = [...document.querySelectorAll("h1, h2, h3, p, li, td, th, dt, dd, summary, a")]
        .filter((node) => node.checkVisibility() && !node.matches(".skip, .unseen"))
        .map((node) => ["text", getComputedStyle(node).color, ground(node)]);
    const marks = [...document.querySelectorAll(".paper")].flatMap((panel) =>
        [...panel.querySelectorAll("g path, g use, text")]
            .filter((node) => !node.closest("clipPath, defs"))
            .flatMap((node) => {
                const { stroke, fill } = getComputedStyle(node);
                const kind = node.matches("text") ? "text" : "mark";
                if (kind === "mark" && !panel.querySelector(".adapts")) return [];
                return [[kind, stroke, ground(panel)], [kind, fill, ground(panel)]];
            })
            .filter(([, colour, behind]) => colour.startsWith("rgb(") && colour !== behind)
    );
    return [...texts, ...marks];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_figures_can_be_told_from_what_they_lie_on(
    page: Page, scheme: Literal["light", "dark"]
) -> None:
    page.emulate_media(color_scheme=scheme)
    found = {tuple(entry) for entry in page.evaluate(COLOURS)}
    assert len(found) > 8
    for kind, colour, behind in found:
        least = {"text": 4.5, "mark": 3.0 if scheme == "dark" else 1.0}[kind]
        assert contrast(_hex(colour), _hex(behind)) >= least, (kind, colour, behind)
    grounds = page.locator(".paper").evaluate_all(
        "(panels) => panels.map((panel) => getComputedStyle(panel).backgroundColor)"
    )
    body = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert set(grounds) <= {body, "rgb(255, 255, 255)"}
    assert (body in grounds) == (scheme == "dark")
    assert (contrast(_hex(body), "#ffffff") > 10) == (scheme == "dark")


def _hex(colour: str) -> str:
    red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
    return f"#{red:02x}{green:02x}{blue:02x}"
