"""The tables of a made-up study, against plain loops over its summaries."""

import csv
import io
import itertools
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import (
    BUDGETS,
    FUNCTIONS,
    LOSSES,
    METHODS,
    SEEDS,
    STUDY,
    cell_of,
    markdown_rows,
    plain_losses,
    render,
    summary_of,
    write_run,
)

from analysis.benchmark import SYNTHETIC
from analysis.cells import by_budget, estimate, loss_cells
from analysis.figures.curves import curves_figure
from analysis.flags import not_learnable
from analysis.names import budget_order, function_order, method_order
from analysis.render import NO_CELL, markdown
from analysis.table import read_table
from analysis.text import spread
from analysis.views import tables
from qlexp.store.store import Store


def command(store: Store, tmp_path: Path, *more: str) -> int:
    return render("tables", store, tmp_path / "out", *more)


def rendered(store: Store, tmp_path: Path, *more: str) -> Path:
    assert command(store, tmp_path, *more) == 0
    return tmp_path / "out" / STUDY


# The numbers

OF_LOSSES = [(own.name, own.column) for own in SYNTHETIC.tables if own.column in LOSSES]


@pytest.mark.parametrize(("table", "key"), OF_LOSSES)
def test_the_csv_holds_the_numbers_of_a_plain_loop(
    made_up: Store, tmp_path: Path, table: str, key: str
) -> None:
    cells = pd.read_csv(rendered(made_up, tmp_path) / f"{table}.csv", keep_default_na=False)
    assert len(cells) == len(FUNCTIONS) * len(METHODS) * len(BUDGETS)
    for cell in cells.itertuples():
        losses = plain_losses(made_up, cell.function, cell.method, key)
        finite = [loss for loss in losses if math.isfinite(loss)]
        assert cell.seeds == 3
        assert cell.infinite == len(losses) - len(finite)
        assert float(cell.mean) == pytest.approx(sum(losses) / 3)
        if len(finite) > 1:
            assert float(cell.finite_mean) == pytest.approx(sum(finite) / len(finite))
            assert float(cell.finite_deviation) == pytest.approx(statistics.stdev(finite))
        assert (cell.deviation == "") == (len(finite) < 3)


@pytest.mark.parametrize(("table", "key"), OF_LOSSES)
def test_the_best_adapter_of_a_column_is_bold(
    made_up: Store, tmp_path: Path, table: str, key: str
) -> None:
    sections = markdown_rows(rendered(made_up, tmp_path) / f"{table}.md")
    assert list(sections) == ["Equal rank", "Equal count: LoRA's at rank 4"]
    for rows in sections.values():
        methods = [row["method"].rstrip("†").replace("\\", "") for row in rows]
        assert methods == ["frozen", "lora", "shared_lora", "queryable", "full"]
        for function, entry in FUNCTIONS.items():
            column = next(header for header in rows[0] if header.startswith(entry.title))
            means = {m: statistics.fmean(plain_losses(made_up, function, m, key)) for m in methods}
            best = min(("lora", "shared_lora", "queryable"), key=means.__getitem__)
            bold = [m for m, row in zip(methods, rows, strict=True) if "**" in row[column]]
            assert bold == [best]
            for method, row in zip(methods, rows, strict=True):
                if math.isfinite(means[method]):
                    shown = float(row[column].strip("*").split(" ±")[0])
                    assert shown == pytest.approx(means[method], rel=6e-3)


def test_inf_is_counted_and_never_dropped(made_up: Store, tmp_path: Path) -> None:
    folder = rendered(made_up, tmp_path)
    rows = {row["method"]: row for row in markdown_rows(folder / "table1.md")["Equal rank"]}
    assert rows["lora"]["Ackley"] == "inf (1/3)"
    assert rows["queryable"]["Matyas"] == "inf (3/3)"
    losses = [x for x in plain_losses(made_up, "ackley", "lora", "post_train_loss") if x < math.inf]
    text = (folder / "table1.md").read_text()
    assert f"lora on Ackley (equal\\_rank) {spread(losses)} over 2" in text
    assert "queryable on Matyas (equal\\_rank) none" in text


