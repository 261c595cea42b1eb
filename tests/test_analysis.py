"""The analysis package on a store made up here, against plain loops over its summaries."""

import csv
import io
import json
import math
import re
import statistics
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
import torch
from build import composed
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from analysis import style, tables
from analysis.cells import Estimate, build_blocks, not_learnable
from analysis.figures import __main__ as figures_command
from analysis.figures.contours import grid, levels_around_zero
from analysis.figures.curves import curves_figure
from analysis.figures.predictions import SIDE, Prediction, evaluate, predictions_figure
from analysis.figures.targets import Drawn, problems_of, targets_figure
from analysis.load import LOSSES, layer_columns, load_study, open_store, require_complete
from analysis.names import budget_order, function_order, method_order
from analysis.notes import number, spread
from analysis.render import Grid, Section, Text, latex, markdown
from qlexp.errors import UsageError
from qlexp.execute import stored_config
from qlexp.functions import FUNCTIONS
from qlexp.stages import problem_of
from qlexp.store import Cell, Store, write_folder

STUDY = "made_up"
BUDGETS = ("equal_rank", "lora_r4")
METHODS = ("full", "queryable", "lora", "shared_lora", "frozen")
TRAINABLE = {"frozen": 0, "lora": 1000, "shared_lora": 600, "queryable": 1050, "full": 90_000}
SEEDS = (0, 1, 2)
NOISE = 0.05
KINDS = {
    "frozen": "frozen.Frozen",
    "lora": "lora.LoRA",
    "shared_lora": "shared_lora.SharedLoRA",
    "queryable": "queryable.Queryable",
    "full": "frozen.Full",
}


def config_of(function: str, method: str, seed: int) -> dict:
    optimizer = {"_target_": f"qlexp.optim.{'soap.SOAP' if method == 'full' else 'adamw.AdamW'}"}
    stage = {"epochs": 5, "batch_size": None, "learning_rate": 5e-4}
    return {
        "function": {
            "name": function,
            "coefficients": {},
            "domain": [list(side) for side in FUNCTIONS[function].domain],
            "spread": 0.0,
        },
        "shift": {"strength": 0.2, "rotation": 15.0, "coefficients": None},
        "data": {"pretrain": 64, "adapt": 32, "validation": 16, "test": 16, "noise": NOISE},
        "backbone": {"depth": 4, "width": 32, "heads": 4, "tokens": "fourier"},
        "method": {"_target_": f"qlexp.adapters.{KINDS[method]}", "name": method},
        "optimizer": optimizer,
        "pretrain_optimizer": optimizer,
        "instruction": {"encoder": "none"},
        "budget": {"by": "count"},
        "trainer": {"pretrain": stage, "adapt": stage, "loss_ceiling": 10.0, "r2_floor": 0.9},
        "seed": seed,
        "precision": "float32",
        "store": "/somewhere/else",
        "tracking": {"directory": "/somewhere/else"},
    }


def summary_of(function: str, method: str, seed: int, **changes: object) -> dict:
    draw = np.random.default_rng([sum(map(ord, function + method)), seed])
    loss = float(draw.uniform(0.01, 1.0))
    rank = None if method in ("frozen", "full") else 4
    return {
        "run_id": f"{function}-{method}-{seed}",
        "function": function,
        "method": method,
        "seed": seed,
        "status": "done",
        "backbone_id": f"{function}-{seed}",
        "pretrain_loss": 0.01,
        "pretrain_r2": 0.98 - 0.01 * seed,
        "source_loss": 0.02 + 0.01 * seed,
        "frozen_loss": 0.5 + 0.1 * seed,
        "post_train_loss": loss,
        "validation_loss": 1.1 * loss,
        "test_loss": 1.2 * loss,
        "test_loss_clean": 1.2 * loss - NOISE**2,
        "test_r2": 1 - 0.5 * loss,
        "test_loss_raw": 12.0 * loss,
        "trainable_parameters": TRAINABLE[method],
        "reference_parameters": None if rank is None else 1000,
        "total_parameters": 90_000 + TRAINABLE[method],
        "rank": rank,
        "steps": 0 if method == "frozen" else 5,
        "samples_per_period": None if function == "matyas" else 3.25,
        "lanes": 9,
        "seconds": 1.5 if method == "lora" else 2.5,
        "peak_memory_bytes": 10_000,
        "versions": {"python": "3.12.1", "torch": "2.13.0"},
        "commit": "0123456789ab",
        "device": "CPU",
        "config": config_of(function, method, seed),
        **changes,
    }


