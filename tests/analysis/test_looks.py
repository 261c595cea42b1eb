"""Figures that can be read: texts that fit, rows that are told apart, ticks that do not meet."""

import io
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
from build import METHODS
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from analysis.cells import RowName
from analysis.figures import gradients
from analysis.figures.ablation import ablation_figure
from analysis.figures.gradients import depth_figure, flow_figure
from analysis.figures.layout import text_width, wrapped
from analysis.figures.rows import labels_of, line_of, look_of
from analysis.figures.stats import iqm_figure, profile_figure, ranks_figure
from analysis.figures.ticks import LogTicks, number_text
from analysis.flow.load import with_measures
from analysis.render import style
from analysis.render.style import method_colour
from analysis.render.svg import DARK_PAGE, LEAST_CONTRAST, contrast
from analysis.views.gradients import layer_cells

LONG = (
    "method.depth_summary=False; instruction.control=shuffled",
    "method.depth_summary=False; instruction.control=matched",
    "method.depth_summary=True; instruction.control=matched",
)
ROWS = [("lora", "")] + [("instruction_queryable", variant) for variant in LONG]

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
SIGHTS = {
    "normal": np.eye(3),
    "protanopia": [
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ],
    "deuteranopia": [
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ],
    "tritanopia": [
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ],
}
TO_XYZ = np.array(
    [
        (0.4124564, 0.3575761, 0.1804375),
        (0.2126729, 0.7151522, 0.0721750),
        (0.0193339, 0.1191920, 0.9503041),
    ]
)  # of linear sRGB, white D65


