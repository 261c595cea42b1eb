"""Ablations: the swept setting is found, the numbers are those of a plain loop and of scipy."""

import itertools
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import cell_of, check_svg, markdown_rows, render, summary_of, write_run
from random_tables import QUALITY, named
from scipy import stats

from analysis.figures.ablation import ablation_figure, is_geometric
from analysis.names import ALL
from analysis.render.style import figure_style, method_colour
from analysis.stats.estimates import estimates, log_interval, ratio_label
from analysis.table import read_table, with_columns
from analysis.views.ablation import pictures, swept_axes, with_loss
from qlexp.errors import UsageError
from qlexp.store.store import Store

SEEDS = (0, 1, 2)
SIZES = ("1", "2", "4")
FUNCTIONS = ("drop_wave", "matyas")
command = partial(render, "ablation", study="blocks")


def loss_of(function: str, method: str, value: str, seed: int) -> float:
    draw = np.random.default_rng([*map(ord, function + method + value), seed])
    return float(draw.uniform(0.1, 1.0))


def add(store: Store, cells: list, method: str, seed: int, *words: str, **changes: object) -> None:
    for function in FUNCTIONS:
        text = ";".join(words)
        own = {"test_loss": loss_of(function, method, text, seed), **changes}
        identity = f"{function}-{method}-{text.replace('.', '_')}-{seed}"
        summary = summary_of(function, method, seed, run_id=identity, **own)
        write_run(store, summary)
        cells.append(cell_of(summary, "equal_rank", "experiment=blocks", *words))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Study "blocks": queryable by block size, LoRA beside; queryable at 4 with seed 1 diverged."""
    store, cells = Store(tmp_path / "store"), []
    for seed in SEEDS:
        add(store, cells, "lora", seed)
        for size in SIZES:
            lost = {"status": "diverged", "test_loss": None} if (size, seed) == ("4", 1) else {}
            add(store, cells, "queryable", seed, f"method.block_size={size}", **lost)
    store.write_study("blocks", cells)
    return store


@pytest.fixture
def crossed(store: Store) -> Store:
    """Study "crossed": two settings, both methods have them, and one is not a number."""
    cells: list = []
    for seed in SEEDS:
        for method in ("lora", "queryable"):
            for noise in ("0", "0.1", "0.2"):
                for schedule in ("constant", "cosine"):
                    words = (f"data.noise={noise}", f"trainer.adapt.schedule={schedule}")
                    add(store, cells, method, seed, *words)
    store.write_study("crossed", cells)
    return store


def points_of(store: Store, study: str) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    frame = read_table(store, study)
    axes = swept_axes(frame, study)
    points = estimates(with_loss(frame, "test_loss"), axes)
    return points[points["function"] != ALL], axes


def test_the_numbers_are_those_of_a_plain_loop(store: Store) -> None:
    points, axes = points_of(store, "blocks")
    assert axes == {"method.block_size": list(SIZES)}
    assert len(points) == len(FUNCTIONS) * (len(SIZES) + 1)
    for point in points.to_dict("records"):
        size, function = point["method.block_size"], point["function"]
        word = f"method.block_size={size}" if size else ""
        own = [loss_of(function, point["method"], word, seed) for seed in SEEDS]
        lora = [loss_of(function, "lora", "", seed) for seed in SEEDS]
        if size == "4":
            assert (point["infinite"], point["runs"]) == (1, 3)
            assert point["mean"] == point["geometric_mean"] == math.inf
            assert math.isnan(point["ratio"])
            continue
        assert point["infinite"] == 0
        assert point["mean"] == pytest.approx(np.mean(own))
        assert point["geometric_mean"] == pytest.approx(stats.gmean(own))
        interval = stats.ttest_1samp(np.log(own), 0.0).confidence_interval(0.95)
        assert (point["low"], point["high"]) == pytest.approx(tuple(np.exp(interval)))
        assert point["ratio"] == pytest.approx(stats.gmean(np.array(own) / np.array(lora)))
        if point["method"] == "lora":
            assert point["ratio_low"] == point["ratio_high"] == pytest.approx(1.0)
            continue
        paired = stats.ttest_rel(np.log(own), np.log(lora)).confidence_interval(0.95)
        assert (point["ratio_low"], point["ratio_high"]) == pytest.approx(tuple(np.exp(paired)))


def test_lora_is_paired_at_the_same_setting_where_it_has_it(crossed: Store) -> None:
    points, axes = points_of(crossed, "crossed")
    assert axes == {
        "data.noise": ["0", "0.1", "0.2"],
        "trainer.adapt.schedule": ["constant", "cosine"],
    }
    for point in points.to_dict("records"):
        text = ";".join(f"{axis}={point[axis]}" for axis in axes)
        own, lora = (
            [loss_of(point["function"], method, text, seed) for seed in SEEDS]
            for method in (point["method"], "lora")
        )
        assert point["ratio"] == pytest.approx(stats.gmean(np.array(own) / np.array(lora)))


def test_over_all_functions_the_ratio_is_the_mean_with_welchs_interval() -> None:
    """Of three functions with 3, 4 and 5 seeds, LoRA's in another order."""
    seeds = {"drop_wave": range(3), "matyas": range(4), "ackley": range(5)}
    rows = [
        row_of(function, method, value, seed)
        for method, values in (("queryable", ("0.1", "0.2")), ("lora", ("0.2", "0.1")))
        for function, own in seeds.items()
        for value in values
        for seed in (own if method == "queryable" else reversed(own))
    ]
    points = estimates(with_columns(named(pd.DataFrame(rows))), {"data.noise": ["0.1", "0.2"]})
    overall = points[(points["function"] == ALL) & (points["method"] == "queryable")]
    assert overall["data.noise"].tolist() == ["0.1", "0.2"]
    for point in overall.to_dict("records"):
        value = point["data.noise"]
        logs = [
            np.log([loss_of(f, "queryable", value, s) / loss_of(f, "lora", value, s) for s in own])
            for f, own in seeds.items()
        ]
        parts = np.array([own.var(ddof=1) / len(own) / 9 for own in logs])
        freedom = parts.sum() ** 2 / sum(
            p**2 / (len(own) - 1) for p, own in zip(parts, logs, strict=True)
        )
        half = stats.t.ppf(0.975, freedom) * math.sqrt(parts.sum())
        middle = np.mean([own.mean() for own in logs])
        expected = np.exp([middle, middle - half, middle + half])
        assert [point[f"ratio{end}"] for end in ("", "_low", "_high")] == pytest.approx(expected)
        assert (point["runs"], point["infinite"]) == (12, 0)
    assert points["function"].tolist()[-1] == ALL


