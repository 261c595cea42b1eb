"""How trained adapters route: plain loops, planted weights, and a study of tiny runs."""

import math
import shutil
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from build import adapted, jolt, of_method, points
from conftest import compute_study
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import render
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from queryable_example import Example
from scipy.spatial.distance import jensenshannon

from analysis.figures.contours import grid
from analysis.figures.routing import SIDE, Map, routing_figure
from analysis.paper import routing
from analysis.paper.routes import (
    agreement,
    block_agreement,
    cka,
    effective_atoms,
    entropy,
    input_dependence,
    selection,
    token_rows,
    usage,
    usage_agreement,
)
from analysis.paper.trained import POINTS, Trained, load_trained
from analysis.render import NO_CELL
from qlexp.adapters.base import Adapter
from qlexp.adapters.lora import LoRA
from qlexp.adapters.routed import RoutedAdapter
from qlexp.adapters.stored import stored_config
from qlexp.problem.encoders import embed
from qlexp.problem.instructions import describe
from qlexp.store.store import Store
from qlexp.train.stages import replay

seeds = st.integers(0, 10**6)
few = settings(max_examples=20, deadline=None, derandomize=True, database=None)
command = partial(render, "routing", study="tiny")


def weights_of(seed: int, n: int = 7, blocks: int = 3, atoms: int = 6, k: int = 3) -> np.ndarray:
    """Random weights (n, N_b, K), k atoms each."""
    draw = np.random.default_rng(seed)
    weights = draw.dirichlet(np.ones(atoms), (n, blocks))
    weights[weights < np.sort(weights, axis=-1)[..., -k, None]] = 0.0
    return weights / weights.sum(-1, keepdims=True)


@few
@given(seeds)
def test_numbers_are_those_of_plain_loops(seed: int) -> None:
    weights = weights_of(seed)
    for b in range(3):
        used = [sum(w[b, m] for w in weights) / 7 for m in range(6)]
        chosen = [sum(w[b, m] > 0 for w in weights) / 7 for m in range(6)]
        np.testing.assert_allclose(usage(weights)[b], used)
        np.testing.assert_allclose(selection(weights)[b], chosen)
        each = np.mean([scipy.stats.entropy(w[b]) for w in weights])
        assert entropy(weights)[b] == pytest.approx(each)
        assert effective_atoms(weights)[b] == pytest.approx(math.exp(scipy.stats.entropy(used)))
        assert input_dependence(weights)[b] == pytest.approx(scipy.stats.entropy(used) - each)
        for other in range(3):
            each = [1 - jensenshannon(w[b], w[other], base=2) for w in weights]
            alike = block_agreement(weights)[b, other]
            assert alike == pytest.approx(1 if b == other else np.mean(each), abs=1e-6)
    np.testing.assert_allclose(usage(weights).sum(-1), 1)
    np.testing.assert_allclose(selection(weights).sum(-1), 3)


def test_planted_routings() -> None:
    constant = np.tile([0.5, 0.5, 0.0, 0.0], (8, 1, 1))
    assert effective_atoms(constant) == pytest.approx(2)
    assert input_dependence(constant) == pytest.approx(0)
    turns = np.eye(4)[np.arange(8) % 4][:, None]
    assert effective_atoms(turns) == pytest.approx(4)
    assert entropy(turns) == pytest.approx(0)
    assert input_dependence(turns) == pytest.approx(math.log(4))
    single = np.tile([0.0, 1.0, 0.0, 0.0], (8, 1, 1))
    assert effective_atoms(single) == pytest.approx(1)
    assert agreement(single, single) == pytest.approx(1)
    assert agreement(constant[:, 0, [0, 1, 2, 3]], constant[:, 0, [2, 3, 0, 1]]) == pytest.approx(0)


@few
@given(seeds, st.permutations(range(6)))
def test_runs_are_compared_whatever_the_order_of_their_atoms(seed: int, order: list[int]) -> None:
    first, second = weights_of(seed), weights_of(seed + 1)
    np.testing.assert_allclose(usage_agreement(first, first[..., order]), 1, atol=1e-6)
    np.testing.assert_allclose(cka(first, first[..., order]), 1)
    for compare in (usage_agreement, cka):
        expected = compare(first, second)
        np.testing.assert_allclose(compare(first, second[..., order]), expected)
        np.testing.assert_allclose(compare(second, first), expected)
        assert ((expected >= 0) & (expected < 1)).all()