def linear(colour: str) -> NDArray[np.float64]:
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE L*a*b* of linear RGB."""
    x, y, z = TO_XYZ @ np.clip(rgb, 0, 1) / TO_XYZ.sum(1)
    fx, fy, fz = (
        t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in (x, y, z)
    )
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


# Colours, dashes and markers


@pytest.mark.parametrize("method", [*METHODS, "new"])
def test_colours_stand_out_from_the_page(method: str) -> None:
    own = method_colour(method)
    assert contrast(own, "#ffffff") >= LEAST_CONTRAST
    assert own == "#000000" or contrast(own, DARK_PAGE) >= LEAST_CONTRAST


@pytest.mark.parametrize("sight", SIGHTS)
def test_methods_of_the_same_mark_have_colours_far_apart(sight: str) -> None:
    same = defaultdict(list)
    for method in METHODS:
        same[style.mark(style.method_group(method), 0)].append(method)
    assert {"lora", "dora", "shared_lora", "queryable", "full", "frozen"} <= set(same[(), "o"])
    seen = {m: lab(SIGHTS[sight] @ linear(style.method_colour(m))) for m in METHODS}
    for first, second in itertools.chain.from_iterable(
        itertools.combinations(methods, 2) for methods in same.values()
    ):
        assert np.linalg.norm(seen[first] - seen[second]) >= 18, (first, second)


row_names = st.tuples(
    st.sampled_from([*METHODS, *(f"new_{i}" for i in range(20))]),
    st.sampled_from(["", *(f"lr={i}" for i in range(30))]),
)


@settings(deadline=None)
@given(st.lists(row_names, unique=True, min_size=1, max_size=80))
def test_no_two_rows_look_the_same(rows: list[RowName]) -> None:
    looks = {row: look_of(row, rows) for row in rows}
    marks = {(look["color"], look["linestyle"], look["marker"]) for look in looks.values()}
    assert len(marks) == len(rows)
    assert all(look["color"] == style.method_colour(row[0]) for row, look in looks.items())


def test_marks_do_not_come_again() -> None:
    marks = [style.mark(group, index) for group in range(5) for index in range(200)]
    assert len(set(marks)) == len(marks)


@given(st.lists(row_names, unique=True, min_size=1))
def test_labels_tell_rows_apart(rows: list[RowName]) -> None:
    assert len(set(labels_of(rows).values())) == len(rows)


def test_labels_leave_out_what_all_rows_share() -> None:
    rows = [("lora", "trainer.epochs=3; data.noise=0"), ("dora", "trainer.epochs=3; data.noise=1")]
    assert list(labels_of(rows).values()) == ["lora (noise=0)", "dora (noise=1)"]
    rows = [("lora", "a.rate=1; b.rate=2"), ("lora", "a.rate=2; b.rate=1")]
    assert next(iter(labels_of(rows).values())) == "lora (a.rate=1; b.rate=2)"
    assert labels_of([("lora", "a.rate=1")])["lora", "a.rate=1"] == "lora (rate=1)"


# Texts that fit


def points_of(values: Sequence[str], rows: Sequence[RowName]) -> pd.DataFrame:
    """As `analysis.stats.estimates` has them, with some seeds missing."""
    records = [
        {"method": method, "variant": variant, "budget": "equal_rank", "function": function}
        | {"axis": "" if method == "lora" else value, "runs": 2}
        | {"missing": int(place == 0), "failed": 0, "infinite": 0}
        | {"geometric_mean": 0.5 + place / 200, "low": 0.4, "high": 2.0}
        | {"ratio": 1 - place / 200, "ratio_low": 0.7, "ratio_high": 1.3}
        for function in ("drop_wave", "levy")
        for place, (method, variant) in enumerate(rows)
        for value in (values[:1] if method == "lora" else values)
    ]
    return pd.DataFrame(records)


def ablation_of(values: Sequence[str], rows: Sequence[RowName] = ROWS) -> Figure:
    axes = {"axis": list(values)}
    label = "ratio to the loss of LoRA of the same seed, function, budget and other settings"
    return ablation_figure(points_of(values, rows), "axis", axes, "test_loss", label)


def flow_runs(rows: Sequence[RowName], records: int = 5) -> pd.DataFrame:
    """Three runs a row, with norms between 0.09 and 1.1."""
    norms = np.linspace(0.1, 1.0, records * 4).reshape(records, 4)
    cells = [
        {
            **{"budget": "equal_rank", "method": method, "variant": variant, "function": "levy"},
            **{"seed": seed, "steps": np.arange(records), "norms": size * norms},
            **{"elsewhere": np.zeros(records), "parameters": np.ones(4)},
        }
        for method, variant in rows
        for seed, size in enumerate((0.9, 1.0, 1.1))
    ]
    return with_measures(pd.DataFrame(cells))


def layers_of(rows: Sequence[RowName]) -> pd.DataFrame:
    """Profiles over depth of these rows."""
    return layer_cells(flow_runs(rows)).query("function == 'all'")


def table_of(rows: Sequence[RowName]) -> pd.DataFrame:
    """A block of the statistics, with the columns of all its figures."""
    places = np.arange(len(rows))
    table = pd.DataFrame(rows, columns=["method", "variant"])
    table = table.assign(iqm=places / 40, low=places / 40 - 0.1, high=places / 40 + 0.1)
    table = table.assign(baseline="lora", rank=places + 1.0, ranked_functions=9)
    return table.assign(critical_difference=1.5)


def profiles_of(rows: Sequence[RowName]) -> pd.DataFrame:
    share = {"factor": [1.0, 1.5, 2.0], "share": [0.1, 0.5, 0.9]}
    limits = {"low": [0.0, 0.4, 0.8], "high": [0.2, 0.6, 1.0]}
    parts = [pd.DataFrame({"method": m, "variant": v} | share | limits) for m, v in rows]
    return pd.concat(parts, ignore_index=True)


ALL_ROWS = [(method, "") for method in METHODS] + ROWS[1:]
TITLE = "Equal count: LoRA's at rank 4, study of instructions and their controls"
FIGURES = {
    "ablation of words": lambda: ablation_of(["example_by_example", "token", "a_longer_word"]),
    "ablation of numbers": lambda: ablation_of(["0", "0.0001", "0.0003", "0.001", "0.9", "1"]),
    "ablation of many rows": lambda: ablation_of(["False", "True"], ALL_ROWS),
    "heat maps": lambda: flow_figure(flow_runs(ROWS), TITLE),
    "one heat map": lambda: flow_figure(flow_runs(ROWS[1:2]), TITLE),
    "profiles over depth": lambda: depth_figure(layers_of(ROWS), TITLE),
    "interquartile means": lambda: iqm_figure(table_of(ALL_ROWS)),
    "performance profiles": lambda: profile_figure(profiles_of(ALL_ROWS)),
    "ranks": lambda: ranks_figure(table_of(ALL_ROWS)),
}


@pytest.fixture
def styled() -> Iterator[None]:
    with style.figure_style():
        yield


def texts_of(figure: Figure) -> list[Text]:
    axes = [axis for panel in figure.axes for axis in (panel.xaxis, panel.yaxis)]
    ticks = {label for axis in axes for label in axis.findobj(Text)}
    shown = [text for text in figure.findobj(Text) if text not in ticks]
    for axis in axes:
        shown += [axis.label, *tick_labels(axis)]
    return [text for text in shown if text.get_visible() and text.get_text()]


def tick_labels(axis: Axis) -> list[Text]:
    """Those in view: matplotlib keeps others, which it does not draw."""
    low, high = sorted(axis.get_view_interval())
    labels = [
        label
        for tick in axis.get_major_ticks()
        if low <= tick.get_loc() <= high
        for label in (tick.label1, tick.label2)
    ]
    return [label for label in labels if label.get_visible() and label.get_text()]


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.usefixtures("styled")
def test_texts_and_legends_lie_inside_the_figure(name: str) -> None:
    figure = FIGURES[name]()
    figure.draw_without_rendering()
    parts = [*texts_of(figure), *figure.legends]
    assert len(parts) > 5
    for part in parts:
        box = part.get_window_extent()
        words = part.get_text() if isinstance(part, Text) else "legend"
        assert -1 <= box.x0 <= box.x1 <= figure.bbox.x1 + 1, words
        assert -1 <= box.y0 <= box.y1 <= figure.bbox.y1 + 1, words


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.usefixtures("styled")
def test_titles_and_tick_labels_do_not_meet(name: str) -> None:
    figure = FIGURES[name]()
    figure.draw_without_rendering()
    titles = [axes.title for axes in figure.axes if axes.get_title()]
    rows = [tick_labels(axes.xaxis) for axes in figure.axes]
    columns = [tick_labels(axes.yaxis) for axes in figure.axes]
    for texts in (titles, *rows, *columns):
        boxes = [text.get_window_extent() for text in texts]
        for first, second in itertools.combinations(boxes, 2):
            assert not first.overlaps(second)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.usefixtures("styled")
def test_panels_keep_their_size_beside_long_texts(name: str) -> None:
    figure = FIGURES[name]()
    figure.draw_without_rendering()
    for axes in figure.axes:
        if axes.get_label() != "<colorbar>":
            assert min(axes.bbox.size) / figure.dpi > 0.9


def test_long_texts_are_broken_between_words() -> None:
    text = "instruction_queryable (control=shuffled; routing=token)"
    broken = wrapped(text, 2.0)
    assert broken.replace("\n", " ") == text
    assert all(text_width(line) <= 2.0 for line in broken.split("\n"))
    assert wrapped(text, 9.0) == text


# Ablations


@pytest.mark.usefixtures("styled")
def test_lines_over_words_stand_beside_each_other() -> None:
    figure = ablation_of(["False", "True"])
    bars = [bar.lines[0] for bar in figure.axes[0].containers]
    assert len(bars) == len(ROWS) - 1
    places = np.array([bar.get_xdata() for bar in bars])
    assert (np.diff(places, axis=0) > 0.1).all()
    np.testing.assert_allclose(places.mean(0), [0, 1], atol=1e-12)
    assert np.abs(places - [0, 1]).max() < 0.5
    markers = [bar.get_marker() for bar in bars]
    assert len(set(markers)) == len(markers)
    handles = figure.legends[0].legend_handles[1:]
    assert [handle.get_marker() for handle in handles] == markers


@pytest.mark.usefixtures("styled")
def test_lines_over_numbers_stand_at_the_numbers() -> None:
    for bar in ablation_of(["1", "2", "4"]).axes[0].containers:
        assert list(bar.lines[0].get_xdata()) == [1, 2, 4]


# Ticks


@given(st.floats(-8, 6), st.floats(0.05, 12))
def test_log_axes_have_three_to_seven_ticks_of_different_texts(low: float, decades: float) -> None:
    start, end = 10**low, 10 ** (low + decades)
    ticks = LogTicks().tick_values(start, end)
    assert 3 <= len(ticks) <= 7
    assert (np.diff(ticks) > 0).all()
    assert start <= ticks[0] * (1 + 1e-8)
    assert ticks[-1] <= end * (1 + 1e-8)
    assert len({number_text(tick) for tick in ticks}) == len(ticks)


def test_numbers_are_plain_text() -> None:
    values = (0.05, 300.0, 0.001, 1e-4, 3e-12, 1e6)
    assert [number_text(value) for value in values] == [
        *("0.05", "300", "0.001", "10⁻⁴", "3×10⁻¹²", "10⁶")
    ]


# Files


@pytest.mark.usefixtures("styled")
def test_texts_fall_back_to_a_font_without_serifs(tmp_path: Path) -> None:
    file = tmp_path / "figure.svg"
    style.save_svg(depth_figure(layers_of(ROWS), TITLE), file)
    fonts = re.findall(r"font-family: ([^;\"]+)|font: [^;\"]*px ([^;\"]+)", file.read_text("utf-8"))
    assert len(fonts) > 10
    assert all("".join(font).endswith("sans-serif") for font in fonts)


@pytest.mark.parametrize("records", [10, 1000])
@pytest.mark.usefixtures("styled")
def test_heat_maps_are_paths_up_to_a_size(records: int) -> None:
    file = io.StringIO()
    style.save_svg(flow_figure(flow_runs(ROWS, records=records), TITLE), file)
    cells = 4 * records * len(ROWS)
    images = file.getvalue().count("<image") - 1  # the colour bar's
    assert images == (len(ROWS) if cells > gradients.MOST_CELLS else 0)
    assert len(file.getvalue()) < 600_000


@pytest.mark.usefixtures("styled")
def test_only_lora_and_the_queryable_adapters_have_a_band() -> None:
    rows = [(method, "") for method in METHODS]
    figure = profile_figure(profiles_of(rows))
    bands = {matplotlib.colors.to_hex(c.get_facecolor()[0]) for c in figure.axes[0].collections}
    methods = ("lora", "queryable", "instruction_queryable")
    assert bands == {style.method_colour(method) for method in methods}
    assert "bands" in figure.legends[0].get_title().get_text()


def test_an_entry_of_a_legend_looks_as_its_line() -> None:
    look, entry = look_of(ROWS[2], ROWS), line_of(ROWS[2], ROWS)
    assert (entry.get_color(), entry.get_marker()) == (look["color"], look["marker"])
