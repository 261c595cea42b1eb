"""The figures of a made-up study."""

import statistics
from functools import partial
from pathlib import Path

import matplotlib.colors
import numpy as np
import pytest
import torch
from build import composed
from made_up import (
    BUDGETS,
    SEEDS,
    STUDY,
    cell_of,
    check_svg,
    curves_of,
    plain_losses,
    render,
    summary_of,
    write_run,
)
from torch import nn

from analysis.figures.contours import grid, levels_around_zero
from analysis.figures.curves import curves_figure
from analysis.figures.predictions import SIDE, Prediction, evaluate, predictions_figure
from analysis.figures.targets import Drawn, problems_of, targets_figure
from analysis.render import style
from analysis.table import read_table
from analysis.views import figures
from qlexp.adapters.stored import stored_config
from qlexp.problem.targets import problem_of
from qlexp.store.store import Store

command = partial(render, "figures")


class Tilted(nn.Module):
    """A one-lane model that predicts x_1 + 2 x_2."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def figures_run(store: Store, out: Path, *more: str) -> list[Path]:
    assert command(store, out, *more) == 0
    return sorted((out / STUDY).iterdir())


# The files


def test_figures_of_a_study(made_up: Store, tmp_path: Path) -> None:
    files = figures_run(made_up, tmp_path)
    assert [path.name for path in files] == [
        *("curves_equal_rank.svg", "curves_lora_r4.svg", "targets.svg")
    ]
    for path in files:
        check_svg(path)
    again = figures_run(made_up, tmp_path / "again")
    assert [path.read_bytes() for path in files] == [path.read_bytes() for path in again]


def test_figures_of_a_function(gappy: Store, tmp_path: Path, monkeypatch) -> None:
    asked = []

    def load_run(store: Store, identity: str) -> tuple[nn.Module, object]:
        asked.append(identity)
        return Tilted(), problem_of(stored_config(store, identity))

    monkeypatch.setattr(figures, "load_run", load_run)
    files = figures_run(gappy, tmp_path, "--function", "matyas")
    assert [path.name for path in files] == [
        f"{kind}_{budget}_matyas.svg" for kind in ("curves", "predictions") for budget in BUDGETS
    ]
    for path in files:
        check_svg(path)
    drawn = [f"matyas-{method}-0" for method in ("frozen", "lora", "shared_lora", "full")]
    assert asked == drawn * 2  # queryable diverged: named, not drawn


def test_predictions_of_methods_that_read_a_text(studied: Store, tmp_path: Path) -> None:
    assert command(studied, tmp_path, "--function", "matyas", study="tiny") == 0
    check_svg(tmp_path / "tiny" / "predictions_equal_rank_matyas.svg")


def test_an_unknown_function_is_named(made_up: Store, tmp_path: Path, capsys) -> None:
    assert command(made_up, tmp_path, "--function", "drop_wav") == 2
    assert "Did you mean 'drop_wave'?" in capsys.readouterr().err


def test_unreadable_curves_are_refused(made_up: Store, tmp_path: Path, capsys) -> None:
    (made_up.run_folder("levy-lora-1") / "curves.parquet").write_text("nothing")
    assert command(made_up, tmp_path) == 2
    assert "curves of run levy-lora-1 are not readable" in capsys.readouterr().err


# Curves


def test_curves_are_the_mean_over_seeds(made_up: Store) -> None:
    frame = read_table(made_up, STUDY)
    frame = frame[(frame["budget"] == "equal_rank") & (frame["function"] == "ackley")]
    figure = curves_figure(made_up, frame)
    (axis,) = figure.axes
    assert axis.get_yscale() == "log"
    assert axis.get_xlabel() == "update"
    assert axis.get_ylabel() == "training loss (standardised)"
    by_colour = {line.get_color(): line for line in axis.lines}
    line = by_colour[style.method_colour("full")]
    summaries = [made_up.summary(f"ackley-full-{seed}") for seed in SEEDS]
    expected = np.mean([curves_of(s)["loss"] for s in summaries if s], axis=0)
    np.testing.assert_allclose(line.get_ydata(), expected)
    assert np.isnan(by_colour[style.method_colour("lora")].get_ydata()[-1])
    assert [text.get_text() for text in axis.texts] == ["lora: 1/3 diverged"]
    frozen = by_colour[style.method_colour("frozen")].get_ydata()
    assert frozen[0] == pytest.approx(
        statistics.fmean(plain_losses(made_up, "ackley", "frozen", "post_train_loss"))
    )
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        *("frozen", "lora", "shared_lora", "queryable", "full", "variance of the noise")
    ]


def test_gaps_are_named_in_the_curves(gappy: Store) -> None:
    frame = read_table(gappy, STUDY)
    frame = frame[(frame["budget"] == "equal_rank") & (frame["function"] == "levy")]
    (axis,) = curves_figure(gappy, frame).axes
    assert [text.get_text() for text in axis.texts] == ["lora: 3/3 missing"]


def test_named_methods_have_colours_of_their_own() -> None:
    methods = ("frozen", "lora", "dora", "shared_lora", "queryable", "full")
    colours = [style.method_colour(method) for method in methods]
    assert len(set(colours)) == len(colours)
    assert all(matplotlib.colors.is_color_like(style.method_colour(m)) for m in (*methods, "new"))


# Predictions and targets


def test_predictions_fall_where_they_belong() -> None:
    points = grid(5)
    values = evaluate(Tilted(), torch.as_tensor(points[None], dtype=torch.float32))
    np.testing.assert_allclose(values, points[:, 0] + 2 * points[:, 1], atol=1e-6)
    assert points[1].tolist() == [-0.5, -1.0]


def test_prediction_panels_are_labelled() -> None:
    problem = problem_of(composed("function=matyas"))
    points = torch.as_tensor(grid(SIDE)[None], dtype=torch.float32)
    predictions = [
        Prediction(("lora", ""), "done", problem, evaluate(Tilted(), points)),
        Prediction(("queryable", ""), "diverged", problem),
        Prediction(("dora", ""), "missing"),
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
        predictions.append(Prediction(("lora", f"{strength}"), "done", problem, values + 0.5))
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
    own = Prediction(("lora", ""), "done", problem, problem.target(grid(SIDE)))
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
    frame = read_table(store, STUDY)
    drawn = problems_of(store, frame)["matyas"]
    assert drawn.setting == "shift.strength=0.1"
    assert drawn.problem.shift.strength == 0.1
    titles = [axis.get_title() for axis in targets_figure({"matyas": drawn}).axes]
    assert "target\nshift.strength=0.1" in titles
    assert problems_of(store, frame[:1])["matyas"].setting == ""


def test_diverging_levels_are_symmetric() -> None:
    levels = levels_around_zero([np.array([-3.0, 1.0])])
    np.testing.assert_allclose(levels, -levels[::-1], atol=1e-12)
    assert levels[-1] == 3.0
