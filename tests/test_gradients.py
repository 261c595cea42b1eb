"""The flow of gradients over depth, against plain loops and planted examples."""

import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from conftest import compute_study
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import LogNorm

from analysis import gradients
from analysis.figures.gradients import depth_figure, flow_figure
from analysis.flow import Flow, Row, evenness, layer_parameters, load_rows, shares, thirds
from analysis.load import finished, load_study
from qlexp.execute import stored_config
from qlexp.store import Store, read_curves, read_tensors

NORMS = st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=12).map(np.array)


def flow(norms: np.ndarray, function: str = "levy", seed: int = 0, **more: np.ndarray) -> Flow:
    steps = np.arange(len(norms))
    elsewhere = more.get("elsewhere", np.zeros((len(norms), 0)))
    return Flow(function, seed, steps, norms, elsewhere, np.full(norms.shape[1], 4.0))


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
    assert -1e-12 <= evenness(norms) <= 1 + 1e-12
    assert evenness(1000 * norms[::-1]) == pytest.approx(float(evenness(norms)), abs=1e-9)
    assert thirds(norms).sum() == pytest.approx(1)
    assert thirds(norms)[0] == pytest.approx(sum(parts[: math.ceil(len(parts) / 3)]))


@pytest.mark.parametrize("row", [[0.0, 0.0], [math.inf, 1.0], [math.nan, 1.0]])
def test_shares_of_nothing_are_unknown(row: list[float]) -> None:
    norms = np.array([[3.0, 4.0], row])
    np.testing.assert_allclose(shares(norms)[0], [9 / 25, 16 / 25])
    assert np.isnan(shares(norms)[1]).all()
    assert np.isnan(evenness(norms)[1])
    assert np.isnan(flow(norms, elsewhere=np.zeros((2, 1))).elsewhere_share)


def row_of(samples: list[np.ndarray]) -> Row:
    """A row with the norms (layers, seeds) of each function, one update a run."""
    flows = [
        flow(norms[None], f"function {index}", seed)
        for index, part in enumerate(samples)
        for seed, norms in enumerate(part.T)
    ]
    return Row(("lora", ""), flows)