@few
@given(seeds)
def test_cka_is_that_of_the_centred_kernels(seed: int) -> None:
    first, second = weights_of(seed), weights_of(seed + 1)
    H = np.eye(7) - 1 / 7
    for b in range(3):
        K, L = (H @ w[:, b] @ w[:, b].T @ H for w in (first, second))
        expected = np.trace(K @ L) / math.sqrt(np.trace(K @ K) * np.trace(L @ L))
        assert cka(first, second)[b] == pytest.approx(expected)


def test_cka_with_a_constant_routing_is_unknown() -> None:
    constant = np.tile(weights_of(0)[:1], (7, 1, 1))
    assert np.isnan(cka(weights_of(1), constant)).all()


@torch.no_grad()
def test_tokens_are_rows_of_their_own() -> None:
    config = of_method("queryable")
    shape = replace(config.method.config, routing="token", block_size=1)  # 4 blocks, 2 tokens
    model = adapted(replace(config, method=replace(config.method, config=shape)), [0])
    jolt(model, [0], std=0.4)
    x, expected = points([0]), []
    for tokens in model.backbone.tokens(x)[0]:
        example = Example(model, lane=0)
        example.predict(tokens)
        expected += list(torch.stack(example.weights, dim=1).numpy())  # a token: (N_b, K)
    np.testing.assert_allclose(token_rows(model.routes(x)[0].numpy()), expected, atol=1e-10)
    assert np.array_equal(token_rows(weights_of(0)), weights_of(0))


def test_maps_and_tables_of_routes_by_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ["method=queryable", "method.routing=token", "method.block_size=1", "function=matyas"]
    store = compute_study(tmp_path / "store", "tiny", [own])
    drawn: list[Map] = []
    monkeypatch.setattr(routing, "routing_figure", lambda _, maps: drawn.extend(maps) or Figure())
    assert command(store, tmp_path) == 0
    run = load_trained(store, identity_of(store, "queryable", "matyas"))
    weights = run.routes(torch.as_tensor(grid(SIDE)[None], dtype=torch.float32), None)
    first, second = weights[:, 0], weights[:, 1]
    np.testing.assert_array_equal(drawn[0].atoms, (first + second).argmax(-1).T)
    assert set(pd.read_csv(tmp_path / "tiny" / "routing.csv")["block"]) == {1, 2, 3, 4}


