"""Forward passes of every method: ratios, claims and the command; no time is asserted."""

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from analysis.claims.rules import NOT_SUPPORTED, SUPPORTED, UNDECIDED
from analysis.render import markdown
from benchmarks.contenders import MODES, config_of, shapes_of
from benchmarks.inference.__main__ import main, shown
from benchmarks.inference.claims import NOT_JUDGED, claims_grid
from benchmarks.inference.counts import Cost, bare_flops, count_flops
from benchmarks.inference.measured import Measured
from benchmarks.inference.notes import setting_notes
from benchmarks.inference.rounds import Origin, configs_of, measure, read_rounds
from benchmarks.inference.tables import NOT_MERGED, cost_grid, long_table

CPU = torch.device("cpu")
COMMITTED = Path(__file__).parents[2] / "results" / "inference"

# --- Ratios from given times ---------------------------------------------------------------------

LORA = (1.0, 1.0, 2.0, 1.0, 4.0, 1.0, 1.0)


def times(factor: float) -> list[float]:
    return [factor * value for value in LORA]


ALONE: dict[tuple[str, bool], Sequence[float]] = {
    ("lora", False): LORA,
    ("lora", True): times(0.5),
}
EXAMPLE = {
    **ALONE,
    ("queryable", False): times(1.5),
    ("rep_lora", False): times(2.0),
    ("rep_lora", True): times(0.5),
    ("doran", False): [1.4, 1.6, 3.2, 1.4, 6.4, 1.4, 1.6],
    ("doran", True): times(0.5),
    ("hyra", False): times(0.75),
    ("hyra", True): times(0.5),
}  # seconds of a round by method, and whether it is merged


def measured(rounds: Mapping[tuple[str, bool], Sequence[float]]) -> Measured:
    """Eight points in the small backbone, whose pass has 1000 operations."""
    setting = {"backbone": "small", "device": "cpu", "mode": "eager", "batch": 8}
    rows = [
        {**setting, "method": method, "merged": merged, "round": index, "seconds": seconds}
        for (method, merged), each in rounds.items()
        for index, seconds in enumerate(each)
    ]
    costs = {
        ("small", 8, method): Cost(
            trainable=10,
            flops=30 if method == "queryable" else 20,
            backbone_flops=1000,
            reading=method in ("rep_lora", "hyra", "doran"),
        )
        for method, _ in rounds
    }
    return Measured(pd.DataFrame(rows), costs)


def example() -> Measured:
    return measured(EXAMPLE)


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
    """Of seven rounds 98 % lie between the least and the most."""
    for row in long_table(example()).query("can_be").itertuples():
        ratios = [
            own / lora for own, lora in zip(EXAMPLE[row.method, row.merged], LORA, strict=True)
        ]
        found = (row.over_lora, row.over_lora_low, row.over_lora_high)
        assert found == (statistics.median(ratios), min(ratios), max(ratios))


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
    found = judged(measured({**ALONE, **{(n, False): times(f) for n, f in others.items()}}))
    assert found["lora is the fastest adapter"] == [figures, verdict]


def test_one_of_many_rivals_does_not_refute_by_chance() -> None:
    """7 rounds below 1 and none above refute alone, at 95 %, but not beside seven others."""
    rivals = ["dora", "vera", "vb_lora", "lily", "queryable", "prior_only", "query_only"]
    alone = {**ALONE, ("x", False): times(0.9)}
    assert judged(measured(alone))["lora is the fastest adapter"][1] == NOT_SUPPORTED
    crowd = measured({**alone, **{(name, False): times(2.0) for name in rivals}})
    assert judged(crowd)["lora is the fastest adapter"][1] == UNDECIDED


def test_added_time_is_paired_by_rounds() -> None:
    """A quotient of the two medians would be 2."""
    bare = [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0]
    own = [1.5, 1.5, 1.5, 2.0, 3.0, 3.0, 3.0]
    rounds = {("lora", False): own, ("lora", True): bare, ("dora", False): own}
    found = judged(measured(rounds))
    figures, _ = found["the adapters' arithmetic is negligible"]
    assert figures == "lora +2.0% FLOPs, +50% (+50% to +100%) time"


