"""The cost of a forward pass, and the benchmark of a step, tiny; no time is asserted."""

import csv
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from analysis.claims.rules import NOT_SUPPORTED, SUPPORTED, UNDECIDED
from analysis.inference import contenders
from analysis.inference.__main__ import main
from analysis.inference.claims import NOT_JUDGED, claims_grid
from analysis.inference.contenders import Contender, batch_of, build, merged
from analysis.inference.flops import count_flops
from analysis.inference.measure import MODES, Measurement, Setting, configs_of, measure
from analysis.inference.memory import check_memory, pass_bytes
from analysis.inference.notes import point_flops, setting_notes
from analysis.inference.report import (
    NOT_MERGED,
    Measured,
    cost_grid,
    long_table,
    rounds_table,
)
from analysis.inference.timing import in_turns
from analysis.ratios import fewest_rounds, median_of, paired_ratio
from benchmarks import methods as benchmark
from benchmarks.contenders import Setting as Step
from benchmarks.contenders import adapter, lane_step
from qlexp.config.schema import Config
from qlexp.errors import UsageError
from qlexp.main import choices
from qlexp.model.backbone import Backbone
from qlexp.model.initial import Draw

CPU = torch.device("cpu")
TINY = Step(depth=2, width=8, rows=4, rank=2, lanes=2, block_size=1)
METHODS = choices("method")
TRAINED = benchmark.trained(TINY)
config_of = cache(contenders.config_of)  # composing takes longer than all the rest


def added(method: str, rows: int, rank: int = 4) -> int:
    """FLOPs that a method adds on the small backbone."""
    config = config_of(method, "small", rank)
    inputs = batch_of(config, rows, CPU)
    bare = Backbone(config.backbone, Draw([0]))
    return count_flops(build(config, CPU), inputs) - count_flops(bare, inputs[:1])


# Two tokens a point, 8 layers of four linears (d_out, d_in); R, K, d_k: rank, atoms, key dimension.
SIDES = [(96, 32), (32, 32), (128, 32), (32, 128)] * 8
IN, OUT = sum(d_in for _, d_in in SIDES), sum(d_out for d_out, _ in SIDES)
ENTRIES = sum(d_out * d_in for d_out, d_in in SIDES)


def lora_flops(rows: int, rank: int) -> int:
    """Two for each entry of A and B at each of two tokens."""
    return 2 * rows * 2 * rank * (IN + OUT)


def queryable_flops(rows: int, rank: int) -> int:
    """LoRA's and, for each point, R A h and the routing of four blocks over sixteen atoms."""
    atoms, blocks, d_k = 16, 4, rank
    routed = len(SIDES) * 2 * 2 * rank**2  # R A h, at two tokens
    a_block = 2 * d_k * rank + 2 * d_k * atoms + 2 * atoms * rank**2  # U u, k · q, sum w M
    first = (blocks - 1) * 2 * d_k * rank  # S c
    # Keys, scores and their mean, from two earlier blocks on: V v, keys · q, sum of p v.
    looked = sum(e * (2 * d_k * rank + 2 * d_k + 2 * rank) for e in range(2, blocks))
    return lora_flops(rows, rank) + rows * (routed + blocks * a_block + first + looked)


def norm_flops(rank: int) -> int:
    """W Aᵀ and A Aᵀ, B A Aᵀ, and the diagonals of two products with B, once a pass."""
    products = 2 * rank * ENTRIES + 2 * rank**2 * IN + 2 * rank**2 * OUT
    return products + 2 * 2 * rank * OUT


def instructed(rows: int, *channels: str) -> int:
    """Z e(z), P e(z) and the keys' scores of it, in each of four blocks."""
    own = {"query": 2 * 4 * 16, "prior": 2 * 4 * 16 + 2 * 4 * 16}
    return queryable_flops(rows, 4) + rows * 4 * sum(own[channel] for channel in channels)


