"""Tuning: the best trial by validation, equally many for all, and a mark at the grid's edge."""

import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import (
    LEARNING_RATE,
    LOSSES,
    SCORES,
    cell_of,
    markdown_rows,
    render,
    summary_of,
    write_run,
)
from random_tables import QUALITY, named

from analysis.cells import loss_cells
from analysis.load import incomplete, load_study
from analysis.tuning import Cost, tune
from qlexp.errors import UsageError
from qlexp.store.files import write_folder
from qlexp.store.store import Store

RATES = ("0.001", "0.002", "0.004")
Losses = dict[tuple[str, str, int], float]  # validation loss by method, rate, seed


def fill(store: Store, validation: Losses, test: Losses | None = None) -> pd.DataFrame:
    """A study "tuned" on levy; an infinite validation loss is a diverged run."""
    cells = []
    for (method, rate, seed), loss in validation.items():
        changes: dict[str, object] = {"validation_loss": loss}
        if test is not None:
            changes |= dict.fromkeys(("test_loss", "test_loss_clean"), test[method, rate, seed])
        if not math.isfinite(loss):
            changes = {"status": "diverged", **dict.fromkeys((*LOSSES, *SCORES))}
        identity = f"{method}-{rate}-{seed}"
        summary = summary_of("levy", method, seed, run_id=identity, **changes)
        write_run(store, summary)
        cells.append(cell_of(summary, "equal_rank", "experiment=tuned", f"{LEARNING_RATE}={rate}"))
    store.write_study("tuned", cells)
    return load_study(store, "tuned")


def kept_rates(frame: pd.DataFrame, *settings: str) -> dict[str, str]:
    _, tuning = tune(frame, settings or (LEARNING_RATE,))
    return {choice.label: choice.trial[LEARNING_RATE] for choice in tuning.choices}


def by_rate(**methods: tuple[float, float, float]) -> Losses:
    """One seed, a loss for each of RATES."""
    return {
        (method, rate, 0): loss
        for method, losses in methods.items()
        for rate, loss in zip(RATES, losses, strict=True)
    }


LOSS = st.floats(1e-3, 9.0) | st.just(math.inf)


@settings(max_examples=25, deadline=None)
@given(st.lists(LOSS, min_size=9, max_size=9))
def test_the_kept_trial_is_the_argmin_of_the_mean_validation_loss(losses: list[float]) -> None:
    cells = [(rate, seed) for rate in RATES for seed in range(3)]
    frame = pd.DataFrame(
        {
            "budget": "equal_rank",
            "method": "lora",
            "function": "levy",
            "overrides": [f"{LEARNING_RATE}={rate}" for rate, _ in cells],
            "seed": [seed for _, seed in cells],
            "run_id": [f"{rate}-{seed}" for rate, seed in cells],
            "trainable_parameters": 1000,
            "reference_parameters": 1000,
            "status": ["done" if math.isfinite(loss) else "diverged" for loss in losses],
            "validation_loss": losses,
            **QUALITY,
            "test_loss": 0.1,
        }
    )
    frame = named(frame)
    own = RATES.index(kept_rates(frame)["lora"])
    sums = [sum(losses[3 * i : 3 * i + 3]) for i in range(3)]
    if math.isfinite(min(sums)):
        assert sums[own] == pytest.approx(min(sums), rel=1e-12)
    else:
        lost = [losses[3 * i : 3 * i + 3].count(math.inf) for i in range(3)]
        assert lost[own] == min(lost)


def test_the_test_set_has_no_part(tmp_path: Path) -> None:
    validation = by_rate(lora=(0.3, 0.1, 0.2), queryable=(0.1, 0.2, 0.3))
    misleading = by_rate(lora=(0.5, 0.9, 0.1), queryable=(0.9, 0.1, 0.5))
    frame = fill(Store(tmp_path), validation, misleading)
    assert kept_rates(frame) == {"lora": "0.002", "queryable": "0.001"}
    tuned, _ = tune(frame)
    assert tuned["test_loss"].tolist() == [0.9, 0.9]
    assert set(tuned["overrides"]) == {""}


