"""The forest plot: ratios and intervals of a made-up study, and how they are drawn."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import STUDY, check_svg, render
from planted import NINE, diverged, nothing, paper_says, study
from scipy import stats as scipy_stats

from analysis.names import ALL
from analysis.render.style import figure_style
from analysis.stats.ratios import ratios
from analysis.table import with_columns
from analysis.views.forest import forest_figure
from qlexp.store.store import Store


def over_all(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows over all functions, by method."""
    table = ratios(with_columns(frame))
    return table[table["function"] == ALL].set_index("method")


def test_ratios_are_losses_over_loras() -> None:
    frame = study(paper_says, noise=0.2)
    table = ratios(with_columns(frame))
    losses = np.log(frame.set_index(["method", "function", "seed"])["test_loss_clean"])
    for method in ("queryable", "full"):
        rows = table[table["method"] == method].set_index("function")
        logs = (losses[method] - losses["lora"]).unstack()
        assert set(rows.index) == {ALL, *NINE}
        for function in NINE:
            values = logs.loc[function]
            oracle = scipy_stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
            own = rows.loc[function, ["ratio", "low", "high"]].astype(float)
            assert own.tolist() == pytest.approx(np.exp([values.mean(), *oracle]).tolist())
        assert rows.loc[ALL, "ratio"] == pytest.approx(math.exp(logs.to_numpy().mean()))
        assert rows.loc[ALL, "low"] < rows.loc[ALL, "ratio"] < rows.loc[ALL, "high"]
    assert table.loc[table["is_reference"], "method"].unique().tolist() == ["full"]
    assert not {"lora", "frozen"} & set(table["method"])


def test_references_serve_every_block() -> None:
    frame = study(nothing, budgets=("equal_rank", "lora_r4"))
    kept = frame[(frame["method"] != "full") | (frame["budget"] == "lora_r4")]
    table = ratios(with_columns(kept))
    full = table[(table["method"] == "full") & (table["function"] == ALL)]
    assert full["budget"].tolist() == ["equal_rank", "lora_r4"]


def test_functions_that_cannot_be_learnt_are_left_out() -> None:
    frame = study(nothing)
    lost = (frame["method"] == "full") & (frame["function"] == "levy")
    table = ratios(with_columns(frame.assign(learnt_r2=frame["learnt_r2"].mask(lost, -1.0))))
    assert "levy" not in set(table["function"])
    assert set(table.loc[table["function"] == ALL, "functions"]) == {8}


def test_a_block_without_lora_stands_over_the_frozen_backbone() -> None:
    frame = study(nothing)
    own = over_all(frame[frame["method"] != "lora"])
    assert set(own["baseline"]) == {"frozen"}
    assert (own["ratio"] < 0.01).all()


def test_a_diverged_run_is_an_infinite_ratio_that_can_be_drawn() -> None:
    frame = study(paper_says)
    lost = (frame["method"] == "queryable") & (frame["function"] == "levy") & (frame["seed"] == 0)
    table = ratios(with_columns(diverged(frame, lost)))
    own = table[(table["method"] == "queryable") & (table["function"] == ALL)].iloc[0]
    assert (own["ratio"], own["low"], own["high"]) == (math.inf, 0.0, math.inf)
    assert own["diverged"] == 1
    with figure_style():
        figure = forest_figure(table, "lora_r4", ["a doubt"])
    assert "inf [0.00, inf]" in [text.get_text() for text in figure.axes[0].texts]


def test_one_seed_has_no_interval() -> None:
    frame = study(nothing, seeds=1)
    own = over_all(frame)
    assert own["low"].isna().all()
    with figure_style():
        forest_figure(ratios(with_columns(frame)), "lora_r4", [])


def test_the_best_stands_on_top_and_references_below() -> None:
    frame = study(paper_says)
    full = frame["method"] == "full"
    frame["test_loss_clean"] = frame["test_loss_clean"].where(
        ~full, frame["test_loss_clean"] / 100
    )  # off the axis
    with figure_style():
        figure = forest_figure(ratios(with_columns(frame)), "lora_r4", [])
    (axis,) = figure.axes
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels[0] == "queryable"
    assert labels[-1] == "full"
    assert axis.get_xlim()[0] > 0.2
    assert "hyra (style)" in labels


def test_the_command_draws_a_plot_a_budget(made_up: Store, tmp_path: Path) -> None:
    assert render("forest", made_up, tmp_path) == 0
    found = sorted(path.name for path in (tmp_path / STUDY).iterdir())
    assert found == ["forest.csv", "forest_equal_rank.svg", "forest_lora_r4.svg"]
    for name in found[1:]:
        check_svg(tmp_path / STUDY / name)
        assert "below 1 is better" in (tmp_path / STUDY / name).read_text()