def row_of(function: str, method: str, value: str, seed: int, budget: str = "equal_rank") -> dict:
    """A row of the long table with a `loss`."""
    return {
        "budget": budget,
        "function": function,
        "method": method,
        "overrides": f"data.noise={value}",
        "seed": seed,
        "run_id": f"{budget}-{function}-{method}-{value}-{seed}",
        "status": "done",
        **QUALITY,
        "validation_loss": 0.1,
        "test_loss": 0.1,
        "loss": loss_of(function, method, value, seed),
        "trainable_parameters": 1000.0,
        "reference_parameters": 1000.0,
        "reading": False,
    }


def test_a_budget_asks_for_functions_of_its_own() -> None:
    rows = [
        row_of(function, method, "0.1", seed, budget)
        for budget, functions in (("equal_rank", FUNCTIONS), ("lora_r4", FUNCTIONS[:1]))
        for function in functions
        for method in ("lora", "queryable")
        for seed in SEEDS
    ]
    points = estimates(with_columns(named(pd.DataFrame(rows))), {"data.noise": ["0.1"]})
    overall = points[points["function"] == ALL].set_index(["budget", "method"])
    assert overall["ratio"].notna().all()
    alone = points[(points["budget"] == "lora_r4") & (points["method"] == "queryable")]
    assert alone["ratio"].nunique() == 1
    assert len(alone) == 2