def test_the_worst_share_is_that_of_runs_that_did_not_diverge(
    made_up: Store, tmp_path: Path
) -> None:
    folder = rendered(made_up, tmp_path)
    rows = {row["method"]: row for row in markdown_rows(folder / "worst.md")["Equal rank"]}
    for method, function in itertools.product(METHODS, FUNCTIONS):
        shares = [
            share
            for share in plain_losses(made_up, function, method, "worst_share")
            if math.isfinite(share)
        ]
        label = method.replace("_", "\\_") + "†" * (method == "shared_lora")
        text = next(text for head, text in rows[label].items() if head.startswith(title(function)))
        assert text == (spread(shares) if shares else NO_CELL)
    assert len(shares) == 3
    text = (folder / "worst.md").read_text().replace("\\", "")
    left_out = "Diverged and left out: queryable on matyas (equal_rank), seeds 0, 1, 2; lora on ack"
    assert left_out in text
    assert "nan" not in text
    assert "inf" not in text
    cells = pd.read_csv(folder / "worst.csv")
    assert cells["mean"].between(0, 1).all()
    assert not cells["best_adapter"].any()


def title(function: str) -> str:
    return FUNCTIONS[function].title


def test_runs_that_noted_no_shares_have_no_table_of_them(made_up: Store, tmp_path: Path) -> None:
    rewrite(made_up, lambda summary: summary.pop("worst_share"))
    folder = rendered(made_up, tmp_path)
    assert not list(folder.glob("worst*"))
    assert (folder / "table2_clean.md").exists()


def rewrite(store: Store, change: Callable[[dict], object]) -> None:
    """Changes every stored summary in place."""
    for path in store.root.glob("runs/*/summary.json"):
        summary = json.loads(path.read_text())
        change(summary)
        path.write_text(json.dumps(summary))


def test_targets_beyond_the_heads_reach_are_marked(made_up: Store, tmp_path: Path) -> None:
    beyond = {("matyas", 1): 0.03, ("levy", 0): 0.002}

    def change(summary: dict) -> None:
        summary["beyond_head"] = beyond.get((summary["function"], summary["seed"]), 0.0)

    rewrite(made_up, change)
    folder = rendered(made_up, tmp_path)
    headers = list(markdown_rows(folder / "table2.md")["Equal rank"][0])
    assert [header for header in headers if "‖" in header] == ["Matyas‖", "Levy‡‖"]
    text = (folder / "table2.md").read_text()
    assert "Beyond reach: the share of the test targets" in text
    assert "Matyas 0.030 (seed 1); Levy 0.0020 (seed 0)." in text
    assert "$\\|$" in (folder / "table2.tex").read_text()
    cells = pd.read_csv(folder / "table2.csv")
    assert set(cells.loc[cells["beyond_reach"], "function"]) == {"matyas", "levy"}
    table = read_table(made_up, STUDY)
    places = table.loc[table["beyond_reach"], ["function", "seed"]]
    assert set(places.itertuples(index=False, name=None)) == set(beyond)