def by_hand(rows: int) -> dict[str, int]:
    """What every method adds at rank 4, from its formula and the sizes in its YAML."""
    lora, seeds, linears = lora_flops(rows, 4), 4 * (IN + OUT), len(SIDES)
    networks = 2 * 2 * 8 * seeds  # U and V of 8 hidden units on the rank axis of A and B
    return {
        "frozen": 0,
        "full": 0,
        "full_adamw": 0,
        "lora": lora,
        "rslora": lora,
        "shared_lora": lora,
        "dora": lora + norm_flops(4),
        "vera": 2 * 256 * ENTRIES,
        "vb_lora": 2 * lora + 2 * 8 * seeds,  # twice the rank; 8 vectors in the bank
        "lily": lora + rows * 2 * linears * 2 * 4 * 4 + 2 * 4 * 4 * OUT,  # 4 experts: R A h, B
        "mix_lora": rows * 2 * 2 * 8 * (3 * IN + OUT) + rows * linears * 2 * 8 * 8,  # pools of 8
        "moe_lora": 3 * lora + rows * 2 * 2 * 3 * IN + linears * 2 * 3,  # gates; their balance
        "rep_lora": lora + networks,
        "doran": lora + networks + norm_flops(4),
        "hyra": lora + linears * 4 * 2 * 32 * 8 + 2 * 8 * seeds,  # embeddings 32, 8 hidden
        "text_to_lora": (
            lora
            + linears * 2 * (2 * 8 * 7 + 7 * 7)  # W_1 of place, W_2
            + 2 * 8 * 7  # W_1 of the text
            + 2 * 8 * seeds  # H_A, H_B
        ),
        "queryable": queryable_flops(rows, 4),
        "instruction_queryable": instructed(rows, "query", "prior"),
        "prior_only": instructed(rows, "prior"),
        "query_only": instructed(rows, "query"),
    }


@pytest.mark.parametrize("method", METHODS)
def test_flops_of_every_method_are_those_counted_by_hand(method: str) -> None:
    assert added(method, 3) == by_hand(3)[method]


@pytest.mark.parametrize(("rows", "rank"), [(1, 4), (3, 2)])
def test_flops_follow_rows_and_rank(rows: int, rank: int) -> None:
    assert added("lora", rows, rank) == lora_flops(rows, rank)
    assert added("queryable", rows, rank) == queryable_flops(rows, rank)


def test_flops_of_the_backbone_are_its_products_and_the_scores_of_its_attention() -> None:
    shape = config_of("lora", "small", 4).backbone
    tokens = 2 * (ENTRIES + 33 * 32) * 2  # 16 sines, 16 cosines and the value, to width 32
    assert point_flops(shape) == tokens + 8 * 2 * 2 * 32 + 2 * 32


class Contraction(nn.Module):
    """Rows of x times y, summed, as a product or written out."""

    def __init__(self, product: bool) -> None:
        super().__init__()
        self.product = product

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.product:
            return torch.bmm(x, y)
        return (x.unsqueeze(-1) * y.unsqueeze(1)).sum(2)


def test_flops_do_not_depend_on_how_a_contraction_is_written() -> None:
    x, y = torch.ones(2, 3, 4), torch.ones(2, 4, 5)
    torch.testing.assert_close(Contraction(False)(x, y), Contraction(True)(x, y))
    for product in (False, True):
        assert count_flops(Contraction(product), (x, y)) == 2 * 2 * 3 * 4 * 5


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


def test_an_interval_at_a_higher_level_is_wider_and_wants_more_rounds() -> None:
    seconds = [float(value) for value in range(1, 31)]
    narrow, wide = median_of(seconds), median_of(seconds, 1 - 0.05 / 8)
    assert wide.low < narrow.low < narrow.median < narrow.high < wide.high
    for level in (0.95, 1 - 0.05 / 8):
        fewest = fewest_rounds(level)
        assert math.isnan(median_of(seconds[: fewest - 1], level).low)
        enough = median_of(seconds[:fewest], level)
        assert (enough.low, enough.high) == (1.0, fewest)  # the whole range


