"""The long table of a study, and the stores that no command reads."""

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from made_up import (
    BUDGETS,
    FUNCTIONS,
    LOSSES,
    METHODS,
    NOISE,
    SEEDS,
    STUDY,
    cell_of,
    config_of,
    render,
    summary_of,
    write_run,
)

from analysis.__main__ import main
from analysis.curves import layer_columns
from analysis.load import joined_runs, load_study, open_store, read_runs, require_complete
from analysis.paper import routing, theory
from analysis.settings import swept
from analysis.table import with_columns
from analysis.views import figures
from qlexp.errors import UsageError
from qlexp.store.manifest import Cell
from qlexp.store.store import Store


def test_load_study_has_a_row_a_cell(made_up: Store) -> None:
    frame = load_study(made_up, STUDY)
    assert len(frame) == len(FUNCTIONS) * len(METHODS) * len(SEEDS) * len(BUDGETS)
    assert list(frame["budget"].unique()) == list(BUDGETS)
    assert list(frame["function"].unique()) == list(FUNCTIONS)
    assert list(frame["method"].unique()) == ["frozen", "lora", "shared_lora", "queryable", "full"]
    assert set(frame["config.data.noise"]) == {NOISE}
    assert set(frame["overrides"]) == {""}


def test_a_diverged_run_has_infinite_losses(made_up: Store) -> None:
    frame = load_study(made_up, STUDY)
    diverged = frame[frame["status"] == "diverged"]
    assert len(diverged) == 2 * (1 + len(SEEDS))
    assert np.isposinf(diverged[list(LOSSES)]).all(axis=None)
    assert np.isfinite(diverged["frozen_loss"]).all()
    assert (frame.loc[frame["function"] == "matyas", "test_r2"].min()) == -math.inf


def test_made_up_runs_hold_what_a_run_holds(studied: Store) -> None:
    (real, *_) = (studied.summary(cell.run_id) for cell in studied.study("tiny"))
    made = summary_of("matyas", "lora", 0)
    assert set(made) == set(real or ())
    lora = next(
        summary
        for cell in studied.study("tiny")
        if cell.method == "lora" and (summary := studied.summary(cell.run_id))
    )
    assert set(made["path"]) == set(lora["path"])


NEWER = ("learnt_loss", "learnt_r2", "frozen_validation_loss", "frozen_loss_clean")


def older(summary: dict) -> dict:
    """The same run as numerics version 1 stored it."""
    gone = (*NEWER, "worst_share", "beyond_head", "path")
    return {name: value for name, value in summary.items() if name not in gone}


def test_an_older_run_is_read_by_what_it_has(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    summaries = [
        older(summary_of("matyas", "lora", 0)),
        older(summary_of("matyas", "full", 0, test_r2=-0.2)),
        older(summary_of("matyas", "queryable", 0, status="diverged", validation_loss=None)),
    ]
    for summary in summaries:
        write_run(store, summary)
    store.write_study(STUDY, [cell_of(summary, "lora_r4") for summary in summaries])
    frame = load_study(store, STUDY)
    for cell in frame.itertuples():
        assert cell.learnt_loss == cell.validation_loss
        assert cell.learnt_r2 == cell.test_r2
        assert cell.frozen_validation_loss == cell.frozen_loss_clean == cell.frozen_loss
    assert frame[["worst_share", "beyond_head"]].isna().all(axis=None)
    whole = with_columns(frame)
    assert whole["not_learnable"].all()
    assert not whole["beyond_reach"].any()
    assert render("tables", store, tmp_path / "out") == 0
    table = read_runs(tmp_path / "out" / STUDY / "runs.csv")
    pd.testing.assert_frame_equal(table[list(NEWER)], frame[list(NEWER)])


def test_a_table_of_older_runs_is_read_by_what_it_has(made_up: Store, tmp_path: Path) -> None:
    frame = read_runs(runs_file(made_up, tmp_path, lambda cells: cells.drop(columns=[*NEWER])))
    for name, stands_in in zip(
        NEWER, ("validation_loss", "test_r2", "frozen_loss", "frozen_loss"), strict=True
    ):
        pd.testing.assert_series_equal(frame[name], frame[stands_in], check_names=False)


# Parts of a study


def runs_file(
    store: Store, folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame], name: str = "part"
) -> Path:
    """A changed runs.csv of the study."""
    folder = folder / name
    assert render("tables", store, folder, "--allow-missing") == 0
    cells = pd.read_csv(folder / STUDY / "runs.csv", dtype=str, keep_default_na=False)
    path = folder / "runs.csv"
    change(cells).to_csv(path, index=False)
    return path


def split(store: Store, tmp_path: Path, *conditions: str) -> list[Path]:
    return [
        runs_file(store, tmp_path, lambda cells, own=own: cells.query(own), f"part{i}")
        for i, own in enumerate(conditions)
    ]


