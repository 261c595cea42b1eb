"""The tables and figures of a sequence against plain loops over its matrices."""

import json
import math
import statistics
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from analysis import continual, transfer
from analysis.figures.continual import drift_lines, forgetting_bars, loss_matrices
from analysis.load import load_study
from qlexp.store import Cell, Store, write_file, write_folder

STUDY = "made_up"
FUNCTIONS, SEEDS = ("drop_wave", "ackley"), (0, 1, 2)
METHODS = ("frozen", "lora", "queryable")
TASKS, BLOCKS, ATOMS = 4, 2, 5

matrices = st.integers(2, 6).flatmap(
    lambda tasks: arrays(float, (tasks + 1, tasks), elements=st.floats(0, 10))
)


def summary_of(function: str, method: str, seed: int) -> dict[str, Any]:
    draw = np.random.default_rng([sum(map(ord, function + method)), seed])
    losses = draw.uniform(0.1, 1.0, (TASKS + 1, TASKS))
    if method == "frozen":
        losses[:] = losses[0]
    routed = method == "queryable"
    return {
        "run_id": f"{function}-{method}-{seed}",
        "function": function,
        "method": method,
        "seed": seed,
        "status": "done",
        "backbone_id": f"{function}-{seed}",
        **dict.fromkeys(("pretrain_loss", "source_loss", "frozen_loss"), 0.5),
        **dict.fromkeys(("post_train_loss", "validation_loss", "test_loss_clean"), 0.1),
        **dict.fromkeys(("test_loss", "test_loss_raw"), float(losses[-1].mean())),
        **dict.fromkeys(("pretrain_r2", "test_r2"), 0.95),
        "task_losses": losses.tolist(),
        "route_drift": [draw.random(n + 1).tolist() for n in range(TASKS)] if routed else None,
        "atom_usage": draw.dirichlet(np.ones(ATOMS), (TASKS, BLOCKS)).tolist() if routed else None,
        "trainable_parameters": 0 if method == "frozen" else 1000,
        "reference_parameters": None if method == "frozen" else 1000,
        "samples_per_period": 3.0,
        "seconds": 1.0,
        "steps": 20,
        "config": {"trainer": {"r2_floor": 0.9, "loss_ceiling": 10.0}, "data": {"noise": 0.05}},
    }


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return made_up(tmp_path)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """A store that nothing changes, and what is rendered from it."""
    folder = tmp_path_factory.mktemp("rendered")
    store = made_up(folder)
    assert command(store, folder) == 0
    return store, folder / STUDY


def made_up(folder: Path) -> Store:
    """A study of two functions, three methods and three seeds."""
    store = Store(folder / "store")
    summaries = [summary_of(f, m, s) for f in FUNCTIONS for m in METHODS for s in SEEDS]
    for summary in summaries:
        write_folder(store.run_folder(summary["run_id"]), summary)
    names = ("run_id", "function", "method", "seed")
    cells = [Cell(*(summary[name] for name in names), budget="lora_r4") for summary in summaries]
    store.write_study(STUDY, cells)
    return store


def change(store: Store, run_id: str, **values: object) -> None:
    summary = {**(store.summary(run_id) or {}), **values}
    write_file(store.run_folder(run_id) / "summary.json", json.dumps(summary))


def command(store: Store, out: Path, *more: str) -> int:
    arguments = ["--study", STUDY, "--store", str(store.root), "--out", str(out), *more]
    return continual.main(arguments)


@given(matrices)
def test_the_definitions_are_plain_loops(losses: np.ndarray) -> None:
    tasks = losses.shape[1]
    final = backward = forward = forgotten = 0.0
    for task in range(tasks):
        end, learnt = losses[tasks][task], losses[task + 1][task]
        final += end / tasks
        if task < tasks - 1:
            backward += (learnt - end) / (tasks - 1)
            best = min(losses[after][task] for after in range(1, tasks))
            forgotten += (end - best) / (tasks - 1)
        if task > 0:
            forward += (losses[0][task] - losses[task][task]) / (tasks - 1)
    assert transfer.final_loss(losses) == pytest.approx(final, abs=1e-12)
    assert transfer.backward_transfer(losses) == pytest.approx(backward, abs=1e-12)
    assert transfer.forward_transfer(losses) == pytest.approx(forward, abs=1e-12)
    assert transfer.forgetting(losses) == pytest.approx(forgotten, abs=1e-12)
    assert transfer.forgetting(losses) >= -transfer.backward_transfer(losses) - 1e-12


