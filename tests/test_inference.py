"""The cost of a forward pass, and the benchmark of a step, tiny; no time is asserted."""

import csv
import re
import statistics
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from analysis.claims.rules import NOT_SUPPORTED, SUPPORTED, UNDECIDED
from analysis.inference import contenders
from analysis.inference.__main__ import main
from analysis.inference.claims import claims_grid
from analysis.inference.contenders import batch_of, build, merged
from analysis.inference.flops import count_flops
from analysis.inference.measure import Measurement, Setting, configs_of, measure
from analysis.inference.report import NOT_MERGED, Measured, cost_grid, long_table
from analysis.inference.timing import in_turns
from analysis.ratios import paired_ratio
from benchmarks import methods as benchmark
from benchmarks.contenders import Setting as Step
from benchmarks.contenders import adapter, lane_step
from qlexp.backbone import Backbone, linear_shapes
from qlexp.initial import Draw
from qlexp.main import choices

CPU = torch.device("cpu")
TINY = Step(depth=2, width=8, rows=4, rank=2, lanes=2, block_size=1)
METHODS = choices("method")
TRAINED = benchmark.trained(TINY)
config_of = cache(contenders.config_of)  # composing takes longer than all the rest


def added(method: str, rows: int, rank: int = 4) -> int:
    """Products that a method adds on the small backbone."""
    config = config_of(method, "small", rank)
    inputs = batch_of(config, rows, CPU)
    bare = Backbone(config.backbone, Draw([0]))
    return count_flops(build(config, CPU), inputs) - count_flops(bare, inputs[:1])


def lora_flops(rows: int, rank: int) -> int:
    """Two for each entry of A and B at each of two tokens."""
    shapes = linear_shapes(config_of("lora", "small", rank).backbone).values()
    return 8 * 2 * rows * sum(2 * rank * (d_out + d_in) for d_out, d_in in shapes)


@pytest.mark.parametrize(("rows", "rank"), [(1, 4), (3, 2)])
def test_products_of_lora_are_those_counted_by_hand(rows: int, rank: int) -> None:
    assert added("lora", rows, rank) == lora_flops(rows, rank)


def test_products_of_queryable_are_loras_and_those_of_its_routing() -> None:
    rows, rank, atoms, blocks = 3, 4, 16, 4
    d_k = rank  # R_b A h is elementwise, and so not counted
    a_block = 2 * d_k * rank + 2 * d_k * atoms + 2 * atoms * rank**2  # U u, k · q, sum w M
    earlier = (blocks - 1) * 2 * d_k * rank  # S c
    keys = sum(2 * d_k * rank * earlier for earlier in range(2, blocks))  # V, from two blocks on
    expected = lora_flops(rows, rank) + rows * (blocks * a_block + earlier + keys)
    assert added("queryable", rows, rank) == expected


def test_a_merged_adapter_and_the_frozen_backbone_add_nothing() -> None:
    config = config_of("dora", "small", 4)
    inputs = batch_of(config, 3, CPU)
    model = merged(config, CPU)
    assert model is not None
    assert count_flops(model, inputs) == count_flops(Backbone(config.backbone, Draw([0])), inputs)
    assert added("frozen", 3) == 0


@pytest.mark.parametrize("method", METHODS)
def test_what_merges_gives_the_same_outputs_and_no_adapter_is_at_its_start(method: str) -> None:
    config = config_of(method, "small", 4)
    inputs = batch_of(config, 5, CPU)
    model, folded = build(config, CPU), merged(config, CPU)
    with torch.no_grad():
        output = model(*inputs)
        bare = Backbone(config.backbone, Draw([config.seed]))(inputs[0])
        if folded is not None:
            torch.testing.assert_close(folded(inputs[0]), output, rtol=1e-3, atol=1e-4)
    assert output.shape == (1, 5)
    assert output.isfinite().all()
    assert torch.equal(output, bare) == (method == "frozen")


def test_methods_whose_change_depends_on_the_input_cannot_be_merged() -> None:
    refused = {name for name in METHODS if merged(config_of(name, "small", 4), CPU) is None}
    routed = {"queryable", "instruction_queryable", "prior_only", "query_only"}
    assert refused == {*routed, "lily", "mix_lora", "moe_lora"}


# --- Ratios from given times ---------------------------------------------------------------------

SETTING = Setting("small", "cpu", "eager", 8)
LORA = (1.0, 1.0, 2.0, 1.0, 4.0, 1.0, 1.0)


