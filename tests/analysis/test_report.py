"""The report of a made-up study as a parser sees it, and any page as a browser does."""

import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from html.parser import HTMLParser
from itertools import pairwise, product
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import SEEDS, cell_of, render, summary_of, write_run
from matplotlib.figure import Figure
from playwright.sync_api import Browser, Page, sync_playwright

from analysis.benchmark import SYNTHETIC
from analysis.findings import findings
from analysis.names import ALL
from analysis.render import Grid, Section, Text, latex
from analysis.render.output import Picture
from analysis.render.page import Chapter, numeric_columns, sort_number
from analysis.render.page import Page as Report
from analysis.render.style import figure_style
from analysis.render.svg import contrast, inline_svg
from analysis.study import Study
from analysis.table import read_table
from analysis.text import spread
from analysis.view import Shown
from analysis.views import report, tables
from qlexp.problem.functions import FUNCTIONS
from qlexp.store.files import write_folder
from qlexp.store.store import Store

STUDY = "made_up"
NASTY = "<b>&\"'{{ x }}</script>"  # a method's name that wants to be markup
METHODS = ("frozen", "lora", NASTY, "queryable", "full")
TARGETS = 4  # in sequence
VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}
command = partial(render, "report")


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
        draw = np.random.default_rng(seed)
        summary = summary_of("drop_wave", method, seed)
        summary["task_losses"] = draw.uniform(0.1, 1.0, (TARGETS + 1, TARGETS)).tolist()
        if method == "queryable":
            summary["route_drift"] = [draw.random(n + 1).tolist() for n in range(TARGETS)]
            summary["atom_usage"] = draw.dirichlet(np.ones(5), (TARGETS, 2)).tolist()
        summary["run_id"] = "-".join([method, *words, str(seed)])
        summary["validation_loss"] = float(words[-1].partition("=")[2])  # the first rate is kept
        write_run(store, summary)
        cells.append(cell_of(summary, "equal_rank", *words))
    store.write_study("swept", cells)
    return store


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert command(make_store(folder / "store"), folder) == 0
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


@pytest.fixture(params=["whole", "inside", "swept"])
def tree(request: pytest.FixtureRequest) -> Tree:
    tree = Tree(request.getfixturevalue(request.param).read_text(encoding="utf-8"))
    assert not tree.open
    return tree


# A study's page


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


ALWAYS = {
    *("Findings", "Losses", "Cost", "Equal training loss", "Learning curves", "Targets"),
    *("Backbones", "Settings", "Left out"),
}


@pytest.mark.parametrize(
    ("page", "more", "left_out"),
    [
        (
            "whole",
            {"Claims", "Statistics", "Diverged cells"},
            {"Ablation", "Continual", "Gradient flow", "Routing"},
        ),
        (
            "inside",
            {"Claims", "Statistics", "Gradient flow", "Routing"},
            {"Ablation", "Continual"},
        ),
        (
            "swept",
            {"Claims", "Statistics", "Ablation", "Continual"},
            {"Gradient flow", "Routing"},
        ),
    ],
)
def test_chapters_stand_where_a_study_has_what_they_need(
    page: str, more: set[str], left_out: set[str], request: pytest.FixtureRequest
) -> None:
    tree = Tree(request.getfixturevalue(page).read_text())
    titles = tree.text_of("h2")
    assert titles[0] == "Findings"
    assert set(titles) == ALWAYS | more
    reasons = dict(text.split(": ", 1) for text in tree.text_of("li")[-len(left_out) :])
    assert set(reasons) == left_out
    figures = [a["aria-labelledby"] for a in tree.attributes("svg")]
    assert figures[0] == "forest_equal_rank-title"


def test_texts_are_escaped_and_diverged_cells_listed(whole: Path) -> None:
    tree = Tree(whole.read_text())
    assert tree.attributes("b") == []
    assert tree.text_of("th").count(f"{NASTY}†") + tree.text_of("th").count(NASTY) >= 3
    assert tree.text_of("h1") == [f"Study {STUDY}"]
    assert ["lora", "matyas", "equal_rank", "–", "1"] in tree.rows()
    assert "inf (1/3)" in tree.texts[0]
    assert "Missing and failed" not in tree.texts[0]