def curves_of(summary: dict) -> pd.DataFrame:
    steps = [] if summary["method"] == "frozen" else [0, 2, 4]
    loss = [(summary["post_train_loss"] or 1.0) * (1 + 4 / (1 + step)) for step in steps]
    if summary["status"] == "diverged":
        loss[-1] = math.inf
    return pd.DataFrame({"step": steps, "loss": loss, "learning_rate": [1e-3] * len(steps)})


def write_run(store: Store, summary: dict) -> None:
    write_folder(store.run_folder(summary["run_id"]), summary, curves_of(summary))


def cell_of(summary: dict, budget: str, *overrides: str) -> Cell:
    names = ("run_id", "function", "method", "seed")
    return Cell(*(summary[name] for name in names), budget=budget, overrides=overrides)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Nine functions, five methods, three seeds, two budgets, all of it finished.

    lora diverged on ackley with seed 1 (at a ceiling: its losses are finite), queryable on matyas
    with seeds 0 to 2 (null losses); full learns nothing of levy with seed 2; the backbone of
    griewank with seed 0 is weak.
    """
    store = Store(tmp_path / "store")
    cells = []
    for function in FUNCTIONS:
        for method in METHODS:
            for seed in SEEDS:
                changes: dict[str, object] = {}
                if (function, method, seed) == ("ackley", "lora", 1):
                    changes = {"status": "diverged", "post_train_loss": 12.0}
                if (function, method) == ("matyas", "queryable"):
                    changes = {"status": "diverged", **dict.fromkeys(LOSSES), "test_r2": None}
                if (function, method, seed) == ("levy", "full", 2):
                    changes = {"test_r2": -0.25}
                if (function, seed) == ("griewank", 0):
                    changes = {"pretrain_r2": 0.5}
                summary = summary_of(function, method, seed, **changes)
                write_run(store, summary)
                cells += [
                    cell_of(
                        summary, budget, "experiment=made_up", "trainer=quick", "store=/somewhere"
                    )
                    for budget in BUDGETS
                ]
    store.write_study(STUDY, cells)
    return store


@pytest.fixture
def gappy(store: Store) -> Store:
    """The same with a missing cell, a wholly missing one and a failed one."""
    for name in ("ackley-lora-0", *(f"levy-lora-{seed}" for seed in SEEDS)):
        (store.run_folder(name) / "summary.json").unlink()
    (store.run_folder("drop_wave-queryable-2") / "summary.json").unlink()
    write_folder(
        store.run_folder("drop_wave-queryable-2"),
        {
            "run_id": "drop_wave-queryable-2",
            "function": "drop_wave",
            "method": "queryable",
            "seed": 2,
            "status": "failed",
            "error": "RuntimeError: no | memory\nat all_",
            "config": config_of("drop_wave", "queryable", 2),
        },
    )
    return store


def tables_command(store: Store, out: Path, *more: str) -> int:
    return tables.main(["--study", STUDY, "--store", str(store.root), "--out", str(out), *more])


def rendered(store: Store, tmp_path: Path, *more: str) -> Path:
    assert tables_command(store, tmp_path / "out", *more) == 0
    return tmp_path / "out" / STUDY


def plain_losses(store: Store, function: str, method: str, key: str) -> list[float]:
    """Losses by seed straight from the files."""
    losses = []
    for seed in SEEDS:
        path = store.root / "runs" / f"{function}-{method}-{seed}" / "summary.json"
        if not path.exists():
            continue
        summary = json.loads(path.read_text())
        if summary["status"] == "done":
            losses.append(summary[key])
        elif summary["status"] == "diverged":
            losses.append(math.inf)
    return losses


def markdown_rows(path: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of a Markdown table by section, each as {header: text}."""
    sections: dict[str, list[dict[str, str]]] = {}
    title, headers = "", []
    for line in path.read_text().splitlines():
        if line.startswith("## "):
            title, headers = line[3:], []
        elif line.startswith("|") and "---" not in line:
            texts = [text.strip() for text in re.split(r"(?<!\\)\|", line)[1:-1]]
            if headers:
                row = dict(zip(headers, texts, strict=True))
                sections.setdefault(title, []).append(row)
            else:
                headers = texts
    return sections