def test_a_row_of_another_task_has_no_ratio_to_loras() -> None:
    """The noise is no swept setting where only one value of it was named."""
    rows = [
        {**row_of("matyas", method, "0.2", seed), "overrides": text, "run_id": f"{text}-{seed}"}
        for method, text in (
            ("lora", ""),
            ("queryable", "method.atoms=4"),
            ("queryable", "method.atoms=8"),
            ("queryable", "method.atoms=4; data.noise=0.2"),
        )
        for seed in SEEDS
    ]
    points = estimates(with_columns(named(pd.DataFrame(rows))), {"method.atoms": ["4", "8"]})
    own = points[points["method"] == "queryable"].set_index(["variant", "method.atoms"])["ratio"]
    assert own.isna().to_dict() == {
        ("", "4"): False,
        ("", "8"): False,
        ("data.noise=0.2", "4"): True,
    }


def test_without_lora_losses_of_two_tasks_have_no_ratio() -> None:
    def table(*words: str) -> pd.DataFrame:
        rows = (
            {**row_of("matyas", "queryable", word, seed), "overrides": word}
            for word in words
            for seed in SEEDS
        )
        return with_columns(named(pd.DataFrame(rows)))

    noise = table("data.noise=0.1", "data.noise=0.2")
    points = estimates(noise, {"data.noise": ["0.1", "0.2"]})
    assert points["ratio"].isna().all()
    assert ratio_label(points) == "no ratio, for lack of lora"
    words = [f"data.noise={n}; method.atoms={k}" for n in ("0.1", "0.2") for k in ("4", "8")]
    axes = {"data.noise": ["0.1", "0.2"], "method.atoms": ["4", "8"]}
    points = estimates(table(*words), axes)
    assert ratio_label(points) == "loss / loss at first value"
    for point in points.to_dict("records"):
        own, first = (
            [
                loss_of("matyas", "queryable", f"data.noise={point['data.noise']}; {word}", s)
                for s in SEEDS
            ]
            for word in (f"method.atoms={point['method.atoms']}", "method.atoms=4")
        )
        assert point["ratio"] == pytest.approx(stats.gmean(np.array(own) / np.array(first)))
        assert point["baseline"] == "method.atoms=4"


def test_a_loss_that_some_methods_lack_is_inf_where_it_is_not_finite() -> None:
    rows = [
        {"method": method, "status": status, "paraphrased_loss": loss}
        for method, status, loss in (
            ("queryable", "done", 0.5),
            ("queryable", "done", None),
            ("queryable", "diverged", None),
            ("queryable", "missing", None),
            ("lora", "done", None),
            ("lora", "diverged", None),
            ("queryable", "diverged", 0.7),
        )
    ]
    losses = with_loss(pd.DataFrame(rows), "paraphrased_loss")["loss"].tolist()
    assert losses == pytest.approx([0.5, *[math.inf] * 2, *[math.nan] * 3, math.inf], nan_ok=True)


def test_more_seeds_of_lora_leave_the_ratio_known_and_fewer_do_not() -> None:
    rows = [
        row_of("matyas", method, "0.1", seed)
        for method, seeds in (("lora", range(5)), ("queryable", range(3)), ("dora", range(6)))
        for seed in seeds
    ]
    found = estimates(with_columns(named(pd.DataFrame(rows))), {"data.noise": ["0.1"]}).set_index(
        "method"
    )["ratio"]
    expected = [
        loss_of("matyas", "queryable", "0.1", s) / loss_of("matyas", "lora", "0.1", s)
        for s in SEEDS
    ]
    assert found["queryable"] == pytest.approx(stats.gmean(expected))
    assert math.isnan(found["dora"])


def test_over_all_functions_are_those_that_can_be_learnt_and_were_asked_for(store: Store) -> None:
    frame = read_table(store, "blocks")
    axes = swept_axes(frame, "blocks")
    unlearnt = frame[(frame["method"] == "lora") & (frame["function"] == "matyas")]
    unlearnt = unlearnt.assign(method="full", learnt_r2=-1.0)
    points = estimates(
        with_loss(with_columns(pd.concat([frame, unlearnt], ignore_index=True)), "test_loss"), axes
    )
    own = points[points["method"] == "queryable"].set_index(["function", "method.block_size"])
    assert own.loc[(ALL, "2"), "ratio"] == pytest.approx(own.loc[("drop_wave", "2"), "ratio"])
    assert own.loc[ALL, "infinite"].tolist() == own.loc["drop_wave", "infinite"].tolist()
    lacking = (frame["function"] == "matyas") & frame["overrides"].str.endswith("=2")
    points = estimates(with_loss(frame[~lacking], "test_loss"), axes)
    own = points[points["function"] == ALL].set_index(["method", "method.block_size"])["ratio"]
    assert own.isna().to_dict() == {
        ("lora", ""): False,
        ("queryable", "1"): False,
        ("queryable", "2"): True,
        ("queryable", "4"): True,
    }
    alone = frame[frame["function"] == "matyas"]
    assert ALL not in set(estimates(with_loss(alone, "test_loss"), axes)["function"])