def test_the_notes_give_the_noise_floor_and_what_was_not_measured() -> None:
    rounds = {**EXAMPLE, ("dora", False): times(1.5), ("dora", True): times(0.6)}
    text = "\n".join(setting_notes(measured(rounds), Origin(4, {"cpu": "one"}, {}, "none")))
    assert "small, cpu, eager, batch 8: 0.50 to 0.60 (20% apart)" in text
    for gap in ("device cuda", "mode compiled", "deep_narrow", "lily"):
        assert gap in text.partition("Not measured: ")[2].partition("Devices: ")[0]


# --- Measuring -----------------------------------------------------------------------------------


def test_compiled_passes_are_measured_beside_the_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr("benchmarks.timing.TURN", 0.0)
    shallow = ("backbone=small", "backbone.depth=2")
    configs = [config_of(name, 2, *shallow) for name in ("lora", "queryable")]
    rows = measure(configs, "small", CPU, (2,), MODES, 1)
    timed = [(row["mode"], row["method"], row["merged"]) for row in rows]
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
    monkeypatch.setattr("benchmarks.inference.__main__.measure", never)
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

    monkeypatch.setattr("benchmarks.inference.__main__.measure", broken)
    chosen = ["--backbone", "small", "--methods", "lora", "--device", "cpu", "--eager"]
    with pytest.raises(OSError, match="a broken disk"):
        main([*chosen, "--out", str(tmp_path)])


def test_every_method_and_form_is_measured_against_lora(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.timing.TURN", 0.0)
    configs = configs_of(["queryable", "dora"], "small", 2)
    rows = pd.DataFrame(measure(configs, "small", CPU, (1, 2), ("eager",), 1))
    assert list(rows["method"].unique()) == ["lora", "queryable", "dora"]
    assert len(rows) == (3 + 2) * 2
    assert not (rows["merged"] & (rows["method"] == "queryable")).any()
    table = long_table(Measured.counted(rows, 2)).set_index(["batch", "method", "merged"])
    assert table.loc[(2, "dora", True), "adapter_flops"] == 0
    assert math.isnan(table.loc[(2, "queryable", True), "adapter_flops"])
    bare = bare_flops(configs[0].backbone, 2)
    for config in configs:
        row = table.loc[(2, config.method.name, False)]
        assert row["backbone_flops"] == bare
        assert row["adapter_flops"] == count_flops(*shapes_of(config, 2)) - bare


def test_the_committed_tables_are_those_of_the_committed_rounds() -> None:
    """The small backbone's; a method added since then changes nothing."""
    rounds, origin = read_rounds(COMMITTED)
    rounds = rounds[rounds["backbone"] == "small"]
    files = shown(Measured.counted(rounds, origin.rank), origin)
    own = files.frames["inference"].to_csv(index=False).splitlines()
    assert own == (COMMITTED / "inference.csv").read_text().splitlines()[: len(own)]
    committed = (COMMITTED / "inference.md").read_text()
    for grid in files.grids["inference"]:
        rows = [line for line in markdown(grid).splitlines() if line.startswith("|")]
        assert len(rows) > 10
        assert [row for row in rows if row not in committed] == []


def test_without_rounds_there_is_nothing_to_render(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--rounds", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "There are no rounds" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_writes_its_files_and_prints_the_claims(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.timing.TURN", 0.0)
    chosen = ["--backbone", "small", "--methods", "queryable", "--eager", "--batch", "2"]
    assert main([*chosen, "--device", "cpu", "--repeats", "6", "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"inference.{suffix}" for suffix in ("csv", "md", "svg", "tex")),
        *(f"inference_rounds.{suffix}" for suffix in ("csv", "json")),
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

    monkeypatch.setattr("benchmarks.inference.__main__.measure", never)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert len(complaint.splitlines()) == 1
    assert not (tmp_path / "out").exists()
