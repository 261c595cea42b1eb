"""The flow of gradients over depth, against plain loops and planted examples."""

import itertools
import math
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from conftest import compute_study
from hypothesis import given
from hypothesis import strategies as st
from made_up import render
from matplotlib.colors import LogNorm

from analysis.cells import RowName, cells_of, rows_of
from analysis.figures.gradients import depth_figure, flow_figure
from analysis.flow.load import layer_parameters, load_runs, with_measures
from analysis.flow.means import beside_lora, heat, mean, parts
from analysis.flow.measures import evenness, measures, shares, thirds
from analysis.names import ALL, row_label
from analysis.render.output import Picture
from analysis.stats.intervals import Interval, welch_of_mean
from analysis.table import read_table
from analysis.views import gradients
from qlexp.adapters.stored import stored_config
from qlexp.store.files import read_curves, read_tensors
from qlexp.store.store import Store

NORMS = st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=12).map(np.array)
command = partial(render, "gradients", study="tiny")


@dataclass
class Flow:
    """The norms (R, layers) of one run, and those of modules outside the layers, (R, modules)."""

    norms: np.ndarray
    function: str = "levy"
    seed: int = 0
    backbone: str = ""
    elsewhere: np.ndarray = field(default_factory=lambda: np.zeros((1, 0)))


def runs_with(flows: Sequence[Flow], name: RowName = ("lora", "")) -> pd.DataFrame:
    """The runs of a row, with four parameters a layer."""
    cells = [
        {
            **dict(zip(("budget", "method", "variant"), ("equal_rank", *name), strict=True)),
            "function": flow.function,
            "seed": flow.seed,
            "backbone_id": flow.backbone,
            "steps": np.arange(len(flow.norms)),
            "norms": flow.norms,
            "elsewhere": np.square(flow.elsewhere).sum(1) + np.zeros(len(flow.norms)),
            "parameters": np.full(flow.norms.shape[1], 4.0),
        }
        for flow in flows
    ]
    return with_measures(pd.DataFrame(cells))


def mean_of(runs: pd.DataFrame, column: str) -> Interval:
    """Over all functions of one row."""
    (groups,) = (own for cell, own in parts(runs) if cell["function"] == ALL)
    return mean(groups, column)


def profile_of(runs: pd.DataFrame, scale: str) -> Interval:
    return mean_of(runs, f"{scale}_layers").above_zero()


def pictures_of(*rows: pd.DataFrame) -> Iterator[Picture]:
    runs = pd.concat(rows)
    return gradients.pictures(runs, gradients.layer_cells(runs), "x")