# The long table


def test_load_study_has_a_row_a_cell(store: Store) -> None:
    frame = load_study(store, STUDY)
    assert len(frame) == len(FUNCTIONS) * len(METHODS) * len(SEEDS) * len(BUDGETS)
    assert list(frame["budget"].unique()) == list(BUDGETS)
    assert list(frame["function"].unique()) == list(FUNCTIONS)
    assert list(frame["method"].unique()) == ["frozen", "lora", "shared_lora", "queryable", "full"]
    assert set(frame["config.data.noise"]) == {NOISE}
    assert set(frame["overrides"]) == {""}


def test_a_diverged_run_has_infinite_losses(store: Store) -> None:
    frame = load_study(store, STUDY)
    diverged = frame[frame["status"] == "diverged"]
    assert len(diverged) == 2 * (1 + len(SEEDS))
    assert np.isposinf(diverged[list(LOSSES)]).all(axis=None)
    assert np.isfinite(diverged["frozen_loss"]).all()
    assert (frame.loc[frame["function"] == "matyas", "test_r2"].min()) == -math.inf


def test_missing_and_failed_cells_keep_their_rows(gappy: Store) -> None:
    frame = load_study(gappy, STUDY)
    assert dict(frame["status"].value_counts())["missing"] == 2 * (1 + len(SEEDS))
    failed = frame[frame["status"] == "failed"]
    assert len(failed) == 2
    assert failed["error"].str.startswith("RuntimeError").all()
    assert failed[list(LOSSES)].isna().all(axis=None)