def test_marks_and_footnotes(made_up: Store, tmp_path: Path) -> None:
    folder = rendered(made_up, tmp_path)
    for table in ("table1", "table2", "table2_clean", "table2_raw", "worst"):
        headers = list(markdown_rows(folder / f"{table}.md")["Equal rank"][0])
        assert [header for header in headers if header[-1] in "‡§"] == ["Griewank§", "Levy‡"]
        text = (folder / f"{table}.md").read_text()
        assert "validation R² of full below 0: Levy -0.25 (seed 2)." in text
        assert "below 0.9: Griewank 0.50 (seed 0)." in text
        assert "shared\\_lora (equal\\_rank) 600 to 1,000" in text
        assert "queryable (equal" not in text.split("reference rank:")[1].splitlines()[0]
        assert "Drop-Wave 0.0300 ± 0.010 → 0.600 ± 0.10;" in text
        assert "Drop-Wave 3.2; Sin-Cos 3.2; Matyas no ripples" in text
        assert "AdamW (lora, shared\\_lora, queryable), SOAP (full)" in text
        assert "frozen 2.5, lora 1.5" in text
        assert "torch 2.13.0; commit 0123456789ab; device CPU." in text
        assert "backbone depth 4, width 32" in text
        assert "adaptation updates 5, test samples 16" in text
        assert ("Noise floor: 0.00250" in text) == (table in ("table1", "table2"))
        assert ("fitted noise" in text) == (table == "table1")
        assert ("the excess over the noise floor" in text) == (table == "table2_clean")
        assert ("Bold" in text) == ("**" in text) == (table != "worst")
        assert "Gaps" not in text


def test_backbones_are_counted_once(made_up: Store, tmp_path: Path) -> None:
    folder = rendered(made_up, tmp_path)
    rows = {row["function"]: row for row in markdown_rows(folder / "backbones.md")[""]}
    assert len(rows) == len(FUNCTIONS)
    assert rows["Drop-Wave"]["backbones"] == "3"
    assert rows["Drop-Wave"]["validation R²"] == "0.970 ± 0.010"
    assert rows["Drop-Wave"]["loss after shift"] == "0.600 ± 0.10"
    assert len(pd.read_csv(folder / "backbones.csv")) == len(FUNCTIONS) * len(SEEDS)


LOSS = st.floats(0.0, 1e6) | st.just(math.inf)


@given(st.lists(LOSS, min_size=1, max_size=9))
def test_estimates_agree_with_numpy(values: list[float]) -> None:
    found = estimate(values)
    finite = np.array([value for value in values if value < math.inf])
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["infinite"] == len(values) - len(finite)
    if len(finite) > 1:
        assert found["finite_deviation"] == pytest.approx(finite.std(ddof=1), abs=1e-9)
    assert ("inf" in spread(values)) == (found["infinite"] > 0)


# Rows and columns


def test_a_reference_row_serves_every_block(made_up: Store) -> None:
    cells = [
        cell_of(summary_of("levy", method, 0), budget)
        for budget in BUDGETS
        for method in METHODS
        if budget == "equal_rank" or method not in ("full", "frozen")
    ]
    made_up.write_study("once", cells)
    cells = loss_cells(read_table(made_up, "once"), "test_loss")
    assert [list(block["method"]) for _, block in by_budget(cells)] == [
        ["frozen", "lora", "shared_lora", "queryable", "full"]
    ] * 2


def test_overrides_that_differ_make_rows_of_their_own(made_up: Store, tmp_path: Path) -> None:
    cells = [cell_of(summary_of("levy", "full", 0), "equal_rank", "experiment=ranks")]
    for rank in (2, 8):
        summary = summary_of("levy", "lora", 0, run_id=f"rank-{rank}", rank=rank, test_loss=rank)
        write_run(made_up, summary)
        cells.append(cell_of(summary, "equal_rank", "experiment=ranks", f"method.rank={rank}"))
    made_up.write_study("ranks", cells)
    frame = read_table(made_up, "ranks")
    cells = loss_cells(frame, "test_loss")
    assert list(cells["variant"]) == ["method.rank=2", "method.rank=8", ""]
    assert list(cells["best_adapter"]) == [True, False, False]
    text = markdown(tables.loss_grid(frame, cells, "test_loss", "caption", "label"))
    assert "lora (method.rank=8)" in text.replace("\\", "")
    assert "One seed has no spread" in text
    figure = curves_figure(made_up, frame)
    assert len({line.get_linestyle() for line in figure.axes[0].lines[:2]}) == 2


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_a_function_is_judged_by_validation_alone(learnt: float, test: float) -> None:
    run = {"function": "matyas", "method": "full", "seed": 3, "status": "done"}
    frame = pd.DataFrame([{**run, "learnt_r2": learnt, "test_r2": test, "test_loss": 1 - test}])
    assert not_learnable(frame) == ({"matyas": {3: learnt}} if learnt < 0 else {})
    assert not_learnable(frame.assign(method="lora")) == {}