def test_the_long_table_holds_the_ratio_of_every_form() -> None:
    table = long_table(example()).set_index(["method", "merged"])
    assert table.loc[("queryable", False), "over_lora"] == 1.5
    assert table.loc[("lora", True), "over_lora"] == 0.5
    assert table.loc[("queryable", False), "adapter_flops"] == 30
    assert table.loc[("queryable", False), "adapter_flops_a_point"] == 30 / 8
    assert table.loc[("queryable", False), "adapter_flops_over_backbone"] == 0.03
    seconds = table.loc[("queryable", False), ["seconds", "seconds_low", "seconds_high"]]
    assert list(seconds) == [1.5, 1.5, 6.0]  # of seven rounds, from the least to the most
    pace = [f"points_per_second{bound}" for bound in ("", "_low", "_high")]
    assert list(table.loc[("queryable", False), pace]) == [8 / 1.5, 8 / 6, 8 / 1.5]
    assert not table.loc[("queryable", True), "can_be"]
    assert table.loc[("queryable", True), ["seconds", "over_lora"]].isna().all()


def test_ratios_can_be_computed_again_from_the_rounds() -> None:
    table, rounds = long_table(example()), rounds_table(example())
    seconds = rounds.set_index(["method", "merged", "round"])["seconds"].sort_index()
    for row in table[table["can_be"]].itertuples():
        again = paired_ratio(seconds[row.method, row.merged], seconds["lora", False])
        assert (again.median, again.low, again.high) == (
            row.over_lora,
            row.over_lora_low,
            row.over_lora_high,
        )


def test_the_table_marks_readings_and_says_what_cannot_be_merged() -> None:
    (section,) = cost_grid(example(), []).sections
    rows = {row[0].text: [cell.text for cell in row] for row in section.rows}
    assert list(rows) == ["lora", "rep_lora (style)", "doran (style)", "hyra (style)", "queryable"]
    assert rows["queryable"][-1] == NOT_MERGED
    assert rows["rep_lora (style)"][-2:] == ["2.00 (2.00 to 2.00)", "0.50 (0.50 to 0.50)"]
    assert rows["queryable"][2:4] == ["4 (3.0%)", "5 (1 to 5)"]  # 30 over 8 points


def judged(measured: Measured) -> dict[str, list[str]]:
    """Figures and verdict by claim."""
    sections = claims_grid(measured).sections
    return {s.title.removeprefix("The paper: "): [c.text for c in s.rows[0][1:]] for s in sections}


def test_claims_are_judged_by_the_figures_and_readings_are_not_judged() -> None:
    assert judged(example()) == {
        "lora is the fastest adapter": ["slower: 1 of 1", SUPPORTED],  # hyra is a reading
        "queryable is slower than lora": ["1.50 (1.50 to 1.50)", SUPPORTED],
        "queryable is faster than rep_lora (style)": ["0.75 (0.75 to 0.75)", NOT_JUDGED],
        "queryable is faster than hyra (style)": ["2.00 (2.00 to 2.00)", NOT_JUDGED],
        "queryable is faster than doran (style)": ["0.94 (0.94 to 1.07)", NOT_JUDGED],
        "the adapters' arithmetic is negligible": [
            "lora +2.0% FLOPs, +100% (+100% to +100%) time; "
            "queryable +3.0% FLOPs, +200% (+200% to +200%) time",
            f"FLOPs: {SUPPORTED}",
        ],
    }


@pytest.mark.parametrize(
    ("others", "figures", "verdict"),
    [
        ({"dora": 1.5, "vera": 1.25}, "slower: 2 of 2", SUPPORTED),
        ({"dora": 0.5, "vera": 1.25}, "slower: 1 of 2; faster: dora 0.50", NOT_SUPPORTED),
        ({"dora": 1.0, "vera": 1.25}, "slower: 1 of 2; not told apart: dora 1.00", UNDECIDED),
        ({"shared_lora": 1.0, "rslora": 0.9, "vera": 2.0}, "slower: 1 of 1", SUPPORTED),
        ({"hyra": 0.5}, "no other adapter that is no reading", UNDECIDED),
    ],
)
def test_lora_is_compared_with_other_arithmetic_that_is_no_reading(
    others: dict[str, float], figures: str, verdict: str
) -> None:
    timed = [given(name, times(factor)) for name, factor in others.items()]
    merged_lora = given("lora", times(0.5), merged=True)
    found = judged(Measured([given("lora", LORA), merged_lora, *timed]))
    assert found["lora is the fastest adapter"] == [figures, verdict]