def given(method: str, seconds: Sequence[float], **changes: Any) -> Measurement:
    values: dict[str, Any] = {
        "setting": SETTING,
        "method": method,
        "merged": False,
        "reading": method in ("rep_lora", "hyra", "doran"),
        "trainable": 10,
        "backbone_flops": 1000,
        "flops": 1020,
        "seconds": tuple(seconds),
    }
    return Measurement(**{**values, **changes})


def times(factor: float) -> list[float]:
    return [factor * value for value in LORA]


def example() -> Measured:
    return Measured(
        [
            given("lora", LORA),
            given("lora", times(0.5), merged=True, flops=1000),
            given("queryable", times(1.5), flops=1030),
            given("queryable", (), merged=True, flops=None),
            given("rep_lora", times(2.0)),
            given("rep_lora", times(0.5), merged=True, flops=1000),
            given("doran", [1.4, 1.6, 3.2, 1.4, 6.4, 1.4, 1.6]),
            given("doran", times(0.5), merged=True, flops=1000),
            given("hyra", times(0.75)),
            given("hyra", times(0.5), merged=True, flops=1000),
        ]
    )


def test_ratios_are_taken_round_by_round() -> None:
    """A slow round that hits both leaves no trace."""
    ratio = paired_ratio(times(3.0), LORA)
    assert (ratio.median, ratio.low, ratio.high) == (3.0, 3.0, 3.0)
    seconds = [1.0, 5.0, 4.0, 3.0, 8.0, 7.0, 6.0]
    ratios = sorted(own / other for own, other in zip(seconds, LORA, strict=True))
    mixed = paired_ratio(seconds, LORA)
    assert mixed.median == statistics.median(ratios)
    assert (mixed.low, mixed.high) == (ratios[0], ratios[-1])  # of seven, 98 % lies between


def test_the_long_table_holds_the_ratio_of_every_form() -> None:
    table = long_table(example()).set_index(["method", "merged"])
    assert table.loc[("queryable", False), "over_lora"] == 1.5
    assert table.loc[("lora", True), "over_lora"] == 0.5
    assert table.loc[("queryable", False), "adapter_flops"] == 30
    assert table.loc[("queryable", False), "points_per_second"] == 8 / 1.5
    assert not table.loc[("queryable", True), "can_be"]
    assert table.loc[("queryable", True), ["seconds", "over_lora"]].isna().all()


def test_the_table_marks_readings_and_says_what_cannot_be_merged() -> None:
    (section,) = cost_grid(example(), []).sections
    rows = {row[0].text: [cell.text for cell in row] for row in section.rows}
    assert list(rows) == ["lora", "rep_lora (style)", "doran (style)", "hyra (style)", "queryable"]
    assert rows["queryable"][-1] == NOT_MERGED
    assert rows["rep_lora (style)"][-2:] == ["2.00 (2.00 to 2.00)", "0.50 (0.50 to 0.50)"]


def test_claims_are_judged_by_the_figures() -> None:
    sections = {s.title: s.rows[0] for s in claims_grid(example()).sections}
    verdicts = {title: row[-1].text for title, row in sections.items()}
    assert verdicts == {
        "The paper: lora is the fastest adapter": NOT_SUPPORTED,  # hyra takes three quarters
        "The paper: queryable is slower than lora": SUPPORTED,
        "The paper: queryable is faster than rep_lora (style)": SUPPORTED,
        "The paper: queryable is faster than hyra (style)": NOT_SUPPORTED,
        "The paper: queryable is faster than doran (style)": UNDECIDED,
        "The paper: the adapters' arithmetic is negligible": SUPPORTED,
    }
    figures = [row[1].text for row in sections.values()]
    assert figures[0] == "slower: 3 of 4; faster: hyra (style) 0.75"
    assert figures[-1] == "lora +2.0% products, +100% time; queryable +3.0% products, +200% time"


def test_a_round_times_every_contender_once() -> None:
    calls = dict.fromkeys("abc", 0)

    def counted(name: str) -> None:
        calls[name] += 1

    found = in_turns({n: lambda n=n: counted(n) for n in calls}, "a", repeats=3)
    assert {name: len(seconds) for name, seconds in found.items()} == dict.fromkeys("abc", 3)
    assert calls["b"] == calls["c"] > 3


