"""The tables and figures of a sequence against plain loops over its matrices."""

import json
import math
import statistics
import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from made_up import NOISE, SEEDS, STUDY, config_of, render, summary_of

from analysis.figures.continual import drift_lines, forgetting_bars, loss_matrices, usage_maps
from analysis.paper import continual, transfer
from analysis.render import Grid
from analysis.study import Study
from analysis.table import read_table
from qlexp.config.schema import DataConfig, FunctionConfig, ShiftConfig
from qlexp.problem.functions import FUNCTIONS
from qlexp.problem.targets import make_problem, served_shifts
from qlexp.store.files import write_file, write_folder
from qlexp.store.manifest import Cell
from qlexp.store.store import Store

FUNCTION_NAMES = ("drop_wave", "ackley")
METHODS = ("frozen", "lora", "queryable")
TASKS, BLOCKS, ATOMS = 4, 2, 5
LEARNERS = (continual.LATEST, continual.UNKNOWN)
DATA = {"pretrain": 64, "adapt": 32, "validation": 8, "test": 40, "noise": NOISE}
SHIFT = {"strength": 0.3, "rotation": 20.0, "targets": TASKS, "order": "sequence"}

matrices = st.integers(2, 6).flatmap(
    lambda tasks: arrays(float, (tasks + 1, tasks), elements=st.floats(0, 10))
)
command = partial(render, "continual")


def sequence_of(function: str, method: str, seed: int) -> dict[str, Any]:
    draw = np.random.default_rng([sum(map(ord, function + method)), seed])
    losses = draw.uniform(0.1, 1.0, (TASKS + 1, TASKS))
    if method == "frozen":
        losses[:] = losses[0]
    routed = method == "queryable"
    config = config_of(function, method, seed)
    shift = {**SHIFT, "coefficients": None}
    return summary_of(
        function,
        method,
        seed,
        **dict.fromkeys(("test_loss", "test_loss_raw"), float(losses[-1].mean())),
        task_losses=losses.tolist(),
        route_drift=[draw.random(n + 1).tolist() for n in range(TASKS)] if routed else None,
        atom_usage=draw.dirichlet(np.ones(ATOMS), (TASKS, BLOCKS)).tolist() if routed else None,
        config={**config, "data": DATA, "shift": shift, "function": function_of(function)},
    )


def function_of(name: str) -> dict[str, Any]:
    entry = FUNCTIONS[name]
    domain = [list(side) for side in entry.domain]
    return {"name": name, "coefficients": {**entry.coefficients}, "domain": domain, "spread": 0.0}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return sequences(tmp_path)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """A store that nothing changes, and what is rendered from it."""
    folder = tmp_path_factory.mktemp("rendered")
    store = sequences(folder)
    assert command(store, folder) == 0
    return store, folder / STUDY


def sequences(folder: Path) -> Store:
    """A study of two functions, three methods and three seeds."""
    store = Store(folder / "store")
    summaries = [sequence_of(f, m, s) for f in FUNCTION_NAMES for m in METHODS for s in SEEDS]
    for summary in summaries:
        write_folder(store.run_folder(summary["run_id"]), summary)
    names = ("run_id", "function", "method", "seed")
    cells = [Cell(*(summary[name] for name in names), budget="lora_r4") for summary in summaries]
    store.write_study(STUDY, cells)
    return store


def change(store: Store, run_id: str, **values: object) -> None:
    summary = {**(store.summary(run_id) or {}), **values}
    write_file(store.run_folder(run_id) / "summary.json", json.dumps(summary))


def measured(store: Store) -> pd.DataFrame:
    return continual.with_measures(Study(STUDY, store, read_table(store, STUDY)))