@pytest.mark.parametrize("layers", [2, 8, 32])
def test_equal_norms_are_even_and_a_single_one_is_not(layers: int) -> None:
    assert evenness(np.full(layers, 0.3)) == pytest.approx(1)
    alone = np.zeros(layers)
    alone[layers // 2] = 7.0
    assert evenness(alone) == pytest.approx(0)


@given(NORMS)
def test_evenness_is_its_formula(norms: np.ndarray) -> None:
    whole = sum(g**2 for g in norms)
    parts = [g**2 / whole for g in norms]
    expected = -sum(p * math.log(p) for p in parts if p > 0) / math.log(len(norms))
    assert evenness(norms) == pytest.approx(expected, abs=1e-12)
    assert 0 <= evenness(norms) <= 1
    assert evenness(1000 * norms[::-1]) == pytest.approx(float(evenness(norms)), abs=1e-9)
    assert thirds(norms).sum() == pytest.approx(1)
    assert thirds(norms)[0] == pytest.approx(sum(parts[: math.ceil(len(parts) / 3)]))


@pytest.mark.parametrize("row", [[0.0, 0.0], [math.inf, 1.0], [math.nan, 1.0]])
def test_shares_of_nothing_are_unknown(row: list[float]) -> None:
    norms = np.array([[3.0, 4.0], row])
    np.testing.assert_allclose(shares(norms)[0], [9 / 25, 16 / 25])
    assert np.isnan(shares(norms)[1]).all()
    assert np.isnan(evenness(norms)[1])


def test_a_picture_of_several_depths_says_so() -> None:
    shallow, deep = (
        runs_with([Flow(np.ones((2, layers)), seed=seed) for seed in range(2)], (name, ""))
        for name, layers in (("lora", 2), ("queryable", 5))
    )
    _, mixed = pictures_of(shallow, deep)
    assert "networks of 2 and 5 layers" in mixed.caption
    assert "networks of 2 and 5 layers" in " ".join(mixed.figure.get_suptitle().split())
    _, alike = pictures_of(shallow)
    assert "networks" not in alike.caption + alike.figure.get_suptitle()


def test_updates_without_a_gradient_have_no_evenness_and_no_shares() -> None:
    still = np.zeros(2)
    norms, outside = np.array([still, [3.0, 4.0], still]), np.array([4.0, 25.0, 0.0])
    known = measures(norms[None], outside[None], np.ones((1, 2)))
    alone = measures(norms[None, 1:2], outside[None, 1:2], np.ones((1, 2)))
    assert known["evenness_norm"] == alone["evenness_norm"] > 0
    np.testing.assert_array_equal(known["thirds"], alone["thirds"])
    assert known["outside"] == pytest.approx((1 + 1 / 2) / 2)
    assert known["norm"] == pytest.approx(7 / 6)
    never = measures(np.zeros((1, 2, 2)), np.zeros((1, 2)), np.ones((1, 2)))
    assert {name for name, values in never.items() if np.isnan(values).all()} == {
        *("evenness_norm", "evenness_rms", "thirds", "outside")
    }


def of_known(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


@given(st.integers(0, 10**6))
def test_measures_are_those_of_plain_loops(seed: int) -> None:
    draw = np.random.default_rng(seed)
    runs, records, layers = draw.integers((1, 1, 3), 6)
    norms = draw.uniform(0.1, 9, (runs, records, layers)) * draw.integers(0, 2, (runs, records, 1))
    outside, parameters = draw.uniform(0, 9, (runs, records)), draw.integers(1, 9, (runs, layers))
    found = measures(norms, outside, parameters.astype(float))
    for run in range(runs):
        by_rms = norms[run] / np.sqrt(parameters[run])
        known = norms[run].any(1)
        for scale, values in (("norm", norms[run]), ("rms", by_rms)):
            assert found[scale][run] == pytest.approx(float(values.mean()))
            entropy = scipy.stats.entropy(values[known] ** 2, base=layers, axis=1)
            expected = of_known(entropy)
            assert found[f"evenness_{scale}"][run] == pytest.approx(expected, nan_ok=True)
        squares = [row**2 / (row**2).sum() for row in norms[run][known]]
        sizes = [layers // 3 + (third < layers % 3) for third in range(3)]
        ends = np.cumsum([0, *sizes])
        expected = [
            of_known([sum(part[low:high]) for part in squares])
            for low, high in itertools.pairwise(ends)
        ]
        assert found["thirds"][run] == pytest.approx(expected, nan_ok=True)
        assert found["norm_layers"][run] == pytest.approx(norms[run].mean(0))
        assert found["rms_layers"][run] == pytest.approx(by_rms.mean(0))
        whole = [(o, o + (row**2).sum()) for o, row in zip(outside[run], norms[run], strict=True)]
        assert found["outside"][run] == pytest.approx(of_known([o / w for o, w in whole]))


@pytest.mark.parametrize("odd", [math.inf, math.nan])
def test_a_norm_that_is_no_number_makes_the_shares_of_its_run_alone_unknown(odd: float) -> None:
    norms = np.ones((2, 3, 3))
    norms[0, 1, 0] = odd
    found = measures(norms, np.ones((2, 3)), np.ones((2, 3)))
    for name in ("evenness_norm", "evenness_rms", "thirds", "outside"):
        assert np.isnan(found[name]).reshape(2, -1).all(1).tolist() == [True, False]
    assert found["norm"][1] == 1.0
    assert not np.isfinite(found["norm"][0])


def runs_of(samples: list[np.ndarray]) -> pd.DataFrame:
    """Runs with the norms (layers, seeds) of each function, one update a run."""
    flows = [
        Flow(norms[None], f"function {index}", seed)
        for index, part in enumerate(samples)
        for seed, norms in enumerate(part.T)
    ]
    return runs_with(flows)


def test_intervals_are_welchs_over_functions() -> None:
    draw = np.random.default_rng(5)
    one, other = (draw.normal(mean, scale, (3, 6)) for mean, scale in ((20.0, 1.0), (30.0, 2.0)))
    seeds = welch_of_mean([one.T, other.T])
    welch = scipy.stats.ttest_ind(one, -other, axis=1, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose((seeds.low, seeds.high), np.array(welch) / 2)
    alone = welch_of_mean([one.T])
    student = scipy.stats.ttest_1samp(one, 0.0, axis=1).confidence_interval(0.95)
    np.testing.assert_allclose((alone.low, alone.high), student)
    profile = profile_of(runs_of([one, other]), "norm")
    np.testing.assert_allclose(profile.value, (one.mean(1) + other.mean(1)) / 2)
    wanted = profile.value * np.exp((seeds.high - seeds.value) / seeds.value)
    np.testing.assert_allclose(profile.high, wanted)


def test_intervals_of_equal_seeds_one_seed_and_no_number() -> None:
    same = profile_of(runs_of([np.full((2, 5), 3.0)]), "norm")
    assert same.low.tolist() == same.value.tolist() == same.high.tolist() == [3.0, 3.0]
    single = profile_of(runs_of([np.array([[1.0], [2.0]]), np.array([[3.0], [4.0]])]), "norm")
    assert single.value.tolist() == [2.0, 3.0]
    assert np.isnan([single.low, single.high]).all()
    half = scipy.stats.t.ppf(0.975, 1) * 0.5
    pair = profile_of(runs_of([np.array([[1.0, 2.0]])]), "norm")
    assert pair.high.tolist() == pytest.approx([1.5 * math.exp(half / 1.5)])
    gap = profile_of(runs_of([np.array([[1.0, math.nan], [1.0, 2.0]])]), "norm")
    assert np.isnan(gap.value).tolist() == [True, False]


PARTS = st.integers(0, 10**6).map(lambda part: part / 10**6)
SHARES = st.lists(st.lists(PARTS, min_size=2, max_size=5).map(np.array), min_size=1, max_size=4)


@given(SHARES)
def test_intervals_of_shares_stay_between_0_and_1(groups: list[np.ndarray]) -> None:
    plain = welch_of_mean(groups)
    found = plain.within_unit()
    assert found.value == plain.value
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1
    mirrored = welch_of_mean([1 - group for group in groups]).within_unit()
    assert mirrored.high == pytest.approx(1 - found.low, abs=1e-6)


@given(st.lists(st.floats(1e-6, 1e3), min_size=3, max_size=6))
def test_intervals_of_norms_stay_above_0(values: list[float]) -> None:
    plain = welch_of_mean([np.array(values)])
    found = plain.above_zero()
    assert 0 < found.low <= found.value <= found.high
    assert math.log(found.high / found.value) == pytest.approx(
        (plain.high - plain.value) / plain.value, abs=1e-9
    )
    assert found.value / found.low == pytest.approx(found.high / found.value)


def test_an_interval_of_one_seed_has_no_limits_above_0_either() -> None:
    found = welch_of_mean([np.array([2.0])]).above_zero()
    assert found.value == 2.0
    assert np.isnan([found.low, found.high]).all()
    none = welch_of_mean([np.zeros(3)]).above_zero()
    assert (none.low, none.value, none.high) == (0.0, 0.0, 0.0)


def test_the_interval_of_evenness_is_that_of_its_logit() -> None:
    values = np.array([0.95, 0.99, 0.82])
    half = scipy.stats.t.ppf(0.975, 2) * values.std(ddof=1) / math.sqrt(3)
    m = values.mean()
    assert m + half > 1
    found = welch_of_mean([values]).within_unit()
    odds = [m / (1 - m) * math.exp(sign * half / (m * (1 - m))) for sign in (-1, 1)]
    np.testing.assert_allclose((found.low, found.high), [o / (1 + o) for o in odds])
    narrow = welch_of_mean([0.5 + 1e-3 * values])
    moved = narrow.within_unit()
    np.testing.assert_allclose((moved.low, moved.high), (narrow.low, narrow.high), atol=1e-8)
    single = welch_of_mean([values[:1]]).within_unit()
    assert single.value == 0.95
    assert np.isnan([single.low, single.high]).all()
    same = welch_of_mean([np.full(3, 0.25)]).within_unit()
    assert same == Interval(*np.full(3, 0.25))
    runs = runs_of([np.array([[1.0, 1.0, 1.0], [1.0, 0.6, 0.2]])])
    assert mean_of(runs, "evenness_norm").within_unit().high <= 1


def test_every_mean_is_over_functions_first() -> None:
    """Three seeds of norm 1 on one function weigh as much as one seed of norm 9 on another."""
    flows = [Flow(np.ones((1, 2)), "levy", seed) for seed in range(3)]
    flows.append(Flow(np.full((1, 2), 9.0), "matyas", elsewhere=np.full((1, 1), 9.0)))
    runs = runs_with(flows)
    assert mean_of(runs, "norm").value == profile_of(runs, "norm").value[0] == 5
    assert heat(runs).tolist() == [[5, 5]]
    assert mean_of(runs, "outside").value == pytest.approx((0 + 1 / 3) / 2)


def pairs_of(own: pd.DataFrame, *others: pd.DataFrame) -> pd.DataFrame:
    """The runs of `own` that have a partner among all of them."""
    runs = beside_lora(pd.concat([own, *others], ignore_index=True))[: len(own)]
    return runs[runs["paired"]]


def test_pairs_with_lora_are_those_of_plain_loops() -> None:
    """LoRA and a method that follows it, on two functions, with runs that have no partner."""
    draw = np.random.default_rng(3)
    loras, owns = [], []
    for function, seeds in (("levy", 3), ("matyas", 4)):
        for seed in range(seeds):
            norms = draw.uniform(1.0, 9.0, (2, 4))
            loras.append(Flow(norms, function, seed, f"{function} {seed}"))
            norms = 2 * norms * draw.uniform(0.9, 1.1, (2, 4))
            owns.append(Flow(norms, function, seed, f"{function} {seed}"))
    loras, owns = loras[:-1], [Flow(np.ones((2, 4)), "levy", 0, "another"), *reversed(owns)]
    pairs = pairs_of(runs_with(owns, ("queryable", "")), runs_with(loras))
    logs: dict[str, list[float]] = {"levy": [], "matyas": []}
    evener: dict[str, list[float]] = {"levy": [], "matyas": []}
    for one in owns:
        for other in loras:
            if one.backbone == other.backbone:  # which names function and seed
                logs[one.function].append(math.log(one.norms.mean() / other.norms.mean()))
                means = [np.mean([evenness(norms) for norms in f.norms]) for f in (one, other)]
                evener[one.function].append(means[0] - means[1])
    assert [len(values) for values in logs.values()] == [3, 3]
    assert len(pairs) == 6
    for values, found in (
        (logs, mean_of(pairs, "norm_over_lora")),
        (evener, mean_of(pairs, "evenness_norm_minus_lora")),
    ):
        one, other = (np.array(part) for part in values.values())
        welch = scipy.stats.ttest_ind(one, -other, equal_var=False).confidence_interval(0.95)
        expected = [(one.mean() + other.mean()) / 2, welch.low / 2, welch.high / 2]
        np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(pairs["rms_over_lora"], pairs["norm_over_lora"])


def test_lora_is_taken_of_the_same_variant_or_is_the_only_one() -> None:
    def row(method: str, variant: str, backbone: str = "", norm: float = 1.0) -> pd.DataFrame:
        return runs_with([Flow(np.full((1, 2), norm), backbone=backbone)], (method, variant))

    alone, own, deep = row("lora", ""), row("queryable", "x=1"), row("lora", "x=1", norm=5.0)
    assert np.exp(pairs_of(own, alone)["norm_over_lora"]).tolist() == [1.0]
    assert np.exp(pairs_of(own, alone, deep)["norm_over_lora"]).tolist() == pytest.approx([0.2])
    assert pairs_of(row("queryable", "x=2"), alone, deep, own).empty
    assert pairs_of(row("queryable", "", "other"), alone).empty
    assert pairs_of(alone, own).empty
    assert pairs_of(own).empty
    assert beside_lora(own)["norm_over_lora"].isna().all()
    assert np.isnan(mean([], "norm_over_lora")).all()


def test_pairs_share_function_and_seed_and_not_the_network_alone() -> None:
    def row(name: str, places: list[tuple[str, int]]) -> pd.DataFrame:
        flows = [Flow(np.full((1, 2), 1.0 + i), f, s) for i, (f, s) in enumerate(places)]
        return runs_with(flows, (name, ""))

    lora = row("lora", [("levy", 0), ("levy", 1), ("matyas", 0)])
    own = row("queryable", [("matyas", 0), ("levy", 1), ("ackley", 0)])
    pairs = pairs_of(own, lora)
    assert pairs[["function", "seed"]].to_numpy().tolist() == [["matyas", 0], ["levy", 1]]
    assert np.exp(pairs["norm_over_lora"]).tolist() == pytest.approx([1 / 3, 2 / 2])


def test_what_is_said_of_a_function_is_said_of_its_runs_alone() -> None:
    draw = np.random.default_rng(8)
    flows = [
        Flow(draw.uniform(1, 9, (4, 2)), function, seed, elsewhere=draw.uniform(1, 9, (4, 1)))
        for function, seed in (("levy", 0), ("matyas", 0), ("levy", 1))
    ]
    whole, alone = runs_with(flows), runs_with([flows[0], flows[2]])
    frame = pd.DataFrame(
        [
            ("equal_rank", "lora", "", function, "diverged")
            for function in ("levy", "levy", "ackley")
        ],
        columns=["budget", "method", "variant", "function", "status"],
    )
    own, wanted = (
        gradients.method_cells(beside_lora(runs), frame).set_index("function").loc["levy"]
        for runs in (whole, alone)
    )
    pd.testing.assert_series_equal(own, wanted)
    cells = gradients.method_cells(beside_lora(whole), frame).set_index("function")
    assert cells["diverged"].to_dict() == {"levy": 2, "matyas": 0, ALL: 3}
    own, wanted = (
        gradients.layer_cells(runs).query("function == 'levy'") for runs in (whole, alone)
    )
    pd.testing.assert_frame_equal(own, wanted)


def test_a_row_counts_what_lies_outside_the_layers() -> None:
    norms, elsewhere = np.array([[3.0, 0.0], [1.0, 1.0]]), np.array([[4.0], [math.sqrt(2)]])
    runs = runs_with([Flow(norms, elsewhere=elsewhere)])
    assert runs["outside"].tolist() == pytest.approx([(16 / 25 + 1 / 2) / 2])
    assert runs["evenness_norm"].tolist() == pytest.approx([0.5])
    assert runs["norm"].tolist() == pytest.approx([1.25])
    assert runs["rms"].tolist() == pytest.approx([1.25 / 2])


def runs_by_row(store: Store) -> dict[str, pd.DataFrame]:
    runs = load_runs(store, read_table(store, "tiny"))
    return {row_label(*row): cells_of(runs, row) for row in rows_of(runs)}


def test_rows_are_those_of_plain_loops(studied: Store) -> None:
    rows = runs_by_row(studied)
    assert list(rows) == ["lora", "queryable", "instruction_queryable"]
    loras = rows["lora"]
    for label, row in rows.items():
        names = [c.run_id for c in studied.study("tiny") if c.method == label]
        tables = [read_curves(studied.run_folder(name)) for name in names]
        for layer in range(4):
            norms = [table[f"gradient_norm.layer_{layer}"].to_numpy(float) for table in tables]
            means = [norm.mean() for norm in norms]
            assert profile_of(row, "norm").value[layer] == pytest.approx(np.mean(means))
            np.testing.assert_allclose(heat(row)[:, layer], np.mean(norms, axis=0))
        assert set(row["backbone_id"]) == set(loras["backbone_id"])
        assert row["steps"].iloc[0].tolist() == tables[0]["step"].tolist()
        shares_outside = [
            (elsewhere / (elsewhere + np.square(inside).sum(axis=1))).mean()
            for table in tables
            for inside in [table.filter(like="gradient_norm.layer_")]
            for elsewhere in [
                np.square(table.filter(like="gradient_norm.").drop(columns=inside)).sum(axis=1)
            ]
        ]
        assert row["outside"].mean() == pytest.approx(np.mean(shares_outside), rel=1e-5)
        assert (row["outside"] == 0).all() == (label == "lora")


def test_parameters_are_counted_by_layer(studied: Store) -> None:
    for cell in studied.study("tiny"):
        stored = read_tensors(studied.run_folder(cell.run_id) / "adapter.safetensors")
        counts = layer_parameters(stored_config(studied, cell.run_id))
        assert sum(counts.values()) == sum(tensor.numel() for tensor in stored.values())
        for layer in range(4):
            own = (t.numel() for name, t in stored.items() if name.startswith(f"layers.{layer}."))
            assert counts[f"layer_{layer}"] == sum(own)


def test_the_command_writes_its_files_the_same_again(studied: Store, tmp_path: Path) -> None:
    assert command(studied, tmp_path) == command(studied, tmp_path / "again") == 0
    folder = tmp_path / "tiny"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("gradients.md", "gradients.csv", "gradients_layers.csv"),
        *("gradients_equal_rank.svg", "gradients_depth_equal_rank.svg"),
    }
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "again" / "tiny" / name).read_bytes()
    table = pd.read_csv(folder / "gradients.csv").set_index(["method", "function"])
    assert table.loc[("lora", "all"), "runs"] == 4
    assert table.loc[("lora", "matyas"), "runs"] == 2
    assert table.loc[("lora", "all"), "outside_layers_share"] == 0
    assert table.loc[("queryable", "all"), "outside_layers_share"] > 0
    by_function = [table.loc[("lora", name), "evenness_norm"] for name in ("drop_wave", "matyas")]
    assert table.loc[("lora", "all"), "evenness_norm"] == pytest.approx(np.mean(by_function))
    assert (table["norm_low"] <= table["norm"]).all()
    assert (table["norm"] <= table["norm_high"]).all()
    assert table.loc["lora", "pairs"].tolist() == [0, 0, 0]
    assert table.loc["lora", "norm_over_lora"].isna().all()
    assert table.loc["queryable", "pairs"].tolist() == [2, 2, 4]
    gaps = table.loc["queryable", "evenness_norm"] - table.loc["lora", "evenness_norm"]
    np.testing.assert_allclose(table.loc["queryable", "evenness_norm_minus_lora"], gaps, atol=1e-12)
    ratios = table.loc["queryable", "norm_over_lora"]
    assert ratios["all"] == pytest.approx(math.sqrt(ratios["drop_wave"] * ratios["matyas"]))
    layers = pd.read_csv(folder / "gradients_layers.csv")
    np.testing.assert_allclose(layers["norm"] / np.sqrt(layers["parameters"]), layers["rms"])
    text = (folder / "gradients.md").read_text()
    assert "frozen |" not in text
    assert "Diverged" not in text
    beside = text[text.index("# Gradients beside LoRA's") :]
    assert [line.split(" | ")[:2] for line in beside.splitlines() if " | 4 | " in line] == [
        ["| queryable", "4"],
        ["| instruction\\_queryable", "4"],
    ]


def test_figures_have_axes_with_names_and_one_scale(studied: Store) -> None:
    rows = runs_by_row(studied)
    runs, heats = pd.concat(rows.values()), [heat(row) for row in rows.values()]
    figure = flow_figure(runs, "title")
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in panels] == list(rows)
    assert {(a.get_xlabel(), a.get_ylabel()) for a in panels} == {("update", "layer")}
    scales = [axis.collections[0].norm for axis in panels]
    assert all(isinstance(scale, LogNorm) for scale in scales)
    assert {(s.vmin, s.vmax) for s in scales} == {(np.min(heats), np.max(heats))}
    np.testing.assert_allclose(panels[1].collections[0].get_array(), heats[1].T)
    assert figure.axes[-1].get_ylabel() == "gradient norm"
    layers = gradients.layer_cells(runs)
    depth = depth_figure(layers[layers["function"] == ALL], "title")
    assert [axis.get_xlabel() for axis in depth.axes] == ["layer"] * 2
    labels = [axis.get_ylabel() for axis in depth.axes]
    assert labels == ["gradient norm", "gradient norm / √parameters"]
    np.testing.assert_allclose(
        depth.axes[0].lines[0].get_ydata(), profile_of(rows["lora"], "norm").value
    )


def test_diverged_runs_are_left_out_named_and_counted(tmp_path: Path) -> None:
    cells = [
        [f"method={method}", f"function={function}", f"trainer.loss_ceiling={ceiling}"]
        for method, function, ceiling in (
            ("lora", "matyas", 10),
            ("lora", "levy", 1e-9),
            ("queryable", "matyas", 10),
            ("queryable", "levy", 10),
        )
    ]
    store = compute_study(tmp_path / "store", "tiny", cells, (0, 1))
    assert command(store, tmp_path) == 0
    text = (tmp_path / "tiny" / "gradients.md").read_text()
    assert "Diverged and left out: lora on levy (equal\\_rank), seeds 0, 1." in text
    assert "| lora | 2 of 4 |" in text
    assert "| queryable | 4 |" in text
    table = pd.read_csv(tmp_path / "tiny" / "gradients.csv").set_index(["method", "function"])
    assert table.loc[("lora", "all"), ["runs", "diverged"]].tolist() == [2, 2]
    assert table.loc[("lora", "matyas"), ["runs", "diverged"]].tolist() == [2, 0]
    assert table.loc[("lora", "all"), "norm"] == table.loc[("lora", "matyas"), "norm"]
    assert table.loc[("queryable", "all"), ["runs", "pairs"]].tolist() == [4, 2]


def test_a_study_of_diverged_runs_alone_is_refused(tmp_path: Path, capsys) -> None:
    store = compute_study(tmp_path, "tiny", [["method=lora", "trainer.loss_ceiling=1e-9"]])
    assert command(store, tmp_path) == 2
    assert "no run with gradients in a layer that did not diverge" in capsys.readouterr().err


@pytest.mark.parametrize("depths", [(2, 4), (4, 2)])
def test_a_row_of_two_depths_is_refused(tmp_path: Path, capsys, depths: tuple[int, int]) -> None:
    """Also where both have as many parameters, which then lie in other layers."""
    functions = ("drop_wave", "matyas")
    cells = [
        [
            *("method=lora", f"method.rank={8 // depth}"),
            *(f"function={function}", f"backbone.depth={depth}"),
        ]
        for function, depth in zip(functions, depths, strict=True)
    ]
    store = compute_study(tmp_path, "tiny", cells)
    assert command(store, tmp_path) == 2
    message = capsys.readouterr().err
    assert "The runs of lora have gradients in 2 and 4 layers" in message
    assert message.count("\n") == 1


def test_layers_that_begin_without_a_gradient_are_known_later(tmp_path: Path) -> None:
    store = compute_study(tmp_path, "tiny", [["method=lily", "trainer.adapt.epochs=2"]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = runs_by_row(store)["lily"]
        (run,) = row.itertuples()
        assert not run.norms[0].any()
        assert 0 < run.evenness_rms < 1
    rms = run.norms[1:] / np.sqrt(run.parameters)
    assert run.evenness_rms == pytest.approx(evenness(rms).mean())


def test_a_run_without_updates_has_no_part_in_its_row(studied: Store, tmp_path: Path) -> None:
    copy = Store(shutil.copytree(studied.root, tmp_path / "store"))
    still = next(c for c in copy.study("tiny") if c.method == "lora")
    path = copy.run_folder(still.run_id) / "curves.parquet"
    pd.read_parquet(path)[:0].to_parquet(path, index=False)
    before, after = (runs_by_row(store)["lora"] for store in (studied, copy))
    gone = (before["function"] == still.function) & (before["seed"] == still.seed)
    pd.testing.assert_frame_equal(after, before[~gone].reset_index(drop=True))


def test_curves_of_words_are_refused(studied: Store, tmp_path: Path, capsys) -> None:
    copy = Store(shutil.copytree(studied.root, tmp_path / "store"))
    identity = next(c.run_id for c in copy.study("tiny") if c.method == "lora")
    path = copy.run_folder(identity) / "curves.parquet"
    pd.read_parquet(path).assign(remark="x").to_parquet(path, index=False)
    assert command(copy, tmp_path) == 2
    message = capsys.readouterr().err
    assert f"The curves of run {identity} are not readable (not all columns are numbers)" in message


def test_gradients_where_nothing_is_trained_are_refused(
    studied: Store, tmp_path: Path, capsys
) -> None:
    copy = Store(shutil.copytree(studied.root, tmp_path / "store"))
    identity = next(c.run_id for c in copy.study("tiny") if c.method == "lora")
    path = copy.run_folder(identity) / "curves.parquet"
    curves = pd.read_parquet(path)
    curves.assign(**{"gradient_norm.layer_4": 0.5}).to_parquet(path, index=False)
    assert command(copy, tmp_path) == 2
    message = capsys.readouterr().err
    assert f"The curves of run {identity} have gradients of layer_4" in message
    assert message.count("\n") == 1


def test_what_has_no_gradients_over_depth_is_refused(
    studied: Store, tmp_path: Path, capsys
) -> None:
    copy = Store(shutil.copytree(studied.root, tmp_path / "store"))
    copy.write_study("still", [c for c in copy.study("tiny") if c.method == "frozen"])
    assert command(copy, tmp_path, study="still") == 2
    assert "Study 'still' has no run with gradients in a layer" in capsys.readouterr().err
    shallow = compute_study(tmp_path / "other", "flat", [["method=lora", "backbone.depth=1"]])
    assert command(shallow, tmp_path, study="flat") == 2
    message = capsys.readouterr().err
    assert "backbone.depth of at least 2" in message
    assert message.count("\n") == 1