def test_counts_and_ratios_stand_in_the_table(store: Store, tmp_path: Path) -> None:
    for folder in (store.root / "runs").glob("drop_wave-queryable-*"):
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps({**summary, "trainable_parameters": 1500}))
    assert command(store, tmp_path) == 0
    rows = markdown_rows(tmp_path / "blocks" / "ablation.md")[""]
    table = pd.read_csv(tmp_path / "blocks" / "ablation.csv")
    counts = sorted(
        set(table.loc[table["method"] == "queryable", "trainable_parameters"]) - {"1500"}
    )
    assert len(counts) == 2  # that of matyas, and both of all functions
    assert rows[1]["trainable"] == "/".join(sorted({"1500", *counts[0].split("/")}, key=int))
    overall = table[(table["function"] == ALL) & (table["method"] == "queryable")]["ratio"]
    shown = [row["all functions: ratio"].split()[0] for row in rows[1:]]
    assert [float(text) for text in shown[:2]] == pytest.approx(overall[:2].tolist(), rel=5e-3)
    assert (rows[3]["all functions: ratio"], math.isnan(overall.iloc[2])) == ("–", True)


def test_lora_is_level_along_a_setting_of_which_it_has_one_value(store: Store) -> None:
    cells: list = []
    for seed in SEEDS:
        add(store, cells, "lora", seed, "instruction=none", "instruction.control=matched")
        for control in ("matched", "empty"):
            words = ("instruction=minilm", f"instruction.control={control}")
            add(store, cells, "queryable", seed, *words)
    store.write_study("texts", cells)
    points, _ = points_of(store, "texts")
    assert set(points["baseline"]) == {"lora"}
    assert points["ratio"].notna().all()


def test_without_lora_the_ratio_is_to_the_first_value(store: Store) -> None:
    frame = read_table(store, "blocks")
    frame = frame[frame["method"] == "queryable"]
    points = estimates(with_loss(frame, "test_loss"), swept_axes(frame, "blocks"))
    points = points[points["function"] != ALL]
    assert set(points["baseline"]) == {"method.block_size=1"}
    first = points[points["method.block_size"] == "1"]
    assert first["ratio"].tolist() == pytest.approx([1.0, 1.0])
    second = points[(points["method.block_size"] == "2") & (points["function"] == "matyas")]
    ratios = [
        loss_of("matyas", "queryable", "method.block_size=2", seed)
        / loss_of("matyas", "queryable", "method.block_size=1", seed)
        for seed in SEEDS
    ]
    assert second["ratio"].tolist() == pytest.approx([stats.gmean(ratios)])


@given(st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=8), st.floats(1e-3, 1e3))
def test_an_interval_scales_with_its_values(values: list[float], factor: float) -> None:
    own = log_interval(pd.Series(values))
    assert own[1] <= own[0] * (1 + 1e-12)
    assert own[0] <= own[2] * (1 + 1e-12)
    scaled = log_interval(pd.Series(values) * factor)
    assert scaled == pytest.approx(tuple(factor * number for number in own), rel=1e-6)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 4, 8], True),
        ([0, 0.25, 0.5, 1, 2], True),
        ([75, 150, 300, 600], True),
        ([0, 15, 30, 45], False),
        ([1, 2, 3, 4], False),
        ([-1, 1, 2, 4], False),
        ([0, 1, 2], False),
    ],
)
def test_geometric_values_are_told_from_even_ones(values: list[float], expected: bool) -> None:
    assert is_geometric(values) == expected