def test_without_a_compiler_nothing_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no working C++ compiler found\nand more")

    def never(*args: Any) -> Any:
        raise AssertionError("measured")

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr("analysis.inference.__main__.measure", never)
    chosen = ["--backbone", "small", "--methods", "lora", "--device", "cpu"]
    assert main([*chosen, "--out", str(tmp_path / "out")]) == 2
    complaint = capsys.readouterr().err
    assert "no working C++ compiler found" in complaint
    assert "--eager" in complaint
    assert len(complaint.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_fails_in_measuring_is_not_blamed_on_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise OSError("a broken disk")

    monkeypatch.setattr("analysis.inference.__main__.measure", broken)
    chosen = ["--backbone", "small", "--methods", "lora", "--device", "cpu", "--eager"]
    with pytest.raises(OSError, match="a broken disk"):
        main([*chosen, "--out", str(tmp_path)])


def test_every_method_and_form_is_measured_against_lora() -> None:
    configs = configs_of(["queryable", "dora"], "small", 2)
    rows = list(measure(configs, "small", CPU, (1, 2), ("eager",), 1))
    assert [row.method for row in rows[:6:2]] == ["lora", "queryable", "dora"]
    assert len(rows) == 3 * 2 * 2
    for row in rows:
        assert len(row.seconds) == (0 if row.method == "queryable" and row.merged else 1)
        assert row.adapter_flops == (
            None if not row.seconds else 0 if row.merged else row.adapter_flops
        )
    unmerged = [row.adapter_flops for row in rows if row.method == "lora" and not row.merged]
    assert unmerged == [lora_flops(1, 2), lora_flops(2, 2)]


def test_the_command_writes_its_files_and_prints_the_claims(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.inference.timing.TURN", 0.0)
    chosen = ["--backbone", "small", "--methods", "queryable", "--eager", "--batch", "2"]
    assert main([*chosen, "--device", "cpu", "--repeats", "6", "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"inference.{suffix}" for suffix in ("csv", "md", "svg", "tex")
    ]
    assert "The paper: queryable is slower than lora" in capsys.readouterr().out
    text = (tmp_path / "inference.md").read_text()
    assert NOT_MERGED in text
    assert "2 tokens" in text
    with (tmp_path / "inference.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["method"], row["merged"], row["batch"]) for row in rows} == {
        (method, merged, batch)
        for method in ("lora", "queryable")
        for merged in ("True", "False")
        for batch in ("1", "2")
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "cuda"], "torch sees no CUDA device: use --device cpu"),
        (["--methods", "lroa"], "Did you mean 'lora'?"),
        (["--backbone", "smal"], "Did you mean 'small'?"),
        (["--repeats", "3"], "at least 6"),
        (["--batch", "1"], "at least 2 points"),
        (["--rank", "64", "--backbone", "small"], "the rank must be at most 32"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert len(complaint.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# --- The benchmark of a training step ------------------------------------------------------------


@pytest.mark.parametrize("method", TRAINED)
def test_a_step_of_every_method_moves_its_weights(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[nn.Module] = []

    def kept(*arguments: Any) -> nn.Module:
        built.append(adapter(*arguments))
        return built[-1]

    monkeypatch.setattr("benchmarks.contenders.adapter", kept)
    step = lane_step(TINY, method, compiled=False)
    (model,) = built
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    for _ in range(2):
        loss, _, alive = step()
        assert loss.shape == (2,)
        assert alive.all()
    after = [p for p in model.parameters() if p.requires_grad]
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_every_method_but_the_frozen_backbone_has_a_step() -> None:
    assert sorted([*TRAINED, "frozen"]) == METHODS


def test_the_settings_of_a_step_reach_the_method() -> None:
    setting = Step(rank=2, atoms=8, key_dim=3, block_size=4, lanes=3)
    configs = setting.configs("queryable")
    own = configs[0].method.config
    assert (own.rank, own.alpha, own.atoms, own.key_dim, own.block_size) == (2, 4.0, 8, 3, 4)
    assert [config.seed for config in configs] == [0, 1, 2]
    assert setting.configs("dora")[0].method.config.rank == 2


def test_a_reason_is_asked_for_above_the_limit_alone() -> None:
    seconds = {"eager": {"lora": list(LORA), "mix_lora": times(1.6), "dora": times(1.4)}}
    text = benchmark.render(seconds, {"lora": 10, "mix_lora": 40, "dora": 12})
    last = {
        cells[1]: cells[-2]
        for cells in (re.split(r" *\| *", row) for row in text.splitlines() if row.startswith("| "))
    }
    assert last["dora"] == last["lora"] == ""
    assert last["mix_lora"]