def test_equal_trials_keep_the_first_of_the_grid(tmp_path: Path) -> None:
    assert kept_rates(fill(Store(tmp_path), by_rate(lora=(0.2, 0.1, 0.1)))) == {"lora": "0.002"}


def test_a_diverged_trial_is_kept_only_among_its_like(tmp_path: Path) -> None:
    one_seed_lost = by_rate(lora=(math.inf, 0.01, 0.5))
    other_seed = by_rate(lora=(0.1, math.inf, 0.5))
    one_seed_lost |= {("lora", rate, 1): loss for (_, rate, _), loss in other_seed.items()}
    assert kept_rates(fill(Store(tmp_path / "some"), one_seed_lost)) == {"lora": "0.004"}
    all_lost = by_rate(lora=(math.inf, math.inf, math.inf))
    tuned, tuning = tune(fill(Store(tmp_path / "all"), all_lost))
    assert tuned["validation_loss"].tolist() == [math.inf]
    assert len(tuning.choices) == 1


def test_a_trial_with_a_gap_is_not_kept_before_a_whole_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    losses = by_rate(lora=(0.1, 0.2, 0.3))
    fill(store, losses | {("lora", rate, 1): loss for (_, rate, _), loss in losses.items()})
    (store.run_folder("lora-0.001-1") / "summary.json").unlink()
    assert kept_rates(load_study(store, "tuned")) == {"lora": "0.002"}


def test_unequal_numbers_of_trials_are_refused(tmp_path: Path, capsys) -> None:
    losses = by_rate(lora=(0.1, 0.2, 0.3), queryable=(0.1, 0.2, 0.3))
    del losses["queryable", "0.004", 0]
    frame = fill(Store(tmp_path), losses)
    with pytest.raises(UsageError, match=r"2 for queryable on levy .*; 3 for lora on levy"):
        tune(frame)
    given = ("tables", Store(tmp_path), tmp_path / "out")
    assert render(*given, study="tuned") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert render(*given, "--tune", study="tuned") == 0
    rows = markdown_rows(tmp_path / "out" / "tuned" / "table2.md")["Equal rank"]
    assert len(rows) == len(losses)


def test_the_frozen_backbone_needs_no_trials(tmp_path: Path) -> None:
    losses = by_rate(lora=(0.1, 0.2, 0.3)) | {("frozen", "0.002", 0): 0.5}
    tuned, tuning = tune(fill(Store(tmp_path), losses))
    assert tuned["method"].tolist() == ["frozen", "lora"]
    assert not any(choice.edges for choice in tuning.choices if choice.label == "frozen")


@pytest.mark.parametrize(("best", "edge"), [(0, True), (1, False), (2, True)])
def test_the_edge_of_the_grid_is_marked(tmp_path: Path, best: int, edge: bool) -> None:
    losses = [0.2, 0.2, 0.2]
    losses[best] = 0.1
    fill(Store(tmp_path), by_rate(lora=(losses[0], losses[1], losses[2])))
    assert render("tables", Store(tmp_path), tmp_path / "out", study="tuned") == 0
    folder = tmp_path / "out" / "tuned"
    (row,) = markdown_rows(folder / "table1.md")["Equal rank"]
    assert ("¶" in row["Levy"]) == edge
    text = (folder / "table1.md").read_text().replace("\\", "")
    assert "Tuned: 3 trials for every method" in text
    assert f"{LEARNING_RATE} in 0.001, 0.002, 0.004" in text
    assert f"lora (equal_rank) Levy {RATES[best]}" in text
    assert ("edge of the grid" in text) == edge
    (cell,) = pd.read_csv(folder / "table1.csv").itertuples()
    assert (cell.trials, cell.grid_edge) == (3, edge)
    assert len(pd.read_csv(folder / "runs.csv")) == 3
    assert ("\\P{}" in (folder / "table1.tex").read_text()) == edge