def test_one_of_many_rivals_does_not_refute_by_chance() -> None:
    """7 rounds below 1 and none above refute alone, at 95 %, but not beside seven others."""
    rivals = ["dora", "vera", "vb_lora", "lily", "queryable", "prior_only", "query_only"]
    alone = [given("lora", LORA), given("lora", times(0.5), merged=True), given("x", times(0.9))]
    assert judged(Measured(alone))["lora is the fastest adapter"][1] == NOT_SUPPORTED
    crowd = Measured([*alone, *(given(name, times(2.0)) for name in rivals)])
    assert judged(crowd)["lora is the fastest adapter"][1] == UNDECIDED


def test_added_time_is_paired_by_rounds() -> None:
    """A quotient of the two medians would be 2."""
    bare = [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0]
    own = [1.5, 1.5, 1.5, 2.0, 3.0, 3.0, 3.0]
    found = judged(
        Measured([given("lora", own), given("lora", bare, merged=True), given("dora", own)])
    )
    figures, _ = found["the adapters' arithmetic is negligible"]
    assert figures == "lora +2.0% FLOPs, +50% (+50% to +100%) time"


def test_the_notes_give_the_noise_floor_and_what_was_not_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = [given("dora", times(1.5)), given("dora", times(0.6), merged=True), *example().rows]
    shapes = {"small": config_of("lora", "small", 4).backbone}
    text = "\n".join(setting_notes(Measured(rows), shapes, [CPU], 4, 7))
    assert "small, cpu, eager, batch 8: 0.50 to 0.60 (20% apart)" in text
    for gap in ("CUDA (torch sees no such device here)", "compiled passes", "deep_narrow", "lily"):
        assert gap in text.partition("Not measured: ")[2].partition("Devices: ")[0]


# --- Timing --------------------------------------------------------------------------------------


def test_a_round_times_every_contender_once_in_an_order_drawn_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: list[tuple[str, int]] = []

    class Recorded(Timer):  # type: ignore[misc]  # torch's Timer is untyped
        def __init__(self, stmt: str, *, globals: dict[str, Any], num_threads: int) -> None:
            super().__init__(stmt, globals=globals, num_threads=num_threads)
            self.name = globals["call"]()

        def timeit(self, number: int = 1) -> Any:
            turns.append((self.name, number))
            return super().timeit(number)

    monkeypatch.setattr("analysis.inference.timing.Timer", Recorded)
    monkeypatch.setattr("analysis.inference.timing.TURN", 0.0)
    names, repeats = "abcde", 6
    found = in_turns({name: lambda name=name: name for name in names}, "a", repeats)
    assert {name: len(seconds) for name, seconds in found.items()} == dict.fromkeys(names, repeats)
    timed = turns[-repeats * len(names) :]
    assert {name for name, _ in turns[: -len(timed)]} == {"a"}  # finds how many calls make a turn
    assert len({number for _, number in timed}) == 1
    order = "".join(name for name, _ in timed)
    rounds = [order[start : start + len(names)] for start in range(0, len(order), len(names))]
    assert ["".join(sorted(held)) for held in rounds] == [names] * repeats
    assert len(set(rounds)) == repeats