def test_the_signs_are_those_of_the_paper() -> None:
    """Two tasks: the first is learnt and half forgotten, the second gains before its turn."""
    losses = np.array([[1.0, 1.0], [0.2, 0.7], [0.6, 0.1]])
    assert transfer.final_loss(losses) == pytest.approx(0.35)
    assert transfer.forgetting(losses) == pytest.approx(0.4)
    assert transfer.backward_transfer(losses) == pytest.approx(-0.4)
    assert transfer.forward_transfer(losses) == pytest.approx(0.3)
    assert transfer.final_drift([np.zeros(1), np.array([0.25, 0.0])]) == 0.25
    even, one = np.full((1, 1, 4), 0.25), np.eye(4)[None, :1]
    assert transfer.atoms_in_use(even) == pytest.approx(4)
    assert transfer.atoms_in_use(one) == pytest.approx(1)


def test_the_csv_holds_the_numbers_of_a_plain_loop(rendered: tuple[Store, Path]) -> None:
    store, folder = rendered
    table = pd.read_csv(folder / "continual.csv")
    routed = {"drift", "atoms"}
    of_matrix: dict[str, Callable[[np.ndarray], float]] = {
        "final_loss": transfer.final_loss,
        "forgetting": transfer.forgetting,
        "backward": transfer.backward_transfer,
        "forward": transfer.forward_transfer,
    }
    assert set(table["measure"]) == of_matrix.keys() | routed
    assert set(table.loc[table["measure"].isin(routed), "method"]) == {"queryable"}
    assert len(table) == len(of_matrix) * 6 + len(routed) * 2
    for row in table.itertuples():
        runs = [store.summary(f"{row.function}-{row.method}-{seed}") or {} for seed in SEEDS]
        if row.measure == "drift":
            values = [statistics.fmean(run["route_drift"][-1][:-1]) for run in runs]
        elif row.measure == "atoms":
            values = [
                statistics.fmean(
                    math.exp(-sum(w * math.log(w) for w in weights))
                    for task in run["atom_usage"]
                    for weights in task
                )
                for run in runs
            ]
        else:
            values = [of_matrix[row.measure](np.array(run["task_losses"])) for run in runs]
        assert row.mean == pytest.approx(statistics.fmean(values), abs=1e-12)
        assert row.deviation == pytest.approx(statistics.stdev(values), abs=1e-12)
        if row.method == "frozen" and row.measure != "final_loss":
            assert row.mean == 0


def test_every_number_of_every_matrix_is_written(rendered: tuple[Store, Path]) -> None:
    store, folder = rendered
    table = pd.read_csv(folder / "continual_tasks.csv")
    assert len(table) == 18 * (TASKS + 1) * TASKS
    for row in table.itertuples():
        run = store.summary(f"{row.function}-{row.method}-{row.seed}") or {}
        assert row.test_loss == pytest.approx(run["task_losses"][row.learnt][row.task - 1])
        known = row.method == "queryable" and row.task <= row.learnt
        assert math.isnan(row.route_drift) != known
        if known:
            assert row.route_drift == pytest.approx(
                run["route_drift"][row.learnt - 1][row.task - 1]
            )


def test_files_are_complete_and_the_same_bytes_again(
    rendered: tuple[Store, Path], tmp_path: Path
) -> None:
    store, folder = rendered
    assert command(store, tmp_path) == 0
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / STUDY).iterdir()}
    kinds = ("losses_lora_r4_drop_wave", "losses_lora_r4_ackley")
    kinds += ("forgetting_lora_r4", "drift_lora_r4", "usage_lora_r4")
    assert files.keys() == {
        *(f"continual.{suffix}" for suffix in ("md", "csv", "tex")),
        "continual_tasks.csv",
        *(f"continual_{kind}.svg" for kind in kinds),
    }
    for name, content in files.items():
        if name.endswith(".svg"):
            ET.fromstring(content)


def test_a_diverged_run_is_counted_and_never_dropped(store: Store, tmp_path: Path) -> None:
    change(
        store,
        "ackley-queryable-1",
        status="diverged",
        test_loss=None,
        task_losses=[[0.5] * TASKS] * 2 + [[None] * TASKS] * 3,
        route_drift=[[None] * (n + 1) for n in range(TASKS)],
        atom_usage=[[[None] * ATOMS] * BLOCKS] * TASKS,
    )
    assert command(store, tmp_path) == 0
    table = pd.read_csv(tmp_path / STUDY / "continual.csv")
    rows = table[(table["method"] == "queryable") & (table["function"] == "ackley")]
    means = dict(zip(rows["measure"], rows["mean"], strict=True))
    assert means == {
        **dict.fromkeys(("final_loss", "forgetting", "drift", "atoms"), math.inf),
        **dict.fromkeys(("backward", "forward"), -math.inf),
    }
    assert set(rows["infinite"]) == {1}
    text = (tmp_path / STUDY / "continual.md").read_text()
    assert text.count("| inf (1/3) |") == 4
    assert text.count("| -inf (1/3) |") == 2
    frame = continual.with_measures(load_study(store, STUDY), STUDY)
    texts = [
        text.get_text()
        for figure in (
            loss_matrices(frame[frame["function"] == "ackley"]),
            drift_lines(frame[frame["method"] == "queryable"]),
        )
        for axis in figure.axes
        for text in axis.texts
    ]
    assert texts.count("1/3 diverged") == 2