def test_statistics_compare_each_method_at_its_own_trial(tmp_path: Path) -> None:
    losses = by_rate(lora=(0.4, 0.2, 0.8), queryable=(0.9, 0.3, 0.1), full=(9.0, 9.0, 0.1))
    store, folder = Store(tmp_path), tmp_path / "out"
    fill(store, losses, losses)
    assert render("stats", store, folder, study="tuned") == 0
    (lora, queryable) = pd.read_csv(folder / "tuned" / "stats.csv").itertuples()
    assert (lora.method, queryable.method) == ("lora", "queryable")
    assert queryable.iqm == pytest.approx(math.log(0.1 / 0.2))
    text = (folder / "tuned" / "stats.md").read_text().replace("\\", "")
    assert "Tuned: 3 trials for every method" in text
    assert render("stats", store, folder, "--tune", study="tuned") == 0
    assert len(pd.read_csv(folder / "tuned" / "stats.csv")) == 6


def test_a_function_is_not_given_up_for_one_bad_trial_of_full_finetuning(tmp_path: Path) -> None:
    store, folder = Store(tmp_path), tmp_path / "out"
    fill(store, by_rate(lora=(0.4, 0.2, 0.8), full=(0.1, 9.0, 9.0)))
    for rate in RATES[1:]:
        identity = f"full-{rate}-0"
        (store.run_folder(identity) / "summary.json").unlink()
        write_run(
            store,
            summary_of("levy", "full", 0, run_id=identity, learnt_r2=-1.0, validation_loss=9.0),
        )
    assert render("stats", store, folder, study="tuned") == 0
    assert pd.read_csv(folder / "tuned" / "stats.csv")["method"].tolist() == ["lora"]


def test_a_study_without_trials_is_left_as_it_is(tmp_path: Path) -> None:
    losses = {(method, "0.001", seed): 0.1 for method in ("lora", "queryable") for seed in (0, 1)}
    frame = fill(Store(tmp_path), losses)
    tuned, tuning = tune(frame)
    assert tuned is frame
    assert tuning.notes() == []


@pytest.mark.parametrize("view", ["tables", "stats", "claims", "report"])
@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("trainer.adapt.learnin_rate", f"Did you mean '{LEARNING_RATE}'?"),
        ("data.noise", "'data.noise' is no trial"),
    ],
)
def test_what_was_never_tuned_is_refused(
    tmp_path: Path, capsys, view: str, setting: str, text: str
) -> None:
    store, words = Store(tmp_path), ("--tune", LEARNING_RATE, setting)
    fill(store, by_rate(lora=(0.1, 0.2, 0.3), queryable=(0.1, 0.2, 0.3)))
    assert render(view, store, tmp_path / "out", *words, study="tuned") == 2
    message = capsys.readouterr().err
    assert text in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "setting", ["data.noise", "shift.strength", "backbone", "trainer.pretrain.epochs"]
)
def test_a_condition_is_no_trial_even_where_it_is_swept(tmp_path: Path, setting: str) -> None:
    frame = fill(Store(tmp_path), by_rate(lora=(0.1, 0.2, 0.3)))
    frame = named(frame.assign(overrides=frame["overrides"].str.replace(LEARNING_RATE, setting)))
    with pytest.raises(UsageError, match=f"'{setting}' is no trial"):
        tune(frame, [setting])


def test_a_rate_that_is_not_swept_is_refused_where_it_is_named(tmp_path: Path) -> None:
    frame = fill(Store(tmp_path), {("lora", "0.001", 0): 0.1})
    with pytest.raises(UsageError, match="sweeps nothing to tune"):
        tune(frame, [LEARNING_RATE])


RANKS = (2, 4, 8)
SIZE = {"lora": 100, "queryable": 102, "dora": 130}  # parameters a rank