def test_methods_come_in_a_fixed_order() -> None:
    shuffled = ["zeta", "full", "queryable", "full_adamw", "lora", "alpha", "frozen", "dora"]
    assert sorted(shuffled, key=method_order) == [
        *("frozen", "lora", "dora", "queryable", "alpha", "zeta", "full_adamw", "full")
    ]
    assert sorted(["lora_r16", "lora_r4", "equal_rank"], key=budget_order) == [
        *("equal_rank", "lora_r4", "lora_r16")
    ]


# Gaps


def test_gaps_are_refused_by_name(
    gappy: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(gappy, tmp_path) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "missing: lora on ackley (equal_rank), seed 0;" in message
    assert "missing: lora on levy (equal_rank), seeds 0, 1, 2;" in message
    assert "seed 2: RuntimeError: no | memory at all_;" in message
    assert not (tmp_path / "out").exists()


def test_gaps_are_printed_when_allowed(gappy: Store, tmp_path: Path) -> None:
    folder = rendered(gappy, tmp_path, "--allow-missing")
    rows = {row["method"]: row for row in markdown_rows(folder / "table1.md")["Equal rank"]}
    assert rows["lora"]["Ackley"] == "inf (1/2), 1 missing"
    assert rows["lora"]["Levy‡"] == "missing"
    finite = plain_losses(gappy, "drop_wave", "queryable", "post_train_loss")
    assert rows["queryable"]["Drop-Wave"].strip("*") == f"{spread(finite)}, 1 failed"
    assert "**" not in rows["queryable"]["Drop-Wave"]
    text = (folder / "table1.md").read_text()
    assert "seed 2: RuntimeError: no \\| memory at all\\_" in text
    assert "missing: lora on levy" in text.replace("\\", "")
    cells = pd.read_csv(folder / "table1.csv").set_index(["budget", "method", "function"])
    assert cells.at[("equal_rank", "lora", "levy"), "missing"] == 3
    assert cells.at[("equal_rank", "queryable", "drop_wave"), "failed"] == 1
    statuses = pd.read_csv(folder / "runs.csv")["status"].value_counts()
    assert (statuses["missing"], statuses["failed"]) == (8, 2)


# The files


def test_tables_are_the_same_bytes_again(made_up: Store, tmp_path: Path) -> None:
    first = rendered(made_up, tmp_path / "a")
    second = rendered(made_up, tmp_path / "b")
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(
        ["runs.csv"]
        + [
            f"{table}.{kind}"
            for table in (*(own.name for own in SYNTHETIC.tables), "backbones")
            for kind in ("md", "csv", "tex")
        ]
    )
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_no_file_says_where_the_runs_were_kept(made_up: Store, tmp_path: Path) -> None:
    for path in rendered(made_up, tmp_path).iterdir():
        assert "/somewhere" not in path.read_text()
        assert str(made_up.root) not in path.read_text()


def test_csv_files_are_rectangular_and_in_order(made_up: Store, tmp_path: Path) -> None:
    folder = rendered(made_up, tmp_path)
    for path in folder.glob("*.csv"):
        rows = list(csv.reader(io.StringIO(path.read_text())))
        assert {len(row) for row in rows} == {len(rows[0])}
    runs = pd.read_csv(folder / "runs.csv")
    keys = list(
        zip(
            runs["budget"].map(budget_order),
            runs["function"].map(function_order),
            runs["method"].map(method_order),
            runs["seed"],
            strict=True,
        )
    )
    assert keys == sorted(keys)
    reread = runs[runs["run_id"] == "levy-lora-1"].iloc[0]
    assert (
        reread["test_loss"]
        == json.loads((made_up.run_folder("levy-lora-1") / "summary.json").read_text())["test_loss"]
    )
