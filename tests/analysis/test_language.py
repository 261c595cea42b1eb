"""Studies of language models: what every view makes of them, and what it refuses."""

import json
import math
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from language_runs import (
    BLOCKS,
    BUDGET,
    COUNT,
    LAYERS,
    METHODS,
    RATE,
    SEEDS,
    STUDY,
    TASKS,
    error_of,
    learnt,
    summary_of,
    write_run,
    write_sequence,
    write_study,
)
from made_up import cell_of as synthetic_cell
from made_up import check_svg, markdown_rows, render
from made_up import summary_of as synthetic_summary
from made_up import write_run as write_synthetic

from analysis.benchmark import LANGUAGE, SYNTHETIC, benchmark_of
from analysis.claims.rules import NOT_SUPPORTED, SUPPORTED
from analysis.load import load_study
from analysis.paper.language_claims import LANGUAGE_CLAIMS
from analysis.study import Study
from analysis.table import read_table
from analysis.tuning import tune
from analysis.words import worded
from qlexp.errors import UsageError
from qlexp.store.store import Store

ANALYSIS = Path(__file__).parents[2] / "analysis"


@pytest.fixture
def runs(tmp_path: Path) -> Store:
    """The made-up study of tasks that are learnt at once."""
    store = Store(tmp_path / "store")
    write_study(store)
    return store


def shown(view: str, store: Store, *more: str) -> Path:
    """The folder that a view of the study has written to."""
    out = store.root.parent / view
    assert render(view, store, out, *more, study=STUDY) == 0
    return out / STUDY


def text_of(path: Path) -> str:
    return path.read_text().replace("\\", "")


# The table


def test_a_run_has_its_own_columns_and_no_doubts(runs: Store) -> None:
    frame = read_table(runs, STUDY)
    assert benchmark_of(frame) is LANGUAGE
    assert frame[["test_loss_clean", "test_loss_raw", "pretrain_r2"]].isna().all(axis=None)
    for flag in ("not_learnable", "weak_backbone", "beyond_reach", "little_learnt", "off_budget"):
        assert not frame[flag].any()
    assert frame["learnability_checked"].all()
    for run in frame.itertuples():
        assert run.accuracy == learnt(run.function, run.method, run.seed)
        assert run.test_error == error_of(run.accuracy)


def test_a_diverged_run_has_no_accuracy(runs: Store) -> None:
    summary = summary_of("gcd", "dora", 1, 0.5, status="diverged")
    write_over(runs, summary)
    frame = read_table(runs, STUDY)
    lost = frame[frame["run_id"] == summary["run_id"]]
    assert np.isposinf(lost[[*LANGUAGE.adapted_losses]]).all(axis=None)
    assert np.isneginf(lost["accuracy"]).all()
    rows = markdown_rows(shown("tables", runs) / "accuracy.md")
    assert "(1/3)" in next(row for row in one_section(rows) if row["method"] == "dora")["gcd"]


def write_over(store: Store, summary: dict) -> None:
    (store.run_folder(summary["run_id"]) / "summary.json").write_text(json.dumps(summary))


@pytest.mark.parametrize("name", ["test_error", "accuracy", "frozen_error", "learnt_loss"])
def test_a_run_without_what_its_benchmark_has_is_refused(runs: Store, name: str) -> None:
    summary = summary_of("gcd", "dora", 1, 0.5)
    del summary[name]
    write_over(runs, summary)
    with pytest.raises(UsageError, match=f"gcd-dora-1 has no usable value for '{name}'"):
        load_study(runs, STUDY)


def test_an_unknown_benchmark_is_refused(runs: Store) -> None:
    write_over(runs, summary_of("gcd", "dora", 1, 0.5, benchmark="langauge"))
    with pytest.raises(UsageError, match="Did you mean 'language'"):
        load_study(runs, STUDY)


def test_one_study_has_one_benchmark(runs: Store, tmp_path: Path, capsys) -> None:
    synthetic = synthetic_summary("levy", "lora", 0)
    write_synthetic(runs, synthetic)
    cells = [*runs.study(STUDY), synthetic_cell(synthetic, BUDGET)]
    runs.write_study(STUDY, cells)
    with pytest.raises(UsageError, match=r"several benchmarks \(functions, language\)"):
        load_study(runs, STUDY)
    assert render("stats", runs, tmp_path / "out", study=STUDY) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_gap_names_the_command_of_the_benchmark(runs: Store, tmp_path: Path, capsys) -> None:
    (runs.run_folder("gcd-lora-0") / "summary.json").unlink()
    assert render("tables", runs, tmp_path / "out", study=STUDY) == 2
    assert f"`qlexp-lm experiment={STUDY}`" in capsys.readouterr().err
    assert render("tables", runs, tmp_path / "out", "--allow-missing", study=STUDY) == 0