def test_gaps_come_first_or_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "store")
    lose_cells(store)
    assert command(store, tmp_path) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "missing: lora on drop_wave" in message
    assert not (tmp_path / STUDY).exists()
    assert command(store, tmp_path, "--allow-missing") == 0
    tree = Tree((tmp_path / STUDY / "report.html").read_text())
    assert tree.text_of("h2")[0] == "Missing and failed cells"
    listed = [text for text in tree.text_of("li") if text.startswith(("missing:", "failed:"))]
    assert listed == [
        "missing: lora on drop_wave (equal_rank), seed 0",
        "failed: queryable on matyas (equal_rank), seed 2: OSError: no <disk>",
        "missing: lora on drop_wave (lora_r4), seed 0",
        "failed: queryable on matyas (lora_r4), seed 2: OSError: no <disk>",
    ]
    assert "54 done, 2 diverged, 2 failed, 2 missing" in tree.text_of("dd")


def test_a_study_of_which_nothing_is_stored(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.write_study(STUDY, [cell_of(summary_of("levy", "lora", 0), "equal_rank")])
    assert command(store, tmp_path, "--allow-missing") == 0
    tree = Tree((tmp_path / STUDY / "report.html").read_text())
    assert tree.attributes("svg") == []
    assert "1 missing" in tree.text_of("dd")


def test_the_same_store_gives_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    assert command(Store(whole.parents[1] / "store"), tmp_path) == 0
    page = (tmp_path / STUDY / "report.html").read_bytes()
    assert page == whole.read_bytes()
    assert len(page) < 3_000_000
    assert str(whole.parents[1]).encode() not in page
    assert b"/somewhere" not in page


def test_the_page_holds_the_tables_and_their_latex(swept: Path) -> None:
    tree = Tree(swept.read_text())
    rows, listings = tree.rows(), [listing.strip() for listing in tree.text_of("pre")]
    store = Store(swept.parents[1] / "store")
    for grids in tables.show(Study("swept", store, read_table(store, "swept"))).grids.values():
        for grid in grids:
            assert latex(grid).strip() in listings
            for section in grid.sections:
                assert all([cell.text for cell in row] in rows for row in section.rows)


def test_losses_are_those_of_the_best_trials(swept: Path) -> None:
    tree = Tree(swept.read_text())
    rows = {"lora", "queryable (method.block_size=2)", "queryable (method.block_size=4)"}
    marked = [row for row in tree.rows() if row[-1].endswith("¶")]  # of two rates each is an edge
    assert len(marked) == len(SYNTHETIC.tables) * len(rows)
    assert {row[0] for row in marked} == rows


@pytest.mark.parametrize(("most", "seeds"), [(8, {0, 1}), (4, {0}), (1, {0})])
def test_of_many_runs_that_route_the_first_seeds_are_looked_into(
    most: int, seeds: set[int], studied: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "ROUTED", most)
    few = report._few_routed(Study("tiny", studied, read_table(studied, "tiny")))
    assert set(few.frame["seed"]) == seeds


# Findings


def forest(*rows: tuple[str, str, float, float, float]) -> Shown:
    """A forest plot's frame of (method, function, ratio, low, high)."""
    frame = pd.DataFrame(rows, columns=["method", "function", "ratio", "low", "high"])
    frame = frame.assign(budget="equal_rank", variant="", baseline="lora")
    return Shown(frames={"forest": frame.assign(is_reference=frame["method"] == "full")})


def test_findings_tell_what_intervals_decide() -> None:
    shown = forest(
        ("dora", ALL, 0.9, 0.8, 0.95),
        ("dora", "levy", 0.8, 0.7, 0.9),
        ("dora", "ackley", 1.01, 0.9, 1.1),
        ("vera", ALL, 1.2, 1.1, 1.3),
        ("lily", ALL, 1.0, 0.9, math.inf),
        ("full", ALL, 0.1, 0.1, 0.1),
    )
    first, claims = findings({"forest": shown})
    assert first.startswith(
        "Equal rank. Of 3 adapters dora has the lowest loss, 0.900 [0.800, 0.950]"
    )
    assert "lower on 1 of 2 functions" in first
    assert first.endswith(": lower: dora; higher: vera.")
    assert claims == "None of the claims can be asked of this study."


def test_findings_are_honest_where_nothing_is_decided() -> None:
    assert findings({})[0] == "No adapter is held against another."
    (first, _) = findings({"forest": forest(("dora", ALL, 0.9, math.nan, math.nan))})
    assert "0.900 of LoRA's" in first
    assert first.endswith("functions: none.")
    answers = ["undecided", "supported", "undecided", "undecided"]
    table = pd.DataFrame({"claim": list("abcd"), "answer": answers, "runs": ["x", "y", "", "z"]})
    told = findings({"claims": Shown(frames={"claims": table})})[-1]
    assert told == "Claims: of 3 answers 1 supported (b), 2 undecided."


# Parts of a page


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


# A page as a browser sees it: nine functions, one of them diverged, prose and a figure


def made_page() -> str:
    methods = ["lora", "instruction_queryable", "dora"]
    losses = {"lora": 0.123456, "instruction_queryable": 0.0987, "dora": 12345.0}
    titles = [function.title for function in FUNCTIONS.values()]

    def row(method: str) -> list[Text]:
        own = [Text("inf (1/3)", value=math.inf)] if method == "dora" else []
        numbers = [Text(spread([losses[method], 0.9 * losses[method]])) for _ in titles]
        return [Text(method), Text("16,384"), *own, *numbers[len(own) :]]

    sections = [Section(title, [row(method) for method in methods]) for title in ("A", "B")]
    prose = Section("", [[Text("a"), Text("–"), Text(word * 20)] for word in ("one ", "two ")])
    figure = Figure(figsize=(9, 3))
    figure.subplots().plot([0, 1], [0, 1], color="#b52a00")
    chapters = [
        Chapter("Findings", ["It is so."]),
        Chapter(
            "Losses",
            grids=[
                Grid("losses", "Losses", ["method", "trainable", *titles], sections, ["A note."]),
                Grid("claims", "Claims", ["claim", "gap", "remark"], [prose]),
            ],
            pictures=[Picture("drawn", "A figure. Of lines.", figure)],
        ),
    ]
    with figure_style():
        return Report("A page", [("Cells", "6 done")], ["missing"], chapters, "The end.").html()


FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


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


LAPTOP, PHONE = {"width": 1300, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """The page, opened; a word on the console or a request of anything else fails the test."""
    (tmp_path / "page.html").write_text(made_page(), encoding="utf-8")
    address = (tmp_path / "page.html").as_uri()
    page = browser.new_page(viewport=LAPTOP)
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


def test_a_click_or_a_key_sorts_and_inf_comes_last(page: Page) -> None:
    rendered = column(page, "method")
    button = page.locator("table").first.get_by_role("button", name="Drop-Wave")
    header = button.locator("xpath=..")
    button.click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert column(page, "method") == 2 * [["instruction_queryable", "lora", "dora"]]
    button.focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert column(page, "method") == 2 * [["lora", "instruction_queryable", "dora"]]
    assert page.get_by_role("status").text_content() == "Drop-Wave: descending"
    page.keyboard.press("Space")
    assert header.get_attribute("aria-sort") is None
    assert column(page, "method") == rendered
    page.locator("table").first.get_by_role("button", name="method").click()
    assert column(page, "method") == [sorted(part) for part in rendered]


def test_the_first_tab_leads_past_the_navigation(page: Page) -> None:
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def resize(page: Page, size: Mapping[str, int]) -> None:
    """Another viewport, and what the page makes of it in the frames that follow."""
    page.set_viewport_size({"width": size["width"], "height": size["height"]})
    frame = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    page.evaluate(f"{frame}.then(() => {frame})")


@pytest.mark.parametrize("size", [LAPTOP, PHONE])
def test_nothing_sticks_out_and_tab_reaches_what_scrolls(
    page: Page, size: Mapping[str, int]
) -> None:
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    resize(page, size)
    out = page.evaluate(
        """[...document.querySelectorAll("body *:not(.skip)")]
            .filter((node) => !node.parentElement.closest("[tabindex='0'], svg"))
            .filter((node) => node.getBoundingClientRect().right > innerWidth + 1)
            .map((node) => node.outerHTML.slice(0, 80))"""
    )
    assert out == []
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    boxes = page.locator(".scroll, pre").evaluate_all(
        "(boxes) => boxes.map((box) => [box.className, box.tabIndex === 0, "
        "box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1])"
    )
    assert [box for box in boxes if box[1] != box[2]] == []
    # the tables of nine functions fit a laptop's width
    assert any(scrolls for name, _, scrolls in boxes if name == "scroll") == (size is PHONE)


def test_names_stay_while_a_table_is_scrolled(page: Page) -> None:
    resize(page, {"width": 390, "height": 200})
    left, top, method, row, seen = page.locator(".scroll").first.evaluate(
        """(box) => {
            box.scrollIntoView();
            box.scrollTo(150, 60);
            const { left, top } = box.getBoundingClientRect();
            const corner = box.querySelector("thead th").getBoundingClientRect();
            const row = [...box.querySelectorAll("[scope=row]")].at(-1).getBoundingClientRect();
            const seen = document.elementFromPoint(corner.left + 20, corner.bottom - 10);
            const at = [corner.left - left, corner.top - top];
            return [box.scrollLeft, box.scrollTop, at, row.left - left, seen.textContent];
        }"""
    )
    assert (left, top) == (150, 60)
    assert [*method, row] == pytest.approx([0, 0, 0], abs=1)
    assert seen == "method"


def test_prose_is_a_card_a_row_on_a_phone(page: Page) -> None:
    resize(page, PHONE)
    table = page.locator("table.prose")
    assert table.locator("thead").is_hidden()
    cell, gap = table.get_by_text("one").first, table.locator("[data-gap]").first
    content = cell.evaluate("(cell) => getComputedStyle(cell, '::before').content")
    assert content == '"remark: "'
    assert gap.is_hidden()


# Every colour of a text or a figure that is shown, with the background that it lies on.
COLOURS = """() => {
    const ground = (node) => {
        const own = getComputedStyle(node).backgroundColor;
        return own === "rgba(0, 0, 0, 0)" && node.parentElement ? ground(node.parentElement) : own;
    };
    const texts = [...document.querySelectorAll("h1, h2, h3, p, li, td, th, dt, dd, summary, a")]
        .filter((node) => node.checkVisibility() && !node.matches(".skip, .unseen"))
        .map((node) => ["text", getComputedStyle(node).color, ground(node)]);
    const marks = [...document.querySelectorAll(".paper :is(g path, g use, text)")]
        .filter((node) => !node.closest("clipPath, defs"))
        .flatMap((node) => {
            const { stroke, fill } = getComputedStyle(node);
            const kind = node.matches("text") ? "text" : "mark";
            return [stroke, fill].map((colour) => [kind, colour, ground(node.closest(".paper"))]);
        })
        .filter(([, colour, behind]) => colour.startsWith("rgb(") && colour !== behind);
    return [...texts, ...marks];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_figures_can_be_told_from_what_they_lie_on(
    page: Page, scheme: Literal["light", "dark"]
) -> None:
    page.emulate_media(color_scheme=scheme)
    found = {tuple(entry) for entry in page.evaluate(COLOURS)}
    assert len(found) > 5
    for kind, colour, behind in found:
        assert contrast(_hex(colour), _hex(behind)) >= {"text": 4.5, "mark": 3.0}[kind], colour
    body = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (contrast(_hex(body), "#ffffff") > 10) == (scheme == "dark")
    paper = page.locator(".paper").evaluate("(box) => getComputedStyle(box).backgroundColor")
    assert paper == (body if scheme == "dark" else "rgb(255, 255, 255)")


def _hex(colour: str) -> str:
    red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
    return f"#{red:02x}{green:02x}{blue:02x}"
