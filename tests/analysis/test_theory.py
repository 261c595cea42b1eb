"""The norm bound of trained adapters, against dense matrices one point at a time."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from build import F64, jolt, network, points
from conftest import compute_study
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import render
from queryable_example import Example

from analysis.figures.theory import theory_figure
from analysis.paper.norms import STRENGTHS, changes, route_columns, routes_by_strength
from analysis.paper.trained import load_trained
from qlexp.adapters.instruction_queryable import InstructionQueryable, InstructionQueryableConfig
from qlexp.adapters.queryable import Queryable, QueryableConfig
from qlexp.adapters.stored import stored_config
from qlexp.config.schedule import updates as updates_of
from qlexp.config.schema import BackboneConfig
from qlexp.model.initial import Draw
from qlexp.store.files import read_curves, read_tensors
from qlexp.store.store import Store
from qlexp.train.stages import replay

SHALLOW = BackboneConfig(depth=3, width=8, heads=2, mlp_ratio=2, frequencies=2)
DIM = 5
command = partial(render, "theory", study="tiny")


def model_of(seed: int = 0, instructed: bool = False, **fields: Any) -> Queryable:
    """One lane, every trainable tensor random."""
    fields = {"rank": 3, "atoms": 6, "top_k": 3, "block_size": 2, **fields}
    backbone, draw = network([seed], SHALLOW), Draw([seed], F64)
    model: Queryable
    if instructed:
        config = InstructionQueryableConfig(**fields, instruction_dim=DIM)
        model = InstructionQueryable(backbone, config, draw)
    else:
        model = Queryable(backbone, QueryableConfig(**fields), draw)
    jolt(model, [seed], std=0.4)
    return model


def text_of(seed: int = 0, n: int = 6) -> torch.Tensor:
    return Draw([seed + 70], F64).normal(n, DIM).data


def norm(matrix: np.ndarray) -> float:
    return float(np.linalg.norm(matrix, 2))


def dense(model: Queryable, routes: np.ndarray) -> dict[tuple[int, str], tuple[float, list[float]]]:
    """Bound and norms by layer and linear, from the full matrices; routes (n, N_b, K)."""
    tensors = {name: p.detach()[0].double().numpy() for name, p in model.trainable().items()}
    atoms, config = tensors["router.atoms"], model.config
    found = {}
    for layer in range(model.backbone.config.depth):
        for name in config.targets:
            A, B, g = (tensors[f"layers.{layer}.{name}.{part}"] for part in ("A", "B", "gate"))
            scale = config.alpha / config.rank
            norms = []
            for weights in routes[:, layer // config.block_size]:
                R = sum(w * M for w, M in zip(weights, atoms, strict=True))
                norms.append(norm(scale * B @ (np.eye(config.rank) + g * R) @ A))
            bound = scale * norm(B) * (1 + abs(g) * max(map(norm, atoms))) * norm(A)
            found[layer, name] = bound, norms
    return found


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**6), st.booleans(), st.integers(1, 3), st.sampled_from([1, 2, 3, 4]))
@torch.no_grad()
def test_bound_and_norms_are_those_of_dense_matrices(
    seed: int, instructed: bool, block_size: int, rank: int
) -> None:
    model = model_of(seed, instructed, block_size=block_size, rank=rank, targets=["out", "up"])
    x, z = 3 * points([seed]), text_of(seed) if instructed else None
    expected = dense(model, model.routes(x, z)[0].numpy())
    found = {(c.layer, c.linear): c for c in changes(model, x, z)}
    assert found.keys() == expected.keys()
    for key, (bound, norms) in expected.items():
        assert found[key].bound == pytest.approx(bound)
        np.testing.assert_allclose(found[key].norms, norms)
        assert max(norms) <= bound * (1 + 1e-12)


@torch.no_grad()
def test_the_bound_is_reached_where_nothing_cancels() -> None:
    model = model_of()
    model.router.atoms.data[:] = 0.7 * torch.eye(3, dtype=F64)
    for change in changes(model, points([0]), None):
        linear = getattr(model.backbone.layers[change.layer], change.linear)
        linear.A.data[:] = torch.linalg.qr(linear.A[0].T).Q.T
        linear.B.data[:] = torch.linalg.qr(linear.B[0]).Q
        linear.gate.data.fill_(0.5)
    for change in changes(model, points([0]), None):
        np.testing.assert_allclose(change.norms, change.bound)
        assert change.columns()["median_ratio"] == pytest.approx(1)


def test_the_routing_is_convex_whatever_lambda() -> None:
    model, x, z = model_of(3, instructed=True), points([3]), text_of(3)
    before = model.routes(x, z)
    rows = list(routes_by_strength(model, x, z))
    assert torch.equal(model.routes(x, z), before)
    assert [row["strength"] for row in rows] == sorted(STRENGTHS)
    assert [row["strength"] for row in rows if row["trained"]] == [1.0]
    for row in rows:
        assert row["smallest_weight"] >= 0
        assert row["largest_support"] <= 3
        assert row["largest_sum_error"] < 1e-12
        assert row["largest_operator_ratio"] <= 1 + 1e-12
    assert rows[-1]["shared_with_prior"] == rows[-1]["weight_on_likeliest"] == pytest.approx(1)
    assert rows[0]["weight_on_likeliest"] < rows[-1]["weight_on_likeliest"]


@torch.no_grad()
def test_route_columns_are_those_of_a_plain_loop() -> None:
    model, x, z = model_of(4, instructed=True), points([4]), text_of(4)
    found, shared, entropies = route_columns(model, x, z), [], []
    likely = model.router.log_prior(z)[0].argsort(-1, descending=True)[:, :3]
    for n, blocks in enumerate(model.routes(x, z)[0].numpy()):
        for w in blocks:
            support = set(np.flatnonzero(w))
            shared.append(len(support & set(likely[n].tolist())) / len(support))
            entropies.append(-sum(p * np.log(p) for p in w if p > 0))
    assert found["shared_with_prior"] == pytest.approx(np.mean(shared))
    assert found["entropy"] == pytest.approx(np.mean(entropies))
    assert found["support"] == 3
    assert "shared_with_prior" not in route_columns(model_of(4), x, None)
    assert [row["strength"] for row in routes_by_strength(model_of(4), x, None)] == [None]


@pytest.mark.parametrize("instructed", [False, True])
@torch.no_grad()
def test_tokens_that_are_routed_by_themselves_count_as_points(instructed: bool) -> None:
    model, x = model_of(5, instructed, routing="token", block_size=1), points([5])
    z, by_token = text_of(5) if instructed else None, []
    for n, tokens in enumerate(model.backbone.tokens(x)[0]):
        example = Example(model, 0, None if z is None else z[0, n])
        example.predict(tokens)
        by_token += list(torch.stack(example.weights, dim=1).numpy())
    expected = dense(model, np.array(by_token))  # routes (n T, N_b, K)
    for change in changes(model, x, z):
        bound, norms = expected[change.layer, change.linear]
        assert change.bound == pytest.approx(bound)
        np.testing.assert_allclose(change.norms, norms)
    columns = route_columns(model, x, z)
    entropies = [-sum(p * np.log(p) for p in w if p > 0) for w in np.concatenate(by_token)]
    assert columns["entropy"] == pytest.approx(np.mean(entropies))
    assert ("shared_with_prior" in columns) == instructed


def identity_of(store: Store, method: str, function: str = "drop_wave", seed: int = 0) -> str:
    return next(
        cell.run_id
        for cell in store.study("tiny")
        if (cell.method, cell.function, cell.seed) == (method, function, seed)
    )


@pytest.mark.parametrize("method", ["lora", "instruction_queryable"])
def test_a_replay_ends_where_the_run_did(studied: Store, method: str) -> None:
    identity, seen = identity_of(studied, method), []

    def observe(adapter: Any, updates: int) -> None:
        seen.append((updates, {n: p.detach().clone()[0] for n, p in adapter.trainable().items()}))

    before = sorted(path.name for path in (studied.root / "runs").iterdir())
    curves = replay(stored_config(studied, identity), studied, observe)
    assert [updates for updates, _ in seen] == list(range(len(seen)))
    stored = read_tensors(studied.run_folder(identity) / "adapter.safetensors")
    for name, value in stored.items():
        torch.testing.assert_close(seen[-1][1][name], value, rtol=1e-3, atol=1e-5)
    assert any(not torch.equal(seen[0][1][name], value) for name, value in stored.items())
    loss = read_curves(studied.run_folder(identity))["loss"]
    np.testing.assert_allclose(curves.loss[:, 0], loss, rtol=1e-4)
    assert sorted(path.name for path in (studied.root / "runs").iterdir()) == before


def test_a_replay_goes_through_the_targets_in_sequence(tmp_path: Path) -> None:
    words = ["method=queryable", "shift.targets=2", "shift.order=sequence"]
    store = compute_study(tmp_path / "store", "tiny", [[*words, "trainer.adapt.epochs=4"]])
    identity, seen = identity_of(store, "queryable"), []

    def observe(adapter: Any, updates: int) -> None:
        seen.append((updates, {n: p.detach().clone()[0] for n, p in adapter.trainable().items()}))

    config = stored_config(store, identity)
    curves = replay(config, store, observe)
    assert [updates for updates, _ in seen] == list(range(updates_of(config, "adapt") + 1))
    stored = read_tensors(store.run_folder(identity) / "adapter.safetensors")
    for name, value in stored.items():
        torch.testing.assert_close(seen[-1][1][name], value, rtol=1e-3, atol=1e-5)
    recorded = read_curves(store.run_folder(identity))
    assert curves.steps == recorded["step"].tolist()
    np.testing.assert_allclose(curves.loss[:, 0], recorded["loss"], rtol=1e-4)


@pytest.fixture(scope="module")
def rendered(studied: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("theory")
    assert command(studied, out) == 0
    return out / "tiny"


def test_the_bound_holds_on_trained_adapters(studied: Store, rendered: Path) -> None:
    table = pd.read_csv(rendered / "theory.csv")
    assert len(table) == 2 * 2 * 2 * 4 * 4  # methods, functions, seeds, layers, linears
    assert (table["smallest"] > 0).all()
    assert (table["largest"] <= table["bound"] * (1 + 1e-9)).all()
    run = load_trained(studied, identity_of(studied, "queryable", "matyas", 1))
    own = table[(table["method"] == "queryable") & (table["function"] == "matyas")]
    own = own[own["seed"] == 1].set_index(["layer", "linear"])
    for key, (bound, norms) in dense(run.adapter, run.routes(*run.points())).items():
        expected = [bound, min(norms), np.median(norms), max(norms)]
        found = own.loc[key, ["bound", "smallest", "median", "largest"]]
        np.testing.assert_allclose(found.to_numpy(float), expected, rtol=1e-5)


def test_training_starts_at_nothing_and_ends_at_the_stored_run(rendered: Path) -> None:
    training = pd.read_csv(rendered / "theory_training.csv")
    last = training["update"].max()
    assert (training.loc[training["update"] == 0, ["bound", "largest"]] == 0).all(axis=None)
    assert sorted(training["update"].unique()) == list(range(last + 1))
    keys = ["method", "function", "seed", "layer", "linear"]
    final = training[training["update"] == last].set_index(keys)
    stored = pd.read_csv(rendered / "theory.csv").set_index(keys).loc[final.index]
    numbers = ["bound", "smallest", "median", "largest"]
    np.testing.assert_allclose(final[numbers], stored[numbers], rtol=1e-3)


def test_lambda_is_shown_for_methods_that_have_it(rendered: Path) -> None:
    table = pd.read_csv(rendered / "theory_routing.csv")
    by_method = {name: own["strength"] for name, own in table.groupby("method")}
    assert by_method["queryable"].isna().all()
    assert set(by_method["instruction_queryable"]) == set(STRENGTHS)
    assert (table["largest_sum_error"] < 1e-5).all()
    text = (rendered / "theory.md").read_text()
    assert "whose norm exceeds the bound: 0 of 128" in text
    assert "| instruction\\_queryable | 1 (trained) | 4.00 | 4 |" in text
    assert "| queryable | – |" in text
    assert "– (trained)" not in text


def test_figures_have_axes_with_names(rendered: Path) -> None:
    bounds, training = (
        pd.read_csv(rendered / f"{name}.csv", keep_default_na=False).rename(
            columns={"overrides": "variant"}
        )
        for name in ("theory", "theory_training")
    )
    figure = theory_figure(bounds, training)
    assert [axis.get_xlabel() for axis in figure.axes] == ["layer"] * 4 + ["update"] * 4
    assert figure.axes[0].get_ylabel() == figure.axes[4].get_ylabel() == "spectral norm of dW"
    own = bounds[(bounds["method"] == "queryable") & (bounds["linear"] == "qkv")]
    lines = figure.axes[0].lines
    np.testing.assert_allclose(lines[0].get_ydata(), own.groupby("layer")["median"].mean())
    np.testing.assert_allclose(lines[1].get_ydata(), own.groupby("layer")["bound"].mean())
    assert len(theory_figure(bounds, None).axes) == 4


def test_training_can_be_left_out_and_the_bytes_are_the_same(
    studied: Store, rendered: Path, tmp_path: Path
) -> None:
    assert command(studied, tmp_path, "--skip-training") == 0
    names = {path.name for path in (tmp_path / "tiny").iterdir()}
    assert names == {"theory.md", "theory.csv", "theory_routing.csv", "theory.svg"}
    for name in ("theory.csv", "theory_routing.csv"):
        assert (tmp_path / "tiny" / name).read_bytes() == (rendered / name).read_bytes()


def test_a_study_without_routing_is_refused(studied: Store, tmp_path: Path, capsys) -> None:
    cells = [cell for cell in studied.study("tiny") if cell.method in ("frozen", "lora")]
    copy = Store(shutil.copytree(studied.root, tmp_path / "store"))
    copy.write_study("plain", cells)
    assert command(copy, tmp_path, study="plain") == 2
    message = capsys.readouterr().err
    assert "Study 'plain' has no finished run of a method that routes" in message
    assert message.count("\n") == 1


def test_an_unknown_function_is_refused(studied: Store, tmp_path: Path, capsys) -> None:
    assert command(studied, tmp_path, "--function", "levy") == 2
    assert "Unknown function of study tiny 'levy'" in capsys.readouterr().err
    assert not (tmp_path / "tiny").exists()


def test_diverged_runs_are_named(tmp_path: Path) -> None:
    cells = [
        ["method=queryable", f"function={function}", f"trainer.loss_ceiling={ceiling}"]
        for function, ceiling in (("matyas", 10), ("levy", 1e-9))
    ]
    store = compute_study(tmp_path / "store", "tiny", cells)
    assert command(store, tmp_path, "--skip-training") == 0
    text = (tmp_path / "tiny" / "theory.md").read_text()
    assert "Diverged and left out: queryable on levy (equal\\_rank), seed 0." in text
    assert set(pd.read_csv(tmp_path / "tiny" / "theory.csv")["function"]) == {"matyas"}
