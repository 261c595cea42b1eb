"""The report of a made-up study: the page as a parser and as a browser see it."""

import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from itertools import pairwise, product
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import SEEDS, cell_of, summary_of, write_run
from matplotlib.figure import Figure
from playwright.sync_api import Browser, Page, sync_playwright
from test_transfer import summary_of as sequence_summary

from analysis import ablation, continual, gradients, outputs, routing, stats, tables
from analysis.claims import __main__ as claims
from analysis.load import load_study
from analysis.notes import spread
from analysis.render import Grid, Section, Text
from analysis.report import __main__ as report
from analysis.report import chapters
from analysis.report.page import numeric_columns, sort_number
from analysis.report.svg import inline_svg
from analysis.style import figure_style
from qlexp.store import Store, write_folder

STUDY = "made_up"
NASTY = "<b>&\"'{{ x }}</script>"  # a method's name that wants to be markup
METHODS = ("frozen", "lora", NASTY, "queryable", "full")
VOID = {"meta", "link", "br", "hr", "img", "input"}


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
    tags = [tag for tag, _, _ in tree.elements]
    assert tags.count("table") == tags.count("caption") >= 5
    assert all(text.strip() for text in tree.text_of("caption"))
    scopes = {"thead": "col", "tbody": ("row", "rowgroup")}
    for tag, attributes, around in tree.elements:
        if tag == "th":
            assert attributes["scope"] in scopes["thead" if "thead" in around else "tbody"]
        if tag == "table":
            assert around[-1] == "div"
    regions = [a for a in tree.attributes("div") if "scroll" in a.get("class", "")]
    assert all(a["tabindex"] == "0" and a["role"] == "region" for a in regions)


def test_figures_have_names(tree: Tree) -> None:
    figures = tree.attributes("svg")
    assert len(figures) == len(tree.text_of("figcaption")) > 3
    titles = [text for text in tree.text_of("title")[1:] if text]
    assert titles == tree.text_of("figcaption")
    for attributes in figures:
        assert attributes["role"] == "img"
        assert attributes["aria-labelledby"].endswith("-title")


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
    return inline_svg(figure, name, "a & b")


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_it_fits_any_width_and_is_not_blank(page: Page, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide == width
    if width == 375:
        inner = "(node) => node.scrollWidth > node.clientWidth"
        assert page.locator(".scroll").first.evaluate(inner)
    assert len(page.screenshot()) > 20_000
    colours = page.evaluate(
        "[document.body, document.querySelector('.paper')].map((node) => "
        "getComputedStyle(node).backgroundColor)"
    )
    assert colours[1] == "rgb(255, 255, 255)"
    assert (sum(map(int, re.findall(r"\d+", colours[0]))) < 200) == (scheme == "dark")