def test_gaps_are_refused_and_named_when_allowed(store: Store, tmp_path: Path, capsys) -> None:
    change(store, "ackley-lora-0", status="failed", error="no luck")
    change(store, "ackley-queryable-2", status="failed", error="no luck")
    assert command(store, tmp_path) == 2
    assert "incomplete: failed: lora on ackley" in capsys.readouterr().err
    assert command(store, tmp_path, "--allow-missing") == 0
    text = (tmp_path / STUDY / "continual.md").read_text()
    assert "1 failed" in text
    assert "seed 0: no luck" in text
    frame = continual.with_measures(load_study(store, STUDY), STUDY)
    axes = loss_matrices(frame[frame["function"] == "ackley"]).axes
    assert [t.get_text() for axis in axes for t in axis.texts].count("1/3 failed") == 2


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"task_losses": None}, "not in sequence"),
        ({"task_losses": [[1, 2], [3]]}, "no usable matrix"),
        ({"task_losses": [[1, 2], [3, 4]]}, "no usable matrix"),
        ({"task_losses": [["high"]]}, "no usable matrix"),
        ({"atom_usage": None}, "no usable matrix"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(
    values: dict, sentence: str, store: Store, tmp_path: Path, capsys
) -> None:
    change(store, "ackley-queryable-0", **values)
    assert command(store, tmp_path) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / STUDY).exists()


def test_a_study_of_which_nothing_is_stored_is_refused(tmp_path: Path, capsys) -> None:
    store = Store(tmp_path / "empty")
    store.write_study(STUDY, [Cell("none", "ackley", "lora", 0, "lora_r4")])
    assert command(store, tmp_path, "--allow-missing") == 2
    assert "no finished run" in capsys.readouterr().err


def drawn_intervals(frame: pd.DataFrame) -> list[tuple[float, float]]:
    """The lines of the bars, in the order of the methods."""
    (axis,) = forgetting_bars(frame).axes
    lines = [line for line in axis.lines if line.get_marker() == "None"][:-1]  # the last one is 0
    return [tuple(line.get_xdata()) for line in lines]


def test_the_interval_is_students_and_one_seed_has_none(store: Store) -> None:
    frame = continual.with_measures(load_study(store, STUDY), STUDY)
    frame = frame[(frame["function"] == "ackley") & (frame["method"] != "frozen")]
    expected = []
    for method in ("lora", "queryable"):
        values = frame.loc[frame["method"] == method, "forgetting"]
        expected.append(scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95))
    np.testing.assert_allclose(drawn_intervals(frame), expected)
    assert drawn_intervals(frame[frame["seed"] == 0]) == []


def test_a_lane_that_stopped_early_retains_nothing(store: Store, tmp_path: Path) -> None:
    """A diverged run whose numbers stand still and are finite, as a stopped lane's are."""
    still = [[0.5] * TASKS] + [[0.2] * TASKS] * TASKS
    no_drift = [[0.0] * (task + 1) for task in range(TASKS)]
    lost = "ackley-queryable-1"
    change(store, lost, status="diverged", task_losses=still, route_drift=no_drift)
    frame = continual.with_measures(load_study(store, STUDY), STUDY)
    cells = frame[(frame["function"] == "ackley") & (frame["method"] == "queryable")]
    image = loss_matrices(cells).axes[0].images[0].get_array()
    assert np.ma.getmaskarray(image)[1:].all()
    assert not np.ma.getmaskarray(image)[0].any()
    assert command(store, tmp_path) == 0
    table = pd.read_csv(tmp_path / STUDY / "continual_tasks.csv")
    run = table[(table["status"] == "diverged") & (table["method"] == "queryable")]
    assert (run.loc[run["learnt"] == 0, "test_loss"] == 0.5).all()
    after = run[run["learnt"] > 0]
    assert len(after) == TASKS * TASKS
    assert np.isposinf(after["test_loss"]).all()
    assert np.isposinf(after["route_drift"].dropna()).all()
    assert np.isposinf(np.concatenate([frame.loc[frame["run_id"] == lost, "usage"].iloc[0]])).all()