def test_targets_in_sequence_each_have_their_points_and_text(tmp_path: Path) -> None:
    own = ["method=instruction_queryable", "function=matyas", "data.test=300"]
    store = compute_study(
        tmp_path / "store", "tiny", [[*own, "shift.targets=2", "shift.order=sequence"]]
    )
    run = load_trained(store, identity_of(store, "instruction_queryable", "matyas"))
    split = run.problem.test
    x, _ = run.points()
    assert len(x[0]) == POINTS
    for target in range(2):
        owned = split.x[split.target == target][: POINTS // 2].astype(np.float32)
        assert {tuple(point) for point in owned} <= {tuple(point) for point in x[0].numpy()}
        config, shift = run.config, split.shifts[target]
        text = embed([describe(config.function, shift)], "hashing", None, 16)
        z = torch.as_tensor(text, dtype=torch.float32).expand(1, 25, -1)
        square = torch.as_tensor(grid(5)[None], dtype=torch.float32)
        np.testing.assert_array_equal(run.weights(grid(5), target), run.routes(square, z))


def test_of_targets_in_sequence_the_last_is_drawn_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ["method=instruction_queryable", "function=matyas"]
    sequence = ["shift.targets=3", "shift.order=sequence"]
    store = compute_study(tmp_path / "store", "tiny", [[*own, *sequence]], (0, 1))
    drawn: list[Map] = []
    monkeypatch.setattr(routing, "routing_figure", lambda _, maps: drawn.extend(maps) or Figure())
    assert command(store, tmp_path) == 0
    runs = [
        load_trained(store, identity_of(store, "instruction_queryable", "matyas", seed))
        for seed in (0, 1)
    ]
    test, square = runs[0].problem.test, grid(SIDE)
    last = test.target == 2
    np.testing.assert_allclose(runs[0].surface(test.x[last], 2), test.clean[last], atol=1e-12)
    np.testing.assert_array_equal(drawn[0].target, runs[0].surface(square, 2))
    np.testing.assert_array_equal(drawn[0].atoms, runs[0].weights(square, 2).argmax(-1).T)
    assert drawn[0].label == "instruction_queryable, seed 0, target 3 of 3"
    table = pd.read_csv(tmp_path / "tiny" / "routing_similarity.csv")
    (row,) = table[(table["between"] == "seeds") & (table["adapter"] == "trained")].itertuples()
    values = [
        usage_agreement(*(run.weights(grid(routing.COMPARED), target) for run in runs)).mean()
        for target in range(3)
    ]
    assert row.usage_agreement == pytest.approx(values[2])
    assert len(set(values)) == 3


def start_of(store: Store, identity: str) -> Trained:
    """A stored run before its first update, which is that of its replay."""
    seen: list[Adapter] = []
    replay(
        stored_config(store, identity),
        store,
        lambda adapter, done: None if done else seen.append(deepcopy(adapter)),
    )
    start = load_trained(store, identity).untrained(store)
    own = dict(start.adapter.named_parameters())
    assert all(torch.equal(own[name], value) for name, value in seen[0].named_parameters())
    return start


@pytest.mark.parametrize("method", ["queryable", "instruction_queryable"])
def test_untrained_is_what_the_runs_began_with(studied: Store, rendered: Path, method: str) -> None:
    starts = [
        start_of(studied, identity_of(studied, method, "matyas", seed)).weights(
            grid(routing.COMPARED), 0
        )
        for seed in (0, 1)
    ]
    table = pd.read_csv(rendered / "routing_similarity.csv")
    own = (table["method"] == method) & (table["adapter"] == "untrained")
    pairs = table[own & (table["between"] == "seeds") & (table["function"] == "matyas")]
    (row,) = pairs.itertuples()
    assert row.usage_agreement == pytest.approx(usage_agreement(*starts).mean())
    assert row.cka == pytest.approx(cka(*starts).mean())
    escaped = method.replace("_", "\\_")
    assert f"| {escaped}, untrained |" in (rendered / "routing.md").read_text()


@pytest.mark.parametrize(
    ("constant", "text"), [(0, "0.500"), (1, "0.500 (2/4 blocks)"), (2, NO_CELL)]
)
def test_blocks_without_cka_are_counted(constant: int, text: str) -> None:
    """Two pairs of seeds with two blocks, of which `constant` have no CKA."""
    pairs = pd.DataFrame(
        {
            **{"budget": "equal_rank", "method": "prior_only", "variant": "", "between": "seeds"},
            "adapter": "trained",
            "usage_agreement": [0.75, 0.75],
            "cka": [0.5 if constant < 2 else math.nan] * 2,
            **{"blocks": 2, "cka_blocks": 2 - constant, "agreement": math.nan},
        }
    )
    ((row,),) = (section.rows for section in routing.run_similarity_grid(pairs, "tiny").sections)
    found = [cell.text.replace(" ± 0.0", "") for cell in row]
    assert found == ["prior_only", NO_CELL, NO_CELL, "0.750", text, NO_CELL]


def test_a_constant_block_leaves_the_others() -> None:
    first, second = weights_of(0), weights_of(1)
    second[:, 1] = second[0, 1]
    cells = pd.DataFrame(
        {
            **{"budget": "equal_rank", "method": "queryable", "variant": "", "function": "ackley"},
            "seed": [0, 1],
            "run_id": ["a", "b"],
        }
    )
    runs = {name: routing.Routed(w, [w], w) for name, w in (("a", first), ("b", second))}
    table = routing.similarity_cells(cells, runs)
    (row,) = table[table["between"] == "seeds"].itertuples()
    assert row.cka == pytest.approx(cka(first, second)[[0, 2]].mean())
    assert (row.blocks, row.cka_blocks) == (3, 2)
    assert set(table["adapter"]) == {"trained"}


def identity_of(store: Store, method: str, function: str = "drop_wave", seed: int = 0) -> str:
    return next(
        cell.run_id
        for cell in store.study("tiny")
        if (cell.method, cell.function, cell.seed) == (method, function, seed)
    )


def test_a_run_routes_with_the_text_of_its_own_target(
    studied: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load_trained(studied, identity_of(studied, "instruction_queryable"))
    x, z = run.points()
    assert z is not None
    assert np.array_equal(run.routes(x, z), run.adapter.routes(x, z)[0].detach().double().numpy())
    same_text = run.weights(x[0].numpy(), 0)
    one_text = z[:, :1].expand(-1, x.shape[1], -1)
    np.testing.assert_array_equal(same_text, run.routes(x, one_text))
    asked = []
    monkeypatch.setattr(
        "qlexp.problem.instructions.embed",
        lambda texts, *_: asked.extend(texts) or np.zeros((3, 16)),
    )
    run.weights(x[0].numpy(), 0)
    assert asked[0] == describe(run.config.function, run.config.shift)


def test_several_targets_are_told_apart(tmp_path: Path) -> None:
    cells = [["method=instruction_queryable", "shift.targets=3", "function=matyas"]]
    store = compute_study(tmp_path / "store", "tiny", cells)
    run = load_trained(store, identity_of(store, "instruction_queryable", "matyas"))
    square = grid(5)
    assert run.targets == 3
    test = run.problem.test
    for target in range(3):
        surface = run.surface(test.x[target::3], target)
        np.testing.assert_allclose(surface, test.clean[target::3], atol=1e-12)
    assert (run.latest, run.served) == (0, 3)
    maps = [run.weights(square, target) for target in range(3)]
    assert not np.array_equal(maps[0], maps[1])
    assert command(store, tmp_path) == 0
    table = pd.read_csv(tmp_path / "tiny" / "routing_similarity.csv")
    targets = table[(table["between"] == "targets") & (table["adapter"] == "trained")]
    assert list(zip(targets["first"], targets["second"], strict=True)) == [
        *((1, 2), (1, 3), (2, 3))
    ]
    assert targets["agreement"].between(0, 1, inclusive="neither").all()


@pytest.fixture(scope="module")
def rendered(studied: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("routing")
    assert command(studied, out) == 0
    return out / "tiny"


def test_tables_hold_the_numbers_of_the_adapters(studied: Store, rendered: Path) -> None:
    keys = ["method", "function", "seed", "block"]
    blocks = pd.read_csv(rendered / "routing.csv")
    atoms = pd.read_csv(rendered / "routing_atoms.csv")
    assert len(blocks) == 2 * 2 * 2 * 2  # methods, functions, seeds, blocks
    assert len(atoms) == len(blocks) * 16
    sums = atoms.groupby(keys)[["usage", "selection"]].sum()
    np.testing.assert_allclose(sums["usage"], 1, rtol=1e-5)
    np.testing.assert_allclose(sums["selection"], 4)
    run = load_trained(studied, identity_of(studied, "queryable", "matyas", 1))
    with torch.no_grad():
        weights = run.adapter.routes(*run.points())[0].double().numpy()
    own = blocks.set_index(keys).sort_index().loc[("queryable", "matyas", 1)]
    for block in (1, 2):
        each = [scipy.stats.entropy(w[block - 1]) for w in weights]
        assert own.loc[block, "entropy"] == pytest.approx(np.mean(each))
        mean = weights[:, block - 1].mean(0)
        assert own.loc[block, "effective_atoms"] == pytest.approx(np.exp(scipy.stats.entropy(mean)))
        assert own.loc[block, "used_atoms"] == np.count_nonzero(mean)
        assert own.loc[block, "largest_usage"] == pytest.approx(mean.max())


def test_pairs_are_of_one_seed_or_of_one_function(rendered: Path) -> None:
    table = pd.read_csv(rendered / "routing_similarity.csv")
    counts = table.groupby(["method", "adapter", "between"]).size()
    for method, adapter in product(
        ("queryable", "instruction_queryable"), table["adapter"].unique()
    ):
        assert counts[method, adapter].to_dict() == {"blocks": 4, "functions": 2, "seeds": 2}
    between = table[(table["between"] == "functions") & (table["adapter"] == "trained")]
    assert set(between["first"]) == {"drop_wave"}
    assert set(between["second"]) == {"matyas"}
    assert sorted(between["seed"]) == [0, 0, 1, 1]
    assert between[["usage_agreement", "cka"]].apply(lambda c: c.between(0, 1)).all(axis=None)
    assert between["agreement"].isna().all()
    text = (rendered / "routing.md").read_text()
    for title in ("Routing by block", "Similarity of blocks", "Similarity of runs"):
        assert f"# {title}, study tiny" in text


def test_maps_are_drawn_for_the_functions_asked_for(
    studied: Store, rendered: Path, tmp_path: Path
) -> None:
    assert {path.name for path in rendered.glob("*.svg")} == {
        *("routing_drop_wave.svg", "routing_matyas.svg")
    }
    assert command(studied, tmp_path, "--function", "matyas") == 0
    files = {path.name for path in (tmp_path / "tiny").iterdir()}
    assert files == {path.name for path in rendered.iterdir()} - {"routing_drop_wave.svg"}
    for name in files:
        assert (tmp_path / "tiny" / name).read_bytes() == (rendered / name).read_bytes()


def test_a_map_shows_the_planted_atoms() -> None:
    square = grid(SIDE)
    halves = np.where(square[:, 0] > 0, 11, 3)
    many = np.arange(len(square)) % 12
    maps = [
        Map("one", square[:, 0], np.stack([halves, np.full_like(halves, 3)])),
        Map("other", square[:, 1], many[None]),
    ]
    figure = routing_figure("matyas", maps)
    images = [axis.images[0] for axis in figure.axes if axis.images]
    colours = images[0].cmap(images[0].norm(images[0].get_array()))
    left, right = to_hex(colours[0, 0]), to_hex(colours[0, -1])
    shown = [[to_hex(colour) for colour in row] for row in colours]
    assert shown == [[right if x > 0 else left for x in square[:SIDE, 0]]] * SIDE
    keys = []
    for legend in filter(None, (axis.get_legend() for axis in figure.axes)):
        patches = (to_hex(patch.get_facecolor()) for patch in legend.get_patches())
        keys.append(dict(zip((t.get_text() for t in legend.get_texts()), patches, strict=True)))
    assert keys[0] == {"atom 3": left, "atom 11": right}
    assert list(keys[1]) == [*(f"atom {m}" for m in range(8)), "others"]
    assert len(set(keys[1].values())) == 9
    labels = {(axis.get_xlabel(), axis.get_ylabel()) for axis in figure.axes if axis.axison}
    assert {("x₁ (scaled)", "x₂ (scaled)"), ("", "target (standardised)")} <= labels


def test_what_cannot_be_shown_is_refused(studied: Store, tmp_path: Path, capsys) -> None:
    copy = Store(shutil.copytree(studied.root, tmp_path / "store"))
    copy.write_study("plain", [c for c in copy.study("tiny") if c.method == "lora"])
    assert command(copy, tmp_path, study="plain") == 2
    message = capsys.readouterr().err
    assert "Study 'plain' has no finished run of a method that routes" in message
    assert message.count("\n") == 1
    assert command(copy, tmp_path, "--function", "matya") == 2
    assert "Did you mean 'matyas'?" in capsys.readouterr().err
    gone = identity_of(copy, "queryable")
    (copy.run_folder(gone) / "summary.json").unlink()
    copy.write_study("gap", [c for c in copy.study("tiny") if c.seed == 0])
    assert command(copy, tmp_path, study="gap") == 2
    assert "missing: queryable on drop_wave" in capsys.readouterr().err
    allowed = ("--allow-missing", "--function", "matyas")
    assert command(copy, tmp_path, *allowed, study="gap") == 0
    assert "Gaps: missing: queryable on drop" in (tmp_path / "gap" / "routing.md").read_text()


class Corners(RoutedAdapter, LoRA):
    """LoRA with a routing of one's own that no other code knows: over three experts, by place."""

    def routes(self, x: torch.Tensor, instruction: torch.Tensor | None = None) -> torch.Tensor:
        place = torch.cat([x, torch.zeros_like(x[..., :1])], dim=-1)
        return place.softmax(-1).unsqueeze(-2)  # (L, N, 1, 3)


def test_a_method_of_ones_own_takes_part_by_its_class(tmp_path: Path) -> None:
    own = ["method=lora", f"method._target_={__name__}.Corners", "method.name=corners"]
    own += ["function=matyas", "shift.targets=2", "shift.order=sequence"]
    store = compute_study(tmp_path / "store", "tiny", [own], (0, 1))
    for view in ("routing", "theory", "continual"):
        assert render(view, store, tmp_path, study="tiny") == 0
    run = load_trained(store, identity_of(store, "corners", "matyas"))
    weights = run.routes(*run.points())
    blocks, theory, tasks = (
        pd.read_csv(tmp_path / "tiny" / f"{name}.csv")
        for name in ("routing", "theory_routing", "continual")
    )
    first = blocks.iloc[0]
    assert (first["method"], first["block"], first["used_atoms"]) == ("corners", 1, 3)
    assert first["entropy"] == pytest.approx(scipy.stats.entropy(weights[:, 0], axis=-1).mean())
    assert theory["entropy"].iloc[0] == pytest.approx(first["entropy"])
    assert theory[["largest_operator_ratio", "strength"]].isna().all(axis=None)
    assert not (tmp_path / "tiny" / "theory.csv").exists()  # it has no bank of operators
    drift = tasks[(tasks["method"] == "corners") & (tasks["measure"] == "drift")]
    assert drift["mean"].tolist() == [0.0]  # its routes do not learn