def sized(losses: dict[tuple[str, str, int], float]) -> pd.DataFrame:
    """A study that sweeps the rank; by function, method and rank the validation loss."""
    rows = [
        {
            "budget": "tuned",
            "function": function,
            "method": method,
            "overrides": f"budget.rank={rank}",
            "seed": 0,
            "run_id": f"{function}-{method}-{rank}",
            "status": "done",
            "error": None,
            "validation_loss": loss,
            **QUALITY,
            "test_loss": 1.0,
            "trainable_parameters": rank * SIZE[method],
            "reference_parameters": rank * SIZE["lora"],
        }
        for (function, method, rank), loss in losses.items()
    ]
    return named(pd.DataFrame(rows))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=18, max_size=18))
def test_a_tuned_size_is_held_against_the_lora_beside_it(losses: list[float]) -> None:
    places = list(product(("levy", "matyas"), SIZE, RANKS))
    tuned, tuning = tune(sized(dict(zip(places, losses, strict=True))), ["budget.rank"])
    for cell in tuned.itertuples():
        (lora,) = (
            other.trainable_parameters
            for other in tuned.itertuples()
            if (other.method, other.function) == ("lora", cell.function)
        )
        assert cell.reference_parameters == lora
    assert "Sizes were tuned in tuned" in tuning.notes()[-1]


def test_a_row_is_marked_where_it_is_larger_than_the_lora_beside_it() -> None:
    """LoRA and queryable keep rank 2 on levy; on matyas LoRA keeps 8, and queryable `other`."""
    for other, marked in ((8, False), (4, True)):
        kept = {("lora", "levy"): 2, ("queryable", "levy"): 2}
        kept |= {("lora", "matyas"): 8, ("queryable", "matyas"): other}
        losses = {(f, m, rank): abs(rank - best) for (m, f), best in kept.items() for rank in RANKS}
        tuned, _ = tune(sized(losses), ["budget.rank"])
        rows = (
            loss_cells(tuned.assign(reading=False), "test_loss")
            .drop_duplicates("method")
            .set_index("method")
        )
        assert rows["off_budget"].to_dict() == {"lora": False, "queryable": marked}


def test_sizes_without_a_lora_to_stand_beside_keep_their_reference() -> None:
    losses = {("levy", "queryable", rank): 1.0 / rank for rank in RANKS}
    tuned, _ = tune(sized(losses), ["budget.rank"])
    assert tuned["reference_parameters"].tolist() == [800]


def test_a_tuned_rate_leaves_the_reference_alone(tmp_path: Path) -> None:
    frame = fill(Store(tmp_path), by_rate(lora=(0.1, 0.2, 0.3), queryable=(0.1, 0.2, 0.3)))
    own = frame["method"].map({"lora": 500, "queryable": 1000})
    tuned, tuning = tune(frame.assign(reference_parameters=own))
    assert tuned["reference_parameters"].tolist() == [500, 1000]
    assert not any("Sizes" in note for note in tuning.notes())


def test_the_same_run_is_one_trial() -> None:
    losses = {("levy", method, rank): 1.0 / rank for method in SIZE for rank in RANKS}
    frame = sized(losses)
    blind = frame["method"] == "dora"
    frame.loc[blind, "run_id"] = "one"
    with pytest.raises(UsageError, match=r"1 for dora on levy .*; 3 for lora on levy"):
        tune(frame, ["budget.rank"])
    frozen = frame.replace({"method": {"dora": "frozen"}})
    _, tuning = tune(frozen, ["budget.rank"])
    assert {choice.label: choice.trials for choice in tuning.choices} == {
        "frozen": 1,
        "lora": 3,
        "queryable": 3,
    }
    assert "Tuned: 3 trials for every method" in tuning.notes()[0]


def stopped(method: str, rate: str, seed: int = 0, rung: int = 8) -> dict[str, object]:
    """The summary of a trial that a rung has not kept."""
    whole = summary_of("levy", method, seed, run_id=f"{method}-{rate}-{seed}")
    names = ("run_id", "function", "method", "seed", "config")
    steps = whole["steps"] // rung
    told = {"status": "stopped", "rung": rung, "steps": steps, "planned_steps": whole["steps"]}
    return {**{name: whole[name] for name in names}, **told, "rung_validation_loss": 1e-6}