# Tables


def one_section(sections: dict[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    (rows,) = sections.values()
    return rows


def test_accuracies_are_those_of_the_summaries_in_percent(runs: Store) -> None:
    folder = shown("tables", runs)
    cells = pd.read_csv(folder / "accuracy.csv").set_index(["method", "function"])
    for method in METHODS:
        for task in TASKS:
            found = [100 * learnt(task, method, seed) for seed in SEEDS]
            own = cells.loc[(method, task)]
            assert own["mean"] == pytest.approx(statistics.fmean(found))
            assert own["deviation"] == pytest.approx(statistics.stdev(found))
            assert own["best_adapter"] == (method == "instruction_queryable")
            assert own["seeds"] == len(SEEDS)
    rows = one_section(markdown_rows(folder / "accuracy.md"))
    assert rows[0]["method"] == "frozen"
    assert rows[0]["gcd"] == "11.0 ± 1.0"
    assert "chain sum" in rows[0]
    best = next(row for row in rows if "instruction" in row["method"])
    assert best["gcd"] == "**70.5 ± 0.50**"


def test_a_frozen_run_of_its_own_has_the_row(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    write_study(store, lambda *place: 0.2 if place[1] == "frozen" else 0.4, ("frozen", "lora"))
    rows = one_section(markdown_rows(shown("tables", store) / "accuracy.md"))
    assert [row["method"] for row in rows] == ["frozen", "lora"]
    assert rows[0]["gcd"].startswith("20.0")


def test_notes_say_what_was_measured_and_of_which_model(runs: Store) -> None:
    text = text_of(shown("tables", runs) / "accuracy.md")
    for told in (
        "as a whole or its last word, the task's verifier calls right",
        f"test examples {COUNT}",
        "smollm2: weights rounded to 4 bits.",
        "batch 8, learning rate 0.001",
        "adaptation updates 100",
        "torch 2.13.0; commit 0123456789ab",
        "the largest mean of an adapter",
    ):
        assert told in text
    for untold in ("noise", "shift", "lanes", "function", "backbone", "R²", "unknown"):
        assert untold not in text


def test_retention_stands_before_and_after(runs: Store) -> None:
    folder = shown("tables", runs)
    sections = markdown_rows(folder / "retention.md")
    loss, accuracy = sections.values()
    assert {row["gcd"] for row in loss} == {"3.00 → 3.22 ± 0.020"}
    assert {row["gcd"] for row in accuracy} == {"30.0 → 25.0 ± 0.0"}
    cells = pd.read_csv(folder / "retention.csv")
    assert len(cells) == 2 * len(METHODS) * len(TASKS)


def test_what_was_not_measured_is_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    names = ("retention_loss", "retention_accuracy")
    write_study(store, **dict.fromkeys((*names, *(f"frozen_{name}" for name in names))))
    assert markdown_rows(shown("tables", store) / "retention.md") == {}


def test_costs_are_means_over_tasks_and_seeds(runs: Store) -> None:
    rows = one_section(markdown_rows(shown("tables", runs) / "cost.md"))
    own = next(row for row in rows if row["method"] == "dora")
    assert list(own.values()) == ["dora", "1,060", "0.500", "11.0", "3.00"]


def test_runs_csv_stands_for_the_store(runs: Store, tmp_path: Path) -> None:
    file = shown("tables", runs) / "runs.csv"
    for view, name in (("tables", "accuracy.csv"), ("stats", "stats.csv"), ("pareto", "pareto.md")):
        again = tmp_path / "again"
        assert render(view, runs, again, f"--runs={file}", study=STUDY) == 0
        folder = shown(view, runs)
        assert (again / STUDY / name).read_text() == (folder / name).read_text()


# Comparisons


def test_the_planted_gain_is_found(runs: Store) -> None:
    table = pd.read_csv(shown("stats", runs) / "stats.csv").set_index("method")
    logs = [
        math.log(error_of(learnt(t, "queryable", s)) / error_of(learnt(t, "lora", s)))
        for t in TASKS
        for s in SEEDS
    ]
    assert table.loc["queryable", "mean"] == pytest.approx(statistics.fmean(logs))
    assert table.loc["queryable", "improvement"] == 1.0
    assert table.loc["instruction_queryable", "rank"] == 1.0
    text = text_of(shown("stats", runs) / "stats.md")
    assert "Adapters compared by test error" in text
    assert "(wrong + 1/2) / (n + 1)" in text
    assert "tasks better/worse/tied" in text
    assert "function" not in text
    forest = pd.read_csv(shown("forest", runs) / "forest.csv")
    own = forest[(forest["method"] == "queryable") & (forest["function"] == "all")]
    assert own["ratio"].item() == pytest.approx(math.exp(statistics.fmean(logs)))


def test_another_loss_is_compared_where_it_is_named(runs: Store, tmp_path: Path, capsys) -> None:
    table = pd.read_csv(shown("stats", runs, "--loss", "test_loss") / "stats_test_loss.csv")
    assert len(table) == len(METHODS)
    assert render("stats", runs, tmp_path, "--loss", "test_loss_clean", study=STUDY) == 2
    assert "unknown loss of this study 'test_loss_clean'" in capsys.readouterr().err.lower()


def test_pictures_speak_of_tasks(runs: Store) -> None:
    folder = shown("forest", runs)
    picture = folder / f"forest_{BUDGET}.svg"
    check_svg(picture)
    assert "test error over" in picture.read_text()
    assert "3 tasks" in picture.read_text()
    curves = shown("figures", runs)
    assert [path.name for path in curves.iterdir()] == [f"curves_{BUDGET}.svg"]
    assert "nats a token" in (curves / f"curves_{BUDGET}.svg").read_text()


def test_every_word_that_is_replaced_is_said_by_a_view() -> None:
    files = [path for path in ANALYSIS.rglob("*.py") if path.name != "benchmark.py"]
    said = "".join(path.read_text() for path in files)
    assert all(word in said for word in LANGUAGE.words)


def test_words_leave_names_alone() -> None:
    text = "functions, a function's config.function.name, function=gcd; Backbones of function_x"
    wanted = "tasks, a task's config.function.name, function=gcd; Models of function_x"
    assert worded(text, LANGUAGE.words) == wanted
    assert worded(text, SYNTHETIC.words) == text


def test_gradients_are_counted_from_the_saved_weights(runs: Store) -> None:
    folder = shown("gradients", runs)
    layers = pd.read_csv(folder / "gradients_layers.csv")
    assert set(layers["parameters"]) == {40}
    assert layers["layer"].nunique() == LAYERS
    table = pd.read_csv(folder / "gradients.csv").set_index(["method", "function"])
    assert table.loc[("dora", "all"), "evenness_norm"] == pytest.approx(1.0)
    assert table.loc[("lora", "all"), "evenness_norm"] < 0.95


def test_a_swept_rank_has_an_ablation(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    cells = []
    for rank in (2, 4):
        for method in ("lora", "queryable"):
            for seed in SEEDS:
                accuracy = 0.3 + 0.05 * rank + 0.01 * seed * (method == "lora")
                summary = summary_of("gcd", method, seed, accuracy)
                summary["run_id"] += f"-{rank}"
                cells.append(write_run(store, summary, f"method.rank={rank}"))
    store.write_study(STUDY, cells)
    table = pd.read_csv(shown("ablation", store) / "ablation_effects.csv")
    own = table[(table["method"] == "queryable") & (table["function"] == "gcd")]
    assert own["ratio"].item() == pytest.approx(error_of(0.5) / error_of(0.4))


@pytest.mark.parametrize(
    ("view", "more", "wanted"),
    [
        ("matched", (), "tell their post_train_loss and test_error on the way"),
        ("theory", (), "is of the benchmark 'language'"),
        ("figures", ("--function", "gcd"), "is of the benchmark 'language'"),
        ("continual", (), "task.order=sequence"),
        ("ablation", (), "sweeps no setting"),
    ],
)
def test_what_there_is_none_of_is_one_sentence(
    runs: Store, tmp_path: Path, capsys, view: str, more: tuple[str, ...], wanted: str
) -> None:
    assert render(view, runs, tmp_path / "out", *more, study=STUDY) == 2
    error = capsys.readouterr().err
    assert wanted in error
    assert error.count("\n") == 1


def test_the_report_has_what_there_is(runs: Store) -> None:
    page = (shown("report", runs) / "report.html").read_text()
    for title in ("Losses", "Claims", "Statistics", "Cost", "Learning curves", "Gradient flow"):
        assert f">{title}<" in page
    for title in ("Targets", "Backbones"):
        assert f">{title}<" not in page
    assert "Accuracy in percent" in page
    assert ">Tasks<" in page


# Tuning


def test_the_rate_is_chosen_by_validation_loss(tmp_path: Path) -> None:
    store, cells = Store(tmp_path / "store"), []
    validation = {"lora": (0.3, 0.05, 0.2), "queryable": (0.1, 0.2, 0.3)}
    for method, losses in validation.items():
        for rate, loss in zip(("0.001", "0.002", "0.004"), losses, strict=True):
            for seed in SEEDS:
                accuracy = loss + 0.01 * seed  # the test set would choose the worst
                summary = summary_of("gcd", method, seed, accuracy, validation_loss=loss)
                summary["run_id"] += f"-{rate}"
                cells.append(write_run(store, summary, f"{RATE}={rate}"))
    store.write_study(STUDY, cells)
    _, tuning = tune(read_table(store, STUDY))
    assert {own.label: own.trial[RATE] for own in tuning.choices} == {
        "lora": "0.002",
        "queryable": "0.001",
    }
    folder = shown("tables", store)
    rows = {row["method"]: row["gcd"] for row in one_section(markdown_rows(folder / "accuracy.md"))}
    assert rows["queryable"] == "**11.0 ± 1.0¶**"
    assert rows["lora"] == "6.00 ± 1.0"
    assert "Tuned: 3 trials for every method" in text_of(folder / "accuracy.md")
    shown("stats", store)  # one condition


# Claims


def answers(store: Store) -> pd.Series:
    table = pd.read_csv(shown("claims", store) / "claims.csv").set_index("claim")
    assert set(table.index) == {claim.name for claim in LANGUAGE_CLAIMS}
    return table["answer"]


def test_planted_claims_are_answered(runs: Store) -> None:
    found = answers(runs)
    for name in ("accuracy_queryable", "accuracy_instruction_queryable", "instruction"):
        assert found[name] == SUPPORTED
    assert found["gradients_larger_lora"] == SUPPORTED
    assert found["gradients_more_even_lora"] == SUPPORTED
    assert found["forgetting"] == "undecided"
    text = text_of(shown("claims", runs) / "claims.md")
    assert "of the test loss" in text
    assert "learnability" not in text


def test_a_harm_supports_no_claim(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    write_study(store, lambda task, method, seed: 0.9 - learnt(task, method, seed))
    found = answers(store)
    assert found["accuracy_queryable"] == found["instruction"] == NOT_SUPPORTED


@pytest.mark.parametrize(
    ("factor", "wanted"), [(1.0, SUPPORTED), (0.8, SUPPORTED), (1.1, NOT_SUPPORTED)]
)
def test_retention_is_no_worse_than_loras(tmp_path: Path, factor: float, wanted: str) -> None:
    store = Store(tmp_path / "store")
    write_study(store)
    for task in TASKS:
        for seed in SEEDS:
            loss = 3.0 * factor * (1 + 0.001 * seed)
            place = (task, "queryable", seed)
            write_over(store, summary_of(*place, learnt(*place), retention_loss=loss))
            write_over(store, summary_of(task, "lora", seed, 0.4, retention_loss=3.0))
    assert answers(store)["retention_queryable"] == wanted


@pytest.mark.parametrize("control", ["shuffled", "empty"])
def test_the_text_is_held_against_its_controls(tmp_path: Path, control: str) -> None:
    store = Store(tmp_path / "store")
    write_study(store, methods=("lora", "queryable", "instruction_queryable"))
    cells = list(store.study(STUDY))
    for task in TASKS:
        for seed in SEEDS:
            summary = summary_of(task, "instruction_queryable", seed, 0.5)
            summary["run_id"] += f"-{control}"
            summary["config"]["instruction"]["control"] = control
            cells.append(write_run(store, summary, f"instruction.control={control}"))
    store.write_study(STUDY, cells)
    found = answers(store)
    assert found[f"text_{control}"] == SUPPORTED
    assert found[f"text_{'empty' if control == 'shuffled' else 'shuffled'}"] == "undecided"


def test_claims_of_ones_own_are_on_tasks(runs: Store, tmp_path: Path, capsys) -> None:
    mine = tmp_path / "mine.yaml"
    claim = {"name": "a", "text": "A", "method": "dora", "functions": ["gcd"], "little": 1.1}
    mine.write_text(json.dumps([claim]))
    shown("claims", runs, "--claims", str(mine))
    mine.write_text(json.dumps([claim | {"functions": ["gdc"]}]))
    assert render("claims", runs, tmp_path / "out", "--claims", str(mine), study=STUDY) == 2
    assert "Did you mean 'gcd'?" in capsys.readouterr().err


# Tasks in sequence


def test_a_sequence_has_accuracies_forgetting_and_drift(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    write_sequence(store, {"lora": 0.2, "queryable": 0.05})
    folder = shown("continual", store)
    cells = pd.read_csv(folder / "continual.csv").set_index(["measure", "method"])
    lost = [0.05 * (1 + 0.05 * seed) for seed in SEEDS]
    forgotten = statistics.fmean((2 * own + own) / 2 for own in lost)
    assert cells.loc[("forgetting", "queryable"), "mean"] == pytest.approx(forgotten)
    assert cells.loc[("drift", "queryable"), "mean"] == pytest.approx(0.03 * 1.1)
    assert cells.loc[("atoms", "queryable"), "mean"] == pytest.approx(
        math.exp(-0.7 * math.log(0.7) - 0.3 * math.log(0.3))
    )
    tasks = pd.read_csv(folder / "continual_tasks.csv")
    learnt_now = tasks[(tasks["learnt"] == tasks["task"]) & (tasks["task"] > 0)]
    assert learnt_now["accuracy"].to_numpy() == pytest.approx(0.8)
    text = text_of(folder / "continual.md")
    assert "arithmetic: 1 gcd, 2 chain sum, 3 word sorting" in text
    assert "| lora | 3 | 38.0 ± 2.0 | 59.0 ± 1.0 | 80.0 ± 0.0 |" in text
    assert "share their inputs" not in text
    for picture in folder.glob("*.svg"):
        check_svg(picture)
        assert "MSE" not in picture.read_text()


def test_a_sequence_that_diverged_on_its_way_has_lost_everything(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    write_sequence(store, {"lora": 0.2, "queryable": 0.05})
    summary = store.summary("arithmetic-queryable-1")
    assert summary is not None
    after_one = {
        "task_accuracies": summary["task_accuracies"][:2],
        "route_drift": summary["route_drift"][:1],
    }
    write_over(store, {**summary, **after_one, "status": "diverged"})
    cells = pd.read_csv(shown("continual", store) / "continual.csv")
    own = cells[cells["method"] == "queryable"].set_index("measure")
    for measure in ("final_loss", "forgetting", "drift"):
        assert own.loc[measure, ["seeds", "infinite"]].tolist() == [3, 1]
    assert answers(store)["forgetting"] == "undecided"


@pytest.mark.parametrize(
    ("own", "drift", "wanted"),
    [(0.05, 0.02, (SUPPORTED, SUPPORTED)), (0.3, 0.2, (NOT_SUPPORTED, NOT_SUPPORTED))],
)
def test_claims_on_sequences(
    tmp_path: Path, own: float, drift: float, wanted: tuple[str, str]
) -> None:
    store = Store(tmp_path / "store")
    write_sequence(store, {"lora": 0.2, "queryable": own}, drift)
    found = answers(store)
    assert (found["forgetting"], found["route_drift"]) == wanted
    assert found["accuracy_queryable"] == "undecided"


def test_tasks_differ_in_atoms_by_their_total_variation(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    write_sequence(store, {"lora": 0.2, "queryable": 0.05})
    folder = shown("routing", store)
    apart = pd.read_csv(folder / "routing_tasks.csv").set_index(["first", "second"])
    weights = np.array([np.roll([0.7, 0.3, 0.0, 0.0], i) for i in range(3)])
    for i, j in ((0, 1), (0, 2), (1, 2)):
        wanted = np.abs(weights[i] - weights[j]).sum() / 2
        assert apart.loc[(TASKS[i], TASKS[j]), "total_variation"].to_numpy() == pytest.approx(
            wanted
        )
    used = pd.read_csv(folder / "routing.csv")
    assert len(used) == len(SEEDS) * len(TASKS) * BLOCKS
    assert used["entropy"].to_numpy() == pytest.approx(-0.7 * math.log(0.7) - 0.3 * math.log(0.3))


def test_one_task_has_none_to_differ_from(runs: Store) -> None:
    rows = one_section(markdown_rows(shown("routing", runs) / "routing.md"))
    assert len(rows) == 2 * len(TASKS)  # of two methods that route
    assert {row["total variation"] for row in rows} == {"–"}


def test_a_study_says_its_benchmark(runs: Store) -> None:
    study = Study(STUDY, runs, read_table(runs, STUDY))
    assert study.benchmark is LANGUAGE
    with pytest.raises(UsageError, match="which has no norms"):
        study.require(SYNTHETIC, "norms")