@pytest.mark.parametrize(
    "conditions",
    [
        ("seed == '0'", "seed == '1'", "seed == '2'"),
        ("function == 'levy'", "function != 'levy'"),
        ("method != 'lora'", "method == 'lora'"),
        ("function != 'levy'", "function != 'ackley'"),  # most of it twice
        ("index >= 0", "index >= 0"),
        ("index < 0", "index >= 0"),
    ],
)
def test_parts_of_a_study_are_the_whole(
    made_up: Store, tmp_path: Path, conditions: tuple[str, ...]
) -> None:
    (whole,) = split(made_up, tmp_path / "whole", "index >= 0")
    joined = joined_runs(split(made_up, tmp_path, *conditions))
    pd.testing.assert_frame_equal(joined, joined_runs([whole]), check_dtype=False)
    loaded = load_study(made_up, STUDY)
    names = ["budget", "function", "method", "seed", "run_id", "status", *LOSSES, "worst_share"]
    pd.testing.assert_frame_equal(joined[names], loaded[names], check_dtype=False)


def test_a_gap_is_filled_by_another_part(gappy: Store, tmp_path: Path, monkeypatch) -> None:
    (with_gaps,) = split(gappy, tmp_path / "gaps", "index >= 0")
    for path in gappy.root.glob("runs/*"):
        if not (path / "summary.json").exists():
            function, method, seed = path.name.split("-")
            write_run(gappy, summary_of(function, method, int(seed)))
    failed = gappy.run_folder("drop_wave-queryable-2") / "summary.json"
    failed.unlink()
    write_run(gappy, summary_of("drop_wave", "queryable", 2))
    rest = split(gappy, tmp_path, "function in ['drop_wave', 'levy', 'ackley']")
    out = tmp_path / "out"
    for order in ([with_gaps, *rest], [*rest, with_gaps]):
        joined = joined_runs(order)
        assert len(joined) == len(load_study(gappy, STUDY))
        assert set(joined["status"]) == {"done", "diverged"}
        files = [str(path) for path in order]
        assert main(["stats", STUDY, "--runs", *files, f"--out={out}"]) == 0
    assert main(["stats", STUDY, f"--runs={with_gaps}", f"--out={out}"]) == 2


@pytest.mark.parametrize(
    ("column", "value", "wanted"),
    [
        ("test_loss", "0.5", "disagree in test_loss of levy-lora-1: give"),
        ("run_id", "another", "disagree in run_id of equal_rank, levy, lora, 1: give"),
    ],
)
def test_parts_that_disagree_are_refused(
    made_up: Store, tmp_path: Path, capsys, *, column: str, value: str, wanted: str
) -> None:
    def change(cells: pd.DataFrame) -> pd.DataFrame:
        place = cells["run_id"] == "levy-lora-1"
        return cells.assign(**{column: cells[column].mask(place, value)})

    parts = [
        runs_file(made_up, tmp_path, lambda cells: cells, "one"),
        runs_file(made_up, tmp_path, change, "other"),
    ]
    capsys.readouterr()
    files = [str(path) for path in parts]
    assert main(["tables", STUDY, "--runs", *files, f"--out={tmp_path / 'out'}"]) == 2
    message = capsys.readouterr().err
    assert wanted in message
    assert message.count("\n") == 1
    with pytest.raises(UsageError, match="is not the runs"):
        joined_runs([parts[0], tmp_path / "none.csv"])


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


def test_overrides_in_other_words_are_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path)
    spellings = [
        ("trainer.adapt.learning_rate=5e-3", "+data.noise=0.1", "optimizer=soap"),
        ("optimizer=soap", "data.noise=0.10", "trainer.adapt.learning_rate=0.005"),
        ("data.noise=.1", "trainer.adapt.learning_rate=0.0050", "+optimizer=soap"),
    ]
    cells = []
    for seed in range(3):
        summary = summary_of("matyas", "lora", seed)
        write_run(store, summary)
        cells.append(cell_of(summary, "lora_r4", "data.adapt=75"))
        words = spellings if seed == 0 else spellings[seed : seed + 1]
        cells += [cell_of(summary, "lora_r4", *own) for own in words]
    store.write_study(STUDY, cells)
    frame = load_study(store, STUDY)
    texts = frame["overrides"].value_counts().to_dict()
    assert texts == {
        "data.adapt=32; trainer.adapt.learning_rate=0.005; data.noise=0.1; optimizer=soap": 3,
        "data.adapt=75; trainer.adapt.learning_rate=0.0005; data.noise=0.05": 3,
    }
    assert frame["settings"][0]["trainer.adapt.learning_rate"] == 0.005