def test_intervals_are_welchs_over_functions() -> None:
    draw = np.random.default_rng(5)
    one, other = (draw.normal(mean, scale, (3, 6)) for mean, scale in ((20.0, 1.0), (30.0, 2.0)))
    found = row_of([one, other]).profile("norm")
    np.testing.assert_allclose(found.mean, (one.mean(1) + other.mean(1)) / 2)
    welch = scipy.stats.ttest_ind(one, -other, axis=1, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose((found.low, found.high), np.array(welch) / 2)
    alone = row_of([one]).profile("norm")
    student = scipy.stats.ttest_1samp(one, 0.0, axis=1).confidence_interval(0.95)
    np.testing.assert_allclose((alone.low, alone.high), student)


def test_intervals_of_equal_seeds_one_seed_and_no_number() -> None:
    same = row_of([np.full((2, 5), 3.0)]).profile("norm")
    assert same.low.tolist() == same.mean.tolist() == same.high.tolist() == [3.0, 3.0]
    single = row_of([np.array([[1.0], [2.0]]), np.array([[3.0], [4.0]])]).profile("norm")
    assert single.mean.tolist() == [2.0, 3.0]
    assert np.isnan([single.low, single.high]).all()
    infinite = row_of([np.array([[1.0, math.inf], [1.0, 2.0]])]).profile("norm")
    assert infinite.mean.tolist() == [math.inf, 1.5]
    half = scipy.stats.t.ppf(0.975, 1) * 0.5
    assert infinite.high.tolist() == pytest.approx([math.inf, 1.5 + half])
    gap = row_of([np.array([[1.0, math.nan], [1.0, 2.0]])]).profile("norm")
    assert np.isnan(gap.mean).tolist() == [True, False]


def test_a_row_counts_what_lies_outside_the_layers() -> None:
    norms, elsewhere = np.array([[3.0, 0.0], [1.0, 1.0]]), np.array([[4.0], [math.sqrt(2)]])
    row = Row(("lora", ""), [flow(norms, elsewhere=elsewhere)])
    assert row.elsewhere_share == pytest.approx((16 / 25 + 1 / 2) / 2)
    assert row.evenness("norm").mean == pytest.approx(0.5)
    assert row.size("norm").mean == pytest.approx(1.25)
    assert row.size("rms").mean == pytest.approx(1.25 / 2)


def rows_of_study(store: Store) -> dict[str, Row]:
    cells = finished(load_study(store, "tiny")).assign(variant="")
    return {row.label: row for row in load_rows(store, cells)}


def test_rows_are_those_of_plain_loops(studied: Store) -> None:
    rows = rows_of_study(studied)
    assert list(rows) == ["lora", "queryable", "instruction_queryable"]
    for label, row in rows.items():
        names = [c.run_id for c in studied.study("tiny") if c.method == label]
        tables = [read_curves(studied.run_folder(name)) for name in names]
        for layer in range(4):
            norms = [table[f"gradient_norm.layer_{layer}"].to_numpy(float) for table in tables]
            means = [norm.mean() for norm in norms]
            assert row.profile("norm").mean[layer] == pytest.approx(np.mean(means))
            np.testing.assert_allclose(row.heat()[:, layer], np.mean(norms, axis=0))
        outside = row.flows[0].elsewhere.shape[1]
        assert outside == (0 if label == "lora" else 1)


def test_parameters_are_counted_by_layer(studied: Store) -> None:
    for cell in studied.study("tiny"):
        stored = read_tensors(studied.run_folder(cell.run_id) / "adapter.safetensors")
        counts = layer_parameters(stored_config(studied, cell.run_id))
        assert sum(counts.values()) == sum(tensor.numel() for tensor in stored.values())
        for layer in range(4):
            own = (t.numel() for name, t in stored.items() if name.startswith(f"layers.{layer}."))
            assert counts[f"layer_{layer}"] == sum(own)


def command(store: Store, out: Path, study: str = "tiny") -> int:
    return gradients.main(["--study", study, "--store", str(store.root), "--out", str(out)])


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
    layers = pd.read_csv(folder / "gradients_layers.csv")
    np.testing.assert_allclose(layers["norm"] / np.sqrt(layers["parameters"]), layers["rms"])
    assert "frozen |" not in (folder / "gradients.md").read_text()


def test_figures_have_axes_with_names_and_one_scale(studied: Store) -> None:
    rows = list(rows_of_study(studied).values())
    figure = flow_figure(rows, "title")
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in panels] == [row.label for row in rows]
    assert {(a.get_xlabel(), a.get_ylabel()) for a in panels} == {("update", "layer")}
    scales = [axis.collections[0].norm for axis in panels]
    assert all(isinstance(scale, LogNorm) for scale in scales)
    heats = np.stack([row.heat() for row in rows])
    assert {(s.vmin, s.vmax) for s in scales} == {(heats.min(), heats.max())}
    np.testing.assert_allclose(panels[1].collections[0].get_array(), rows[1].heat().T)
    assert figure.axes[-1].get_ylabel() == "gradient norm"
    depth = depth_figure(rows, "title")
    assert [axis.get_xlabel() for axis in depth.axes] == ["layer"] * 2
    labels = [axis.get_ylabel() for axis in depth.axes]
    assert labels == ["gradient norm", "gradient norm / √parameters"]
    np.testing.assert_allclose(depth.axes[0].lines[0].get_ydata(), rows[0].profile("norm").mean)


def test_a_gradient_that_is_not_finite_is_told(studied: Store, tmp_path: Path) -> None:
    copy = Store(shutil.copytree(studied.root, tmp_path / "store"))
    identity = next(c.run_id for c in copy.study("tiny") if c.method == "lora")
    path = copy.run_folder(identity) / "curves.parquet"
    curves = pd.read_parquet(path)
    curves.loc[3, "gradient_norm.layer_2"] = math.inf
    curves.to_parquet(path, index=False)
    assert command(copy, tmp_path) == 0
    text = (tmp_path / "tiny" / "gradients.md").read_text()
    assert "| lora | not finite (1/4) |" in text
    assert "Gradients that are not finite: lora (equal\\_rank) 1 of 4 runs." in text
    table = pd.read_csv(tmp_path / "tiny" / "gradients.csv").set_index(["method", "function"])
    assert table["not_finite"].to_dict()["lora", "all"] == 1
    row = rows_of_study(copy)["lora"]
    mesh = flow_figure([row], "title").axes[0].collections[0].get_array()
    assert np.argwhere(np.ma.getmaskarray(mesh)).tolist() == [[2, 3]]


def test_what_has_no_gradients_over_depth_is_refused(
    studied: Store, tmp_path: Path, capsys
) -> None:
    copy = Store(shutil.copytree(studied.root, tmp_path / "store"))
    copy.write_study("still", [c for c in copy.study("tiny") if c.method == "frozen"])
    assert command(copy, tmp_path, "still") == 2
    assert "Study 'still' has no run with gradients in a layer" in capsys.readouterr().err
    shallow = compute_study(tmp_path / "other", "flat", [["method=lora", "backbone.depth=1"]])
    assert command(shallow, tmp_path, "flat") == 2
    message = capsys.readouterr().err
    assert "backbone.depth of at least 2" in message
    assert message.count("\n") == 1
