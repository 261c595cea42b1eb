"""The long table of a study, and the stores that no command reads."""

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from made_up import (
    BUDGETS,
    FUNCTIONS,
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
from analysis.load import LOSSES, load_study, open_store, require_complete
from analysis.paper import routing, theory
from analysis.settings import swept
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