def test_compiled_forms_give_the_eager_outputs_and_each_is_compiled_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More forms of the same code than torch keeps of one function."""
    graphs: list[nn.Module] = []

    def keep(graph: nn.Module, inputs: Sequence[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=keep))
    methods = ("lora", "rslora", "dora", "vera", "lily", "queryable")
    configs = [shallow(config_of(name, "small", 4)) for name in methods]
    models = [
        model
        for config in configs
        for model in (build(config, CPU), merged(config, CPU))
        if model is not None
    ]
    assert len(models) > torch._dynamo.config.recompile_limit
    inputs = batch_of(configs[0], 3, CPU)
    with torch.no_grad():
        for position, model in enumerate(models, 1):
            contender = Contender(model, inputs)
            eager, compiled = contender.call(compiled=False), contender.call(compiled=True)
            torch.testing.assert_close(compiled(), eager())
            torch.testing.assert_close(compiled(), eager())
            assert len(graphs) == position
    torch._dynamo.reset()


def shallow(config: Config) -> Config:
    """The same on two layers."""
    return replace(config, backbone=replace(config.backbone, depth=2))


def test_compiled_passes_are_measured_beside_the_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr("analysis.inference.timing.TURN", 0.0)
    configs = [shallow(config) for config in configs_of(["queryable"], "small", 2)]
    rows = list(measure(configs, "small", CPU, (2,), MODES, 1))
    timed = [(r.setting.mode, r.method, r.merged) for r in rows if r.seconds]
    forms = [("lora", False), ("lora", True), ("queryable", False)]
    assert timed == [(mode, *form) for mode in MODES for form in forms]


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
    by_hand = {
        "lora": lora_flops,
        "queryable": queryable_flops,
        "dora": lambda rows, rank: lora_flops(rows, rank) + norm_flops(rank),
    }
    for row in rows:
        points = row.setting.batch
        if row.method == "queryable" and row.merged:
            assert (row.seconds, row.adapter_flops) == ((), None)
            continue
        assert len(row.seconds) == 1
        assert row.backbone_flops == points * point_flops(configs[0].backbone)
        assert row.adapter_flops == (0 if row.merged else by_hand[row.method](points, 2))


def test_the_command_writes_its_files_and_prints_the_claims(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.inference.timing.TURN", 0.0)
    chosen = ["--backbone", "small", "--methods", "queryable", "--eager", "--batch", "2"]
    assert main([*chosen, "--device", "cpu", "--repeats", "6", "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"inference.{suffix}" for suffix in ("csv", "md", "svg", "tex")),
        "inference_rounds.csv",
    }
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
        (["--methods", ""], "--methods names none"),
        (["--methods", "lora,,dora"], "Unknown method ''"),
        (["--repeats", "5", "--methods", "dora"], "at least 6"),
        (["--repeats", "6", "--methods", "dora,vera,hyra"], "at least 7"),
        (["--batch", "1"], "at least 2 points"),
        (["--batch", f"{10**12}", "--methods", "dora"], "take a smaller batch"),
        (["--batch", f"{10**40}", "--methods", "dora"], "take a smaller batch"),
        (["--rank", "64", "--backbone", "small"], "the rank must be at most 32"),
        (["--rank", "65", "--backbone", "deep_narrow"], "the rank must be at most 64"),
        (["--rank", "0"], "at least 1"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*args: Any) -> Any:
        raise AssertionError("measured")

    monkeypatch.setattr("analysis.inference.__main__.measure", never)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert len(complaint.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_batch_that_fills_the_memory_is_refused_and_half_of_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of("queryable", "small", 4)
    sized = {"small": [config]}
    monkeypatch.setattr("analysis.inference.memory.free_bytes", lambda device: 2**30)
    points = 2**30 // (pass_bytes(config, 2**16) // 2**16)
    check_memory(sized, points // 2, [CPU])
    with pytest.raises(UsageError, match="a pass of queryable on small"):
        check_memory(sized, points, [CPU])


def test_bytes_of_a_pass_hold_the_widest_of_its_results() -> None:
    """Hidden units of two tokens, twice: before GELU and after."""
    config, points = config_of("frozen", "small", 4), 2**12
    a_point = (pass_bytes(config, 2 * points) - pass_bytes(config, points)) / points
    hidden = 2 * 128 * 4
    assert 2 * hidden < a_point < 4 * hidden


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