def test_what_was_not_given_to_a_cell_is_what_its_run_has(tmp_path: Path) -> None:
    """Another precision, and a field that the study gives to one of two methods that have it."""
    store, cells = Store(tmp_path), []
    rank = {"config": config_of("matyas", "lora", 0) | {"method": {"name": "lora", "rank": 4}}}
    for method, more, words in (
        ("lora", rank, ()),
        ("lora", rank, ("precision=float64",)),
        ("queryable", rank, ("method.rank=8",)),
        ("queryable", rank, ()),
        ("full", {}, ()),
    ):
        summary = summary_of("matyas", method, 0, run_id=f"{method}-{words}", **more)
        cells.append(cell_of(summary, "lora_r4", *words))
    store.write_study(STUDY, cells)
    frame = load_study(store, STUDY)
    assert list(zip(frame["method"], frame["overrides"], strict=True)) == [
        ("lora", "precision=float32"),
        ("lora", "precision=float64"),
        ("queryable", "precision=float32; method.rank=4"),
        ("queryable", "precision=float32; method.rank=8"),
        ("full", "precision=float32"),
    ]
    assert swept(frame) == {"precision": ["float32", "float64"], "method.rank": ["4", "8"]}


def test_two_runs_whose_overrides_say_the_same_are_refused(tmp_path: Path) -> None:
    store, cells = Store(tmp_path), []
    for name, words in (
        ("one", ("data.noise=1", "data.adapt=2")),
        ("two", ("data.adapt=2", "data.noise=1.0")),
        ("three", ("data.test=3",)),
    ):
        summary = summary_of("matyas", "lora", 0, run_id=name)
        write_run(store, summary)
        cells.append(cell_of(summary, "lora_r4", *words))
    store.write_study(STUDY, cells)
    with pytest.raises(UsageError, match="2 different runs called lora on matyas"):
        load_study(store, STUDY)


def test_layers_come_in_the_order_of_their_numbers() -> None:
    names = [f"gradient_norm.{part}" for part in ("layer_10", "bank", "layer_2", "layer_0")]
    assert layer_columns(["step", *names]) == [names[3], names[2], names[0]]
    assert layer_columns(["step"]) == []


# Refusals


def test_a_command_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no store"):
        open_store(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_study_of_which_nothing_is_stored(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_study("empty", [cell_of(summary_of("levy", "lora", 0), "equal_rank")])
    frame = load_study(store, "empty")
    assert list(frame["status"]) == ["missing"]
    given = (store, tmp_path / "out")
    assert render("tables", *given, study="empty") == 2
    assert render("tables", *given, "--allow-missing", study="empty") == 0
    assert render("figures", *given, "--allow-missing", study="empty") == 2


def test_two_runs_of_one_name_are_refused(made_up: Store) -> None:
    twins = [Cell(name, "levy", "lora", 0, "equal_rank") for name in ("levy-lora-0", "other")]
    made_up.write_study("twins", twins)
    with pytest.raises(UsageError, match="2 different runs called lora on levy, seed 0"):
        load_study(made_up, "twins")


@pytest.mark.parametrize(
    "text", ["", "{", "3", '{"schema": 2}', '{"schema": 2, "settings": {}, "cells": [3]}', "[]"]
)
def test_an_unusable_manifest_is_refused(made_up: Store, text: str) -> None:
    (made_up.root / "studies" / "bad.json").write_text(text)
    with pytest.raises(UsageError, match="bad"):
        load_study(made_up, "bad")


@pytest.mark.parametrize("change", [{"test_loss": "high"}, {"frozen_loss": [1]}])
def test_an_unusable_summary_is_refused(tmp_path: Path, change: dict) -> None:
    store = Store(tmp_path)
    summary = summary_of("levy", "lora", 0, **change)
    write_run(store, summary)
    store.write_study("one", [cell_of(summary, "equal_rank")])
    with pytest.raises(UsageError, match="levy-lora-0"):
        load_study(store, "one")


def test_a_long_list_of_gaps_is_cut(made_up: Store) -> None:
    frame = load_study(made_up, STUDY).assign(status="missing")
    with pytest.raises(UsageError, match=r"and 70 more\. Run `qlexp experiment=made_up`"):
        require_complete(frame, STUDY)


@pytest.mark.parametrize("view", ["tables", "figures"])
@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"study": "quack"}, "no study 'quack' (stored studies: made_up)"),
        ({"--store": "nowhere"}, "no store at nowhere"),
        ({"--out": "file"}, "Could not write to file"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(
    made_up: Store, tmp_path: Path, monkeypatch, capsys, *, view, change: dict, wanted: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    options = {"--store": str(made_up.root), "--out": "out", **change}
    study = options.pop("study", STUDY)
    assert main([view, study, *(f"{name}={value}" for name, value in options.items())]) == 2
    message = capsys.readouterr().err
    assert wanted in message
    assert message.count("\n") == 1
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("view", "read"),
    [(figures, "curves_figure"), (routing, "load_trained"), (theory, "load_trained")],
)
def test_a_store_that_cannot_be_read_is_not_blamed_on_the_folder(
    studied: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: ModuleType, read: str
) -> None:
    def broken(*args: object) -> None:
        raise OSError("a broken disk")

    monkeypatch.setattr(view, read, broken)
    with pytest.raises(OSError, match="a broken disk"):
        render(view.__name__.rpartition(".")[2], studied, tmp_path, study="tiny")