def tuned_study(store: Store, ends: dict[str, tuple[float | None, ...]], *more: str) -> None:
    """By method the validation losses at RATES and `more`, which were added; None: it stopped."""
    cells = []
    for method, losses in ends.items():
        for step, (rate, loss) in enumerate(zip((*RATES, *more), losses, strict=False)):
            summary = stopped(method, rate)
            if loss is not None:
                identity = str(summary["run_id"])
                summary = summary_of("levy", method, 0, run_id=identity, validation_loss=loss)
                write_run(store, summary)
            else:
                write_folder(store.run_folder(str(summary["run_id"])), summary)
            cell = cell_of(summary, "equal_rank", "experiment=tuned", f"{LEARNING_RATE}={rate}")
            added = max(0, step + 1 - len(RATES))
            cells.append(replace(cell, extension=added))
    store.write_study("tuned", cells)


def test_a_stopped_trial_is_neither_kept_nor_a_gap_nor_diverged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    tuned_study(store, {"lora": (None, 0.3, 0.4), "queryable": (None, None, math.inf)})
    frame = load_study(store, "tuned")
    assert kept_rates(frame) == {"lora": "0.002", "queryable": "0.004"}
    assert incomplete(frame) == []
    everything, _ = tune(frame, [])
    assert set(everything["status"]) == {"done"}
    assert render("tables", store, tmp_path / "out", study="tuned") == 0
    text = (tmp_path / "out" / "tuned" / "table2.md").read_text()
    assert "Stopped on their way, behind on validation: 3 runs" in text
    runs = pd.read_csv(tmp_path / "out" / "tuned" / "runs.csv")
    assert runs["status"].value_counts().to_dict() == {"done": 3, "stopped": 3}
    assert runs.loc[runs["status"] == "stopped", "test_loss"].isna().all()
    for row in markdown_rows(tmp_path / "out" / "tuned" / "table2.md")["Equal rank"]:
        assert "missing" not in row["Levy"]
        assert "failed" not in row["Levy"]


def test_what_stopping_saved_is_counted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    tuned_study(store, {"lora": (0.3, 0.2, 0.1, None), "queryable": (None, 0.3, 0.4)}, "0.008")
    _, tuning = tune(load_study(store, "tuned"))
    steps = summary_of("levy", "lora", 0)["steps"]
    assert tuning.cost == Cost(2, 5 * steps + 2 * (steps // 8), 7 * steps, 6 * steps)


def test_a_grid_that_was_extended_by_the_rule_is_equal(tmp_path: Path) -> None:
    store = Store(tmp_path)
    losses = {"lora": (0.3, 0.2, 0.15, 0.1, None), "queryable": (None, 0.3, 0.4)}
    tuned_study(store, losses, "0.008", "0.016")
    _, tuning = tune(load_study(store, "tuned"))
    found = {c.label: (c.trial[LEARNING_RATE], c.trials, c.added, c.edges) for c in tuning.choices}
    assert found == {"lora": ("0.008", 5, 2, ()), "queryable": ("0.002", 3, 0, ())}
    notes = " ".join(tuning.notes())
    assert f"Tuned: 3 trials for every method ({LEARNING_RATE} in 0.001, 0.002, 0.004)" in notes
    assert "for every method by one rule: lora on Levy 2." in notes
    cells = store.study("tuned")
    store.write_study("tuned", [cell for cell in cells if cell.run_id != "queryable-0.001-0"])
    with pytest.raises(UsageError, match=r"2 for queryable on levy .*; 3 for lora on levy"):
        tune(load_study(store, "tuned"))


@pytest.mark.parametrize("view", ["tables", "figures", "forest", "stats", "claims", "report"])
def test_every_view_shows_a_tuned_study(tmp_path: Path, view: str) -> None:
    store = Store(tmp_path)
    losses = {"lora": (0.3, 0.2, None), "queryable": (None, 0.3, 0.4), "full": (0.1, None, None)}
    tuned_study(store, losses)
    assert render(view, store, tmp_path / "out", study="tuned") == 0