def test_a_loss_above_the_ceiling_counts_as_infinite(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    summary = summary_of("matyas", "lora", 0, test_loss=11.0, validation_loss=0.1)
    write_run(store, summary)
    store.write_study(STUDY, [cell_of(summary, "lora_r4")])
    (run,) = load_study(store, STUDY).to_dict("records")
    assert run["status"] == "done"
    assert run["test_loss"] == run["test_loss_raw"] == math.inf
    assert run["validation_loss"] == 0.1


def test_what_all_cells_have_in_common_is_no_name_of_theirs(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    cells = []
    for seed, rate in ((0, "0.1"), (1, "0.2")):
        summary = summary_of("matyas", "lora", seed)
        write_run(store, summary)
        words = ("trainer.adapt.epochs=3", f"trainer.adapt.learning_rate={rate}")
        cells.append(cell_of(summary, "lora_r4", *words))
    store.write_study(STUDY, cells)
    found = load_study(store, STUDY)["overrides"].tolist()
    assert found == [f"trainer.adapt.learning_rate={rate}" for rate in ("0.1", "0.2")]


def test_a_function_is_judged_by_targets_as_they_were_learnt() -> None:
    losses = json.dumps([[1.0, 1.0], [0.1, 1.0], [2.9, 0.1]])  # the first target is forgotten
    run = {"function": "matyas", "method": "full", "seed": 0, "status": "done"}
    frame = pd.DataFrame([{**run, "test_loss": 1.5, "test_r2": -0.5, "task_losses": losses}])
    assert not_learnable(frame) == {}
    never = json.dumps([[1.0, 1.0], [1.4, 1.0], [1.4, 1.6]])
    (value,) = not_learnable(frame.assign(task_losses=never))["matyas"].values()
    assert value == pytest.approx(-0.5)


def test_a_command_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no store"):
        open_store(tmp_path)
    assert not list(tmp_path.iterdir())


def test_layers_come_in_the_order_of_their_numbers() -> None:
    names = [f"gradient_norm.{part}" for part in ("layer_10", "bank", "layer_2", "layer_0")]
    curves = pd.DataFrame(np.arange(8.0).reshape(2, 4), columns=names).assign(step=[0, 5])
    assert curves[layer_columns(curves)].to_numpy().tolist() == [[3.0, 2.0, 0.0], [7.0, 6.0, 4.0]]
    assert layer_columns(curves[["step"]]) == []


def test_a_study_of_which_nothing_is_stored(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_study("empty", [cell_of(summary_of("levy", "lora", 0), "equal_rank")])
    frame = load_study(store, "empty")
    assert list(frame["status"]) == ["missing"]
    assert tables.main(["--study", "empty", "--store", str(tmp_path)]) == 2
    arguments = ["--study", "empty", "--store", str(tmp_path), "--out", str(tmp_path / "out")]
    assert tables.main([*arguments, "--allow-missing"]) == 0
    assert figures_command.main([*arguments, "--allow-missing"]) == 2


def test_two_runs_of_one_name_are_refused(store: Store) -> None:
    twins = [Cell(name, "levy", "lora", 0, "equal_rank") for name in ("levy-lora-0", "other")]
    store.write_study("twins", twins)
    with pytest.raises(UsageError, match="2 different runs called lora on levy, seed 0"):
        load_study(store, "twins")


@pytest.mark.parametrize("text", ["", "{", '[{"run_id": "a"}]', "[]", "[3]"])
def test_an_unusable_manifest_is_refused(store: Store, text: str) -> None:
    (store.root / "studies" / "bad.json").write_text(text)
    with pytest.raises(UsageError, match="bad"):
        load_study(store, "bad")


@pytest.mark.parametrize("change", [{"test_loss": "high"}, {"frozen_loss": [1]}])
def test_an_unusable_summary_is_refused(tmp_path: Path, change: dict) -> None:
    store = Store(tmp_path)
    summary = summary_of("levy", "lora", 0, **change)
    write_run(store, summary)
    store.write_study("one", [cell_of(summary, "equal_rank")])
    with pytest.raises(UsageError, match="levy-lora-0"):
        load_study(store, "one")


# The numbers


@pytest.mark.parametrize(("table", "key"), [(name, loss) for name, loss, _ in tables.TABLES])
def test_the_csv_holds_the_numbers_of_a_plain_loop(
    store: Store, tmp_path: Path, table: str, key: str
) -> None:
    cells = pd.read_csv(rendered(store, tmp_path) / f"{table}.csv", keep_default_na=False)
    assert len(cells) == len(FUNCTIONS) * len(METHODS) * len(BUDGETS)
    for cell in cells.itertuples():
        losses = plain_losses(store, cell.function, cell.method, key)
        finite = [loss for loss in losses if math.isfinite(loss)]
        assert cell.seeds == 3
        assert cell.infinite == len(losses) - len(finite)
        assert float(cell.mean) == pytest.approx(sum(losses) / 3)
        if len(finite) > 1:
            assert float(cell.finite_mean) == pytest.approx(sum(finite) / len(finite))
            assert float(cell.finite_deviation) == pytest.approx(statistics.stdev(finite))
        assert (cell.deviation == "") == (len(finite) < 3)


@pytest.mark.parametrize(("table", "key"), [(name, loss) for name, loss, _ in tables.TABLES])
def test_the_best_adapter_of_a_column_is_bold(
    store: Store, tmp_path: Path, table: str, key: str
) -> None:
    sections = markdown_rows(rendered(store, tmp_path) / f"{table}.md")
    assert list(sections) == ["Equal rank", "Equal count: LoRA's at rank 4"]
    for rows in sections.values():
        methods = [row["method"].rstrip("†").replace("\\", "") for row in rows]
        assert methods == ["frozen", "lora", "shared_lora", "queryable", "full"]
        for function, entry in FUNCTIONS.items():
            column = next(header for header in rows[0] if header.startswith(entry.title))
            means = {m: statistics.fmean(plain_losses(store, function, m, key)) for m in methods}
            best = min(("lora", "shared_lora", "queryable"), key=means.__getitem__)
            bold = [m for m, row in zip(methods, rows, strict=True) if "**" in row[column]]
            assert bold == [best]
            for method, row in zip(methods, rows, strict=True):
                if math.isfinite(means[method]):
                    shown = float(row[column].strip("*").split(" ±")[0])
                    assert shown == pytest.approx(means[method], rel=6e-3)


def test_inf_is_counted_and_never_dropped(store: Store, tmp_path: Path) -> None:
    folder = rendered(store, tmp_path)
    rows = {row["method"]: row for row in markdown_rows(folder / "table1.md")["Equal rank"]}
    assert rows["lora"]["Ackley"] == "inf (1/3)"
    assert rows["queryable"]["Matyas"] == "inf (3/3)"
    losses = [x for x in plain_losses(store, "ackley", "lora", "post_train_loss") if x < math.inf]
    text = (folder / "table1.md").read_text()
    assert f"lora on Ackley (equal\\_rank) {spread(losses)} over 2" in text
    assert "queryable on Matyas (equal\\_rank) none" in text


def test_marks_and_footnotes(store: Store, tmp_path: Path) -> None:
    folder = rendered(store, tmp_path)
    for table in ("table1", "table2", "table2_raw"):
        headers = list(markdown_rows(folder / f"{table}.md")["Equal rank"][0])
        assert [header for header in headers if header[-1] in "‡§"] == ["Griewank§", "Levy‡"]
        text = (folder / f"{table}.md").read_text()
        assert "test R² of full below 0: Levy -0.25 (seed 2)." in text
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
        assert ("Noise floor of the test loss: 0.00250" in text) == (table != "table2_raw")
        assert "Gaps" not in text


def test_backbones_are_counted_once(store: Store, tmp_path: Path) -> None:
    folder = rendered(store, tmp_path)
    rows = {row["function"]: row for row in markdown_rows(folder / "backbones.md")[""]}
    assert len(rows) == len(FUNCTIONS)
    assert rows["Drop-Wave"]["backbones"] == "3"
    assert rows["Drop-Wave"]["validation R²"] == "0.970 ± 0.010"
    assert rows["Drop-Wave"]["loss after shift"] == "0.600 ± 0.10"
    assert len(pd.read_csv(folder / "backbones.csv")) == len(FUNCTIONS) * len(SEEDS)


def test_a_reference_row_serves_every_block(store: Store) -> None:
    cells = [
        cell_of(summary_of("levy", method, 0), budget)
        for budget in BUDGETS
        for method in METHODS
        if budget == "equal_rank" or method not in ("full", "frozen")
    ]
    store.write_study("once", cells)
    blocks = build_blocks(load_study(store, "once"), "test_loss")
    assert [[row.method for row in block.rows] for block in blocks] == [
        ["frozen", "lora", "shared_lora", "queryable", "full"]
    ] * 2


def test_overrides_that_differ_make_rows_of_their_own(store: Store, tmp_path: Path) -> None:
    cells = [cell_of(summary_of("levy", "full", 0), "equal_rank", "experiment=ranks")]
    for rank in (2, 8):
        summary = summary_of("levy", "lora", 0, run_id=f"rank-{rank}", rank=rank, test_loss=rank)
        write_run(store, summary)
        cells.append(cell_of(summary, "equal_rank", "experiment=ranks", f"method.rank={rank}"))
    store.write_study("ranks", cells)
    frame = load_study(store, "ranks")
    (block,) = build_blocks(frame, "test_loss")
    labels = [row.label for row in block.rows]
    assert labels == ["lora (method.rank=2)", "lora (method.rank=8)", "full"]
    assert block.best["levy"] == {0}
    text = markdown(tables.loss_grid(frame, [block], "test_loss", "caption", "label"))
    assert "One seed has no spread" in text
    figure = curves_figure(store, frame)
    assert len({line.get_linestyle() for line in figure.axes[0].lines[:2]}) == 2


LOSS = st.floats(0.0, 1e6) | st.just(math.inf)


@given(st.dictionaries(st.integers(0, 99), LOSS, min_size=1, max_size=9))
def test_estimates_agree_with_numpy(values: dict[int, float]) -> None:
    estimate = Estimate(values)
    finite = np.array([value for value in values.values() if value < math.inf])
    assert estimate.mean == pytest.approx(np.mean(list(values.values())))
    assert estimate.infinite == len(values) - len(finite)
    if len(finite) > 1:
        assert estimate.finite_deviation == pytest.approx(finite.std(ddof=1), abs=1e-9)
    assert ("inf" in spread(list(values.values()))) == (estimate.infinite > 0)


@given(st.floats(1e-12, 1e12))
def test_a_printed_number_keeps_three_digits(value: float) -> None:
    assert float(number(value)) == pytest.approx(value, rel=5.1e-3)


# Gaps


def test_gaps_are_refused_by_name(
    gappy: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tables_command(gappy, tmp_path / "out") == 2
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


def test_a_long_list_of_gaps_is_cut(store: Store) -> None:
    frame = load_study(store, STUDY).assign(status="missing")
    with pytest.raises(UsageError, match=r"and 70 more\. Run `qlexp experiment=made_up`"):
        require_complete(frame, STUDY)


@pytest.mark.parametrize("command", [tables.main, figures_command.main])
@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"--study": "quack"}, "no study 'quack' (stored studies: made_up)"),
        ({"--store": "nowhere"}, "no store at nowhere"),
        ({"--out": "file"}, "Could not write to file"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(
    store: Store, tmp_path: Path, monkeypatch, capsys, *, command, change: dict, wanted: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    options = {"--study": STUDY, "--store": str(store.root), "--out": "out", **change}
    assert command([word for pair in options.items() for word in pair]) == 2
    message = capsys.readouterr().err
    assert wanted in message
    assert message.count("\n") == 1
    assert not Path("nowhere").exists()


def test_an_unknown_function_is_named(store: Store, tmp_path: Path, capsys) -> None:
    arguments = ["--study", STUDY, "--store", str(store.root), "--out", str(tmp_path)]
    assert figures_command.main([*arguments, "--function", "drop_wav"]) == 2
    assert "Did you mean 'drop_wave'?" in capsys.readouterr().err


# The files


def test_tables_are_the_same_bytes_again(store: Store, tmp_path: Path) -> None:
    first = rendered(store, tmp_path / "a")
    second = rendered(store, tmp_path / "b")
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(
        ["runs.csv"]
        + [
            f"{table}.{kind}"
            for table in ("table1", "table2", "table2_raw", "backbones")
            for kind in ("md", "csv", "tex")
        ]
    )
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_no_file_says_where_the_runs_were_kept(store: Store, tmp_path: Path) -> None:
    for path in rendered(store, tmp_path).iterdir():
        assert "/somewhere" not in path.read_text()
        assert str(store.root) not in path.read_text()


def test_csv_files_are_rectangular_and_in_order(store: Store, tmp_path: Path) -> None:
    folder = rendered(store, tmp_path)
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
        == json.loads((store.run_folder("levy-lora-1") / "summary.json").read_text())["test_loss"]
    )


def test_latex_is_well_formed(gappy: Store, tmp_path: Path) -> None:
    folder = rendered(gappy, tmp_path, "--allow-missing")
    for path in folder.glob("*.tex"):
        text = path.read_text()
        assert text.isascii()
        assert "?" not in text
        unescaped = re.sub(r"\\label{.*?}|\\.", "", text)
        assert unescaped.count("{") == unescaped.count("}")
        assert unescaped.count("$") % 2 == 0
        assert "_" not in unescaped
        begun, ended = (re.findall(rf"\\{word}{{([^}}]*)}}", text) for word in ("begin", "end"))
        assert sorted(begun) == sorted(ended)
        columns = len(re.search(r"begin{tabular}{(\w+)}", text)[1])
        body = text[text.index("\\toprule") : text.index("\\bottomrule")]
        rows = [line for line in body.splitlines() if " & " in line]
        assert {line.count("&") + 1 for line in rows} == {columns}
        assert all(line.endswith("\\\\") for line in rows)
    assert "\\textbf{" in (folder / "table1.tex").read_text()
    assert "shared\\_lora$^\\dagger$" in (folder / "table1.tex").read_text()


@given(st.text(max_size=40))
def test_any_text_survives_rendering(text: str) -> None:
    grid = Grid("label", "caption", [text, "b"], [Section(text, [[Text(text), Text("1", True)]])])
    tex = re.sub(r"\\.", "", latex(grid))
    assert tex.isascii()
    assert tex.count("{") == tex.count("}")
    assert not set("_^#") & set(re.sub(r"\$[^$]*\$", "", tex))
    pipes = [len(re.findall(r"(?<!\\)\|", line)) for line in markdown(grid).split("\n")]
    assert pipes.count(3) == 3


# Order and colours


def test_methods_come_in_a_fixed_order() -> None:
    shuffled = ["zeta", "full", "queryable", "full_adamw", "lora", "alpha", "frozen", "dora"]
    assert sorted(shuffled, key=method_order) == [
        *("frozen", "lora", "dora", "queryable", "alpha", "zeta", "full_adamw", "full")
    ]
    assert sorted(["lora_r16", "lora_r4", "equal_rank"], key=budget_order) == [
        *("equal_rank", "lora_r4", "lora_r16")
    ]


def test_named_methods_have_colours_of_their_own() -> None:
    methods = ("frozen", "lora", "dora", "shared_lora", "queryable", "full")
    colours = [style.method_colour(method) for method in methods]
    assert len(set(colours)) == len(colours)
    assert all(matplotlib.colors.is_color_like(style.method_colour(m)) for m in (*methods, "new"))


# The figures


class Tilted(nn.Module):
    """A one-lane model that predicts x_1 + 2 x_2."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def figures_run(store: Store, out: Path, *more: str) -> list[Path]:
    arguments = ["--study", STUDY, "--store", str(store.root), "--out", str(out), *more]
    assert figures_command.main(arguments) == 0
    return sorted((out / STUDY).iterdir())


def check_svg(path: Path) -> None:
    assert ET.parse(path).getroot().tag.endswith("svg")
    assert path.stat().st_size < 500_000
    assert b"dc:date" not in path.read_bytes()


def test_figures_of_a_study(store: Store, tmp_path: Path) -> None:
    files = figures_run(store, tmp_path)
    assert [path.name for path in files] == [
        *("curves_equal_rank.svg", "curves_lora_r4.svg", "targets.svg")
    ]
    for path in files:
        check_svg(path)
    again = figures_run(store, tmp_path / "again")
    assert [path.read_bytes() for path in files] == [path.read_bytes() for path in again]


def test_figures_of_a_function(gappy: Store, tmp_path: Path, monkeypatch) -> None:
    asked = []

    def load_run(store: Store, identity: str) -> tuple[nn.Module, object]:
        asked.append(identity)
        return Tilted(), problem_of(stored_config(store, identity))

    monkeypatch.setattr(figures_command, "load_run", load_run)
    files = figures_run(gappy, tmp_path, "--function", "matyas")
    assert [path.name for path in files] == [
        f"{kind}_{budget}_matyas.svg" for kind in ("curves", "predictions") for budget in BUDGETS
    ]
    for path in files:
        check_svg(path)
    drawn = [f"matyas-{method}-0" for method in ("frozen", "lora", "shared_lora", "full")]
    assert asked == drawn * 2  # queryable diverged: named, not drawn


def test_curves_are_the_mean_over_seeds(store: Store) -> None:
    frame = load_study(store, STUDY)
    frame = frame[(frame["budget"] == "equal_rank") & (frame["function"] == "ackley")]
    figure = curves_figure(store, frame)
    (axis,) = figure.axes
    assert axis.get_yscale() == "log"
    assert axis.get_xlabel() == "update"
    assert axis.get_ylabel() == "training loss (standardised)"
    by_colour = {line.get_color(): line for line in axis.lines}
    line = by_colour[style.method_colour("full")]
    summaries = [store.summary(f"ackley-full-{seed}") for seed in SEEDS]
    expected = np.mean([curves_of(s)["loss"] for s in summaries if s], axis=0)
    np.testing.assert_allclose(line.get_ydata(), expected)
    assert np.isnan(by_colour[style.method_colour("lora")].get_ydata()[-1])
    assert [text.get_text() for text in axis.texts] == ["lora: 1/3 diverged"]
    frozen = by_colour[style.method_colour("frozen")].get_ydata()
    assert frozen[0] == pytest.approx(
        statistics.fmean(plain_losses(store, "ackley", "frozen", "post_train_loss"))
    )
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        *("frozen", "lora", "shared_lora", "queryable", "full", "variance of the noise")
    ]


def test_gaps_are_named_in_the_curves(gappy: Store) -> None:
    frame = load_study(gappy, STUDY)
    frame = frame[(frame["budget"] == "equal_rank") & (frame["function"] == "levy")]
    (axis,) = curves_figure(gappy, frame).axes
    assert [text.get_text() for text in axis.texts] == ["lora: 3/3 missing"]


def test_unreadable_curves_are_refused(store: Store, tmp_path: Path, capsys) -> None:
    (store.run_folder("levy-lora-1") / "curves.parquet").write_text("nothing")
    arguments = ["--study", STUDY, "--store", str(store.root), "--out", str(tmp_path)]
    assert figures_command.main(arguments) == 2
    assert "curves of run levy-lora-1 are not readable" in capsys.readouterr().err


def test_predictions_fall_where_they_belong() -> None:
    points = grid(5)
    values = evaluate(Tilted(), torch.as_tensor(points[None], dtype=torch.float32))
    np.testing.assert_allclose(values, points[:, 0] + 2 * points[:, 1], atol=1e-6)
    assert points[1].tolist() == [-0.5, -1.0]


def test_prediction_panels_are_labelled() -> None:
    problem = problem_of(composed("function=matyas"))
    points = torch.as_tensor(grid(SIDE)[None], dtype=torch.float32)
    predictions = [
        Prediction("lora", "", "done", problem, evaluate(Tilted(), points)),
        Prediction("queryable", "", "diverged", problem),
        Prediction("queryable", "", "missing"),
    ]
    figure = predictions_figure("matyas", 0, predictions)
    labels = {axis.get_xlabel() for axis in figure.axes if axis.axison} - {""}
    assert labels == {"x₁ (scaled)"}
    bars = {axis.get_ylabel() for axis in figure.axes} - {"x₂ (scaled)", ""}
    assert bars == {"value (standardised)", "error (standardised)"}
    assert [t.get_text() for axis in figure.axes for t in axis.texts] == [
        *("diverged", "diverged", "missing", "missing")
    ]


def test_every_row_is_held_against_its_own_target() -> None:
    predictions = []
    for strength in (0.1, 0.4):
        problem = problem_of(composed("function=matyas", f"shift.strength={strength}"))
        values = problem.target(grid(SIDE))
        predictions.append(Prediction("lora", f"{strength}", "done", problem, values + 0.5))
    figure = predictions_figure("matyas", 0, predictions)
    errors = [axis for axis in figure.axes if axis.get_title().endswith("error")]
    assert len(errors) == 2
    for axis in errors:
        assert axis.collections[0].levels[-1] == pytest.approx(0.5)


def test_the_target_that_is_drawn_is_one_that_is_served() -> None:
    """Full strength and full rotation at once are no target of several."""
    config = composed("function=matyas", "shift.targets=4", "shift.rotation=30", "data.noise=0")
    problem = problem_of(config)
    rows = problem.adapt.target == 0
    np.testing.assert_allclose(problem.target(problem.adapt.x[rows]), problem.adapt.y[rows])
    titles = [axis.get_title() for axis in targets_figure({"matyas": Drawn(problem)}).axes]
    assert "first of 4 targets" in titles
    own = Prediction("lora", "", "done", problem, problem.target(grid(SIDE)))
    titles = [axis.get_title() for axis in predictions_figure("matyas", 0, [own]).axes]
    assert "first of 4 targets" in titles


def test_the_setting_that_is_drawn_is_named_where_the_study_sweeps_it(tmp_path: Path) -> None:
    store, cells = Store(tmp_path / "store"), []
    for strength in (0.1, 0.2):
        summary = summary_of("matyas", "lora", 0, run_id=f"{int(10 * strength)}")
        summary["config"]["shift"]["strength"] = strength
        write_run(store, summary)
        cells.append(cell_of(summary, "equal_rank", f"shift.strength={strength}", "method.rank=4"))
    store.write_study(STUDY, cells)
    frame = load_study(store, STUDY)
    drawn = problems_of(store, frame)["matyas"]
    assert drawn.setting == "shift.strength=0.1"
    assert drawn.problem.shift.strength == 0.1
    titles = [axis.get_title() for axis in targets_figure({"matyas": drawn}).axes]
    assert "target\nshift.strength=0.1" in titles
    assert problems_of(store, frame[:1])["matyas"].setting == ""


def test_predictions_of_methods_that_read_a_text(studied: Store, tmp_path: Path) -> None:
    arguments = ["--study", "tiny", "--store", str(studied.root), "--out", str(tmp_path)]
    assert figures_command.main([*arguments, "--function", "matyas"]) == 0
    check_svg(tmp_path / "tiny" / "predictions_equal_rank_matyas.svg")


def test_a_store_that_cannot_be_read_is_not_blamed_on_the_folder(
    store: Store, tmp_path: Path, monkeypatch
) -> None:
    def broken(*args: object) -> None:
        raise OSError("a broken disk")

    monkeypatch.setattr(figures_command, "curves_figure", broken)
    arguments = ["--study", STUDY, "--store", str(store.root), "--out", str(tmp_path)]
    with pytest.raises(OSError, match="a broken disk"):
        figures_command.main(arguments)


def test_diverging_levels_are_symmetric() -> None:
    levels = levels_around_zero([np.array([-3.0, 1.0])])
    np.testing.assert_allclose(levels, -levels[::-1], atol=1e-12)
    assert levels[-1] == 3.0