def test_files_are_written_and_the_same_again(store: Store, tmp_path: Path) -> None:
    for place in ("a", "b"):
        assert command(store, tmp_path / place) == 0
    names = sorted(path.name for path in (tmp_path / "a" / "blocks").iterdir())
    tables = [f"ablation{end}.{kind}" for end in ("", "_effects") for kind in ("csv", "md", "tex")]
    assert names == sorted(["ablation.svg", *tables])
    for name in names:
        first, again = ((tmp_path / place / "blocks" / name).read_bytes() for place in "ab")
        assert first == again
    check_svg(tmp_path / "a" / "blocks" / "ablation.svg")
    rows = markdown_rows(tmp_path / "a" / "blocks" / "ablation.md")[""]
    assert [row["method.block\\_size"] for row in rows] == ["–", *SIZES]
    assert rows[3]["Drop-Wave"] == "inf (1/3)"
    assert rows[0]["all functions: ratio"].startswith("1.00")
    for name in ("ablation.tex", "ablation_effects.tex"):
        assert (tmp_path / "a" / "blocks" / name).read_text().isascii()


def test_several_settings_have_a_figure_each(crossed: Store, tmp_path: Path) -> None:
    assert command(crossed, tmp_path, study="crossed") == 0
    found = sorted(path.name for path in (tmp_path / "crossed").glob("*.svg"))
    assert found == ["ablation_noise.svg", "ablation_schedule.svg"]
    assert command(crossed, tmp_path / "one", "--axis", "data.noise", study="crossed") == 0
    found = [path.name for path in (tmp_path / "one" / "crossed").glob("*.svg")]
    assert found == ["ablation_noise.svg"]


def test_settings_with_one_ending_have_names_of_their_own(store: Store) -> None:
    cells: list = []
    for stage, rate in itertools.product(("pretrain", "adapt"), ("0.1", "0.2")):
        add(store, cells, "lora", 0, f"trainer.{stage}.learning_rate={rate}")
    store.write_study("rates", cells)
    points, axes = points_of(store, "rates")
    names = {picture.name for picture in pictures(points, axes, "test_loss", axes, "ablation")}
    assert names == {f"ablation_trainer_{part}_learning_rate" for part in ("pretrain", "adapt")}


def test_the_last_panel_holds_the_ratio_over_all_functions(store: Store) -> None:
    frame = read_table(store, "blocks")
    axes = swept_axes(frame, "blocks")
    points = estimates(with_loss(frame, "test_loss"), axes)
    figure = ablation_figure(points, "method.block_size", axes, "test_loss", "ratio")
    panel = figure.axes[-1]
    assert panel.get_title() == "all functions"
    own = points[(points["function"] == ALL) & (points["method"] == "queryable")]
    (bars,) = panel.containers
    np.testing.assert_allclose(bars.lines[0].get_ydata(), own["ratio"])
    ends = [segment[:, 1] for segment in bars.lines[2][0].get_segments() if len(segment)]
    np.testing.assert_allclose(ends[:2], own[["ratio_low", "ratio_high"]][:2])
    alone = points[points["function"] == "matyas"]
    figure = ablation_figure(alone, "method.block_size", axes, "test_loss", "ratio")
    assert [axis.get_title() for axis in figure.axes] == ["Matyas", ""]