@given(matrices)
def test_the_definitions_are_plain_loops(losses: np.ndarray) -> None:
    tasks = losses.shape[1]
    final = fitted = backward = forward = forgotten = 0.0
    for task in range(tasks):
        end, learnt = losses[tasks][task], losses[task + 1][task]
        final += end / tasks
        fitted += learnt / tasks
        if task < tasks - 1:
            backward += (learnt - end) / (tasks - 1)
            best = min(losses[after][task] for after in range(1, tasks))
            forgotten += (end - best) / (tasks - 1)
        if task > 0:
            forward += (losses[0][task] - losses[task][task]) / (tasks - 1)
    assert transfer.final_loss(losses) == pytest.approx(final, abs=1e-12)
    assert transfer.learnt_loss(losses) == pytest.approx(fitted, abs=1e-12)
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
    table = table[~table["method"].isin(LEARNERS)]
    routed = {"drift", "atoms"}
    of_matrix: dict[str, Callable[[np.ndarray], float]] = {
        "final_loss": transfer.final_loss,
        "learnt": transfer.learnt_loss,
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
        if row.method == "frozen" and row.measure not in ("final_loss", "learnt"):
            assert row.mean == 0


def losses_of(
    learner: Callable[[list[np.ndarray]], np.ndarray], function: str, seed: int
) -> list[float]:
    """Of each task, the loss on its clean test values of what `learner` makes of all targets."""
    own, data = FunctionConfig(**function_of(function)), DataConfig(**DATA)
    test = make_problem(own, ShiftConfig(**SHIFT), data, seed).test
    alone = [
        make_problem(own, ShiftConfig(shift.strength, shift.rotation), data, seed)
        for shift in served_shifts(ShiftConfig(**SHIFT))
    ]
    found = []
    for task in range(TASKS):
        rows = test.target == task
        targets = [problem.target(test.x[rows]) for problem in alone]
        found.append(float(np.mean((learner(targets) - test.clean[rows]) ** 2) + NOISE**2))
    return found


@pytest.mark.parametrize("function", FUNCTION_NAMES)
def test_what_the_targets_alone_allow(rendered: tuple[Store, Path], function: str) -> None:
    table = pd.read_csv(rendered[1] / "continual.csv")
    table = table[table["function"] == function].set_index(["method", "measure"])["mean"]
    last, middle, aside = (
        np.array([losses_of(learner, function, seed) for seed in SEEDS])
        for learner in (
            lambda targets: targets[-1],
            lambda targets: sum(targets) / TASKS,
            lambda targets: sum(targets) / TASKS + 0.1,
        )
    )
    forgotten = (last[:, :-1] - NOISE**2).mean()
    latest, unknown = (table[learner] for learner in LEARNERS)
    assert latest["forgetting"] == pytest.approx(forgotten, rel=1e-9)
    assert latest["backward"] == pytest.approx(-forgotten, rel=1e-9)
    assert latest["final_loss"] == pytest.approx(last.mean(), rel=1e-9)
    assert latest["learnt"] == pytest.approx(NOISE**2, rel=1e-9)
    assert set(unknown.index) == {"final_loss"}
    assert unknown["final_loss"] == pytest.approx(middle.mean(), rel=1e-9)
    assert unknown["final_loss"] < min(aside.mean(), latest["final_loss"])


def test_the_bars_stand_beside_the_learner_of_the_latest_task(
    rendered: tuple[Store, Path],
) -> None:
    store, folder = rendered
    table = pd.read_csv(folder / "continual.csv")
    table = table[(table["method"] == continual.LATEST) & (table["measure"] == "forgetting")]
    frame = measured(store)
    dashed = [
        line.get_xdata()[0]
        for axis in forgetting_bars(frame).axes
        for line in axis.lines
        if line.get_linestyle() == "--"
    ]
    np.testing.assert_allclose(dashed, table["mean"])


@pytest.mark.parametrize(("control", "named"), [("matched", "queryable"), ("empty", "none")])
def test_the_table_says_who_can_tell_tasks_apart(store: Store, control: str, named: str) -> None:
    for function, seed in product(FUNCTION_NAMES, SEEDS):
        name = f"{function}-queryable-{seed}"
        config = (store.summary(name) or {})["config"]
        read = {"encoder": "hashing", "control": control}
        change(store, name, config={**config, "instruction": read})
    (note,) = (note for note in grid_of(store).notes if "can tell tasks apart" in note)
    assert f"can tell tasks apart: {named}." in note


def test_no_forgetting_is_bold(store: Store) -> None:
    bold = {
        section.title.partition(";")[0]
        for section in grid_of(store).sections
        for row in section.rows
        if any(text.bold for text in row)
    }
    assert bold == {"Average final loss", "Loss when just learnt"}


def grid_of(store: Store) -> Grid:
    frame = measured(store)
    return continual.continual_grid(frame, continual.measure_cells(frame), STUDY)


@pytest.mark.parametrize(
    ("after", "infinite"),
    [
        (0, {}),
        (1, {"learnt": math.inf, "backward": -math.inf}),
        (TASKS, {"final_loss": math.inf, "forgetting": math.inf, "backward": -math.inf}),
    ],
)
def test_a_loss_above_the_ceiling_is_inf(
    store: Store, tmp_path: Path, after: int, infinite: dict[str, float]
) -> None:
    """Of the first task of a run that is done; the start is the frozen backbone's."""
    losses = np.array((store.summary("ackley-queryable-1") or {})["task_losses"])
    losses[after, 0] = 10.5
    change(store, "ackley-queryable-1", task_losses=losses.tolist())
    assert command(store, tmp_path) == 0
    table = pd.read_csv(tmp_path / STUDY / "continual.csv")
    rows = table[(table["method"] == "queryable") & (table["function"] == "ackley")]
    means = dict(zip(rows["measure"], rows["mean"], strict=True))
    assert {name: mean for name, mean in means.items() if math.isinf(mean)} == infinite
    tasks = pd.read_csv(tmp_path / STUDY / "continual_tasks.csv")
    lost = tasks[np.isinf(tasks["test_loss"])]
    places = list(zip(lost["learnt"], lost["task"], lost["seed"], strict=True))
    assert places == ([(after, 1, 1)] if after else [])


def test_rows_of_a_ragged_grid_keep_their_names(store: Store, tmp_path: Path) -> None:
    """drop_wave with top_k 2 and 4, ackley with 2 alone."""
    cells = []
    for function, k in (("drop_wave", 2), ("drop_wave", 4), ("ackley", 2)):
        for seed in SEEDS:
            summary = sequence_of(function, "queryable", seed)
            summary["run_id"] += f"-{k}"
            write_folder(store.run_folder(summary["run_id"]), summary)
            where = (summary["run_id"], function, "queryable", seed)
            cells.append(Cell(*where, "lora_r4", {"method.top_k": k}, ("method.top_k",)))
    store.write_study(STUDY, cells)
    assert command(store, tmp_path) == 0
    frame = measured(store)
    labels = [f"queryable (method.top_k={k})" for k in (2, 4)]
    left, right = forgetting_bars(frame).axes
    assert [text.get_text() for text in left.get_yticklabels()] == labels
    assert [len(axis.patches) for axis in (left, right)] == [2, 1]
    (panel, *_) = loss_matrices(frame[frame["function"] == "ackley"]).axes
    assert panel.get_title() == labels[0]


def test_usage_maps_show_the_first_seed_that_is_done(store: Store) -> None:
    change(store, "ackley-queryable-0", status="diverged")
    frame = measured(store)
    figure = usage_maps(frame[frame["method"] == "queryable"])
    shown = [axis for axis in figure.axes if axis.images]
    titles = ["Drop-Wave: queryable", "Ackley: queryable"]
    assert [axis.get_title() for axis in shown] == titles
    for axis, (function, seed) in zip(shown, (("drop_wave", 0), ("ackley", 1)), strict=True):
        usage = (store.summary(f"{function}-queryable-{seed}") or {})["atom_usage"]
        (image,) = axis.images
        for task in range(TASKS):
            for block in range(BLOCKS):
                own = image.get_array()[task, block * ATOMS : (block + 1) * ATOMS]
                np.testing.assert_array_equal(own, usage[task][block])
        np.testing.assert_array_equal(axis.get_xticks(), [2.0, 7.0])  # the middle of each block
        (line,) = axis.lines
        assert set(line.get_xdata()) == {ATOMS - 0.5}


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
        **dict.fromkeys(("final_loss", "learnt", "forgetting", "drift", "atoms"), math.inf),
        **dict.fromkeys(("backward", "forward"), -math.inf),
    }
    assert set(rows["infinite"]) == {1}
    text = (tmp_path / STUDY / "continual.md").read_text()
    assert text.count("| inf (1/3) |") == 5
    assert text.count("| -inf (1/3) |") == 2
    frame = measured(store)
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
    frame = measured(store)
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
    lines = [line for line in axis.lines if line.get_marker() == "None"]
    lines = lines[:-2]  # the last ones are the learner of the latest task alone, and 0
    return [tuple(line.get_xdata()) for line in lines]


def test_the_interval_is_students_and_one_seed_has_none(store: Store) -> None:
    frame = measured(store)
    frame = frame[(frame["function"] == "ackley") & (frame["method"] != "frozen")]
    expected = []
    for method in ("lora", "queryable"):
        values = frame.loc[frame["method"] == method, "sequence.forgetting"]
        expected.append(scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95))
    np.testing.assert_allclose(drawn_intervals(frame), expected)
    assert drawn_intervals(frame[frame["seed"] == 0]) == []


def test_a_lane_that_stopped_early_retains_nothing(store: Store, tmp_path: Path) -> None:
    """A diverged run whose numbers stand still and are finite, as a stopped lane's are."""
    still = [[0.5] * TASKS] + [[0.2] * TASKS] * TASKS
    no_drift = [[0.0] * (task + 1) for task in range(TASKS)]
    lost = "ackley-queryable-1"
    change(store, lost, status="diverged", task_losses=still, route_drift=no_drift)
    frame = measured(store)
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