def test_lines_gaps_and_scales_of_the_figure(store: Store) -> None:
    points, axes = points_of(store, "blocks")
    with figure_style():
        figure = ablation_figure(points, "method.block_size", axes, "test_loss", "ratio")
    upper, lower = figure.axes[0], figure.axes[len(FUNCTIONS)]
    assert (upper.get_xscale(), upper.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in lower.get_xticklabels()] == list(SIZES)
    assert lower.get_xlabel() == "method.block_size"
    assert "MSE" in upper.get_ylabel()
    drawn = next(
        line
        for line in upper.lines
        if line.get_color() == method_colour("queryable") and line.get_marker() == "o"
    )
    own = points[(points["function"] == "drop_wave") & (points["method"] == "queryable")]
    np.testing.assert_allclose(drawn.get_ydata()[:2], own["geometric_mean"][:2])
    assert math.isnan(drawn.get_ydata()[2])
    (cross,) = [line for line in upper.lines if line.get_marker() == "x"]
    assert list(cross.get_xdata()) == [4.0]
    assert [text.get_text() for text in upper.texts] == ["queryable at 4: 1/3 diverged"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["lora", "queryable"]


def test_a_single_seed_has_no_interval_in_the_figure(store: Store) -> None:
    frame = read_table(store, "blocks")
    frame = frame[frame["seed"] == 0]
    axes = swept_axes(frame, "blocks")
    points = estimates(with_loss(frame, "test_loss"), axes)
    panels = ablation_figure(points, "method.block_size", axes, "test_loss", "ratio").axes
    bars = [bar for panel in panels for bar in panel.containers]
    assert len(bars) == 2 * len(FUNCTIONS) + 1  # the ratio over all functions
    for _, caps, (segments,) in bars:
        assert all(np.isnan(cap.get_ydata()).all() for cap in caps)
        assert not any(np.isfinite(part).all() and len(part) for part in segments.get_segments())


def test_counts_are_held_against_the_reference_of_their_own_run(store: Store) -> None:
    """Seed 0 has not run, which leaves its reference without a count of its own."""
    frame = read_table(store, "blocks")
    own = (frame["method"] == "queryable") & frame["overrides"].str.endswith("=2")
    for seed, count, reference in ((0, math.nan, 500.0), (1, 1000.0, 1000.0), (2, 520.0, 500.0)):
        cell = own & (frame["seed"] == seed)
        frame.loc[cell, ["trainable_parameters", "reference_parameters"]] = count, reference
    axes = swept_axes(frame, "blocks")
    points = estimates(with_loss(with_columns(frame), "test_loss"), axes)
    assert not points.loc[points["method.block_size"] == "2", "off_budget"].any()
    frame.loc[own & (frame["seed"] == 2), "trainable_parameters"] = 600.0
    points = estimates(with_loss(with_columns(frame), "test_loss"), axes)
    assert points.loc[points["method.block_size"] == "2", "off_budget"].all()


def test_missing_cells_are_refused_or_counted(store: Store, tmp_path: Path, capsys) -> None:
    name = "matyas-queryable-method_block_size=2-0"
    (store.run_folder(name) / "summary.json").unlink()
    assert command(store, tmp_path / "out") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert command(store, tmp_path / "out", "--allow-missing") == 0
    rows = markdown_rows(tmp_path / "out" / "blocks" / "ablation.md")[""]
    assert rows[2]["Matyas"].endswith(", 1 missing")
    table = pd.read_csv(tmp_path / "out" / "blocks" / "ablation.csv")
    cell = table[(table["function"] == "matyas") & (table["method.block_size"] == 2)].iloc[0]
    assert (cell["runs"], cell["missing"]) == (2, 1)
    assert math.isnan(cell["ratio"])


def test_a_loss_of_several_targets_is_asked_for_in_vain(store: Store, tmp_path: Path) -> None:
    frame = read_table(store, "blocks")
    with pytest.raises(UsageError, match=r"shift\.targets=8"):
        with_loss(frame, "unseen_loss")
    for folder in (store.root / "runs").iterdir():
        summary = json.loads((folder / "summary.json").read_text())
        summary["unseen_loss"] = None if summary["status"] == "diverged" else 0.25
        (folder / "summary.json").write_text(json.dumps(summary))
    losses = with_loss(read_table(store, "blocks"), "unseen_loss")["loss"]
    assert sorted(set(losses)) == [0.25, math.inf]
    assert command(store, tmp_path, "--loss", "unseen_loss") == 0


@pytest.mark.parametrize(
    ("study", "more", "wanted"),
    [
        ("plain", [], "Study 'plain' sweeps no setting"),
        ("blocks", ["--axis", "method.block_siz"], "Did you mean 'method.block_size'?"),
        ("block", [], "no study 'block' (stored studies: blocks, plain)"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(
    store: Store, tmp_path: Path, capsys, *, study: str, more: list[str], wanted: str
) -> None:
    cells: list = []
    add(store, cells, "lora", 0)
    store.write_study("plain", cells)
    assert command(store, tmp_path / "out", *more, study=study) == 2
    message = capsys.readouterr().err
    assert wanted in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()
