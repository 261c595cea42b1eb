"""Costs beside ratios, and the fronts that no method beats."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import nothing, paper_says, study

from analysis.benchmark import SYNTHETIC
from analysis.table import with_columns
from analysis.views.pareto import _fronts, costs_and_ratios, pareto_figure

numbers = st.integers(1, 4).map(float)  # few values, so that ties are common

COSTS = SYNTHETIC.costs


def priced(**of_queryable: float) -> pd.DataFrame:
    """A study in which all methods cost the same but queryable."""
    frame = study(paper_says, noise=0.0).assign(frozen_loss_clean=100.0)
    own = frame["method"] == "queryable"
    costs = {"trainable_parameters": 1000.0, "seconds": 2.0, "lane_bytes": 2.0**22}
    return with_columns(
        frame.assign(
            **{
                cost: np.where(own, of_queryable.get(cost, value), value)
                for cost, value in costs.items()
            }
        )
    )


@given(st.lists(st.tuples(numbers, numbers, st.booleans()), min_size=1, max_size=8))
def test_a_front_is_what_no_adapter_beats(rows: list[tuple[float, float, bool]]) -> None:
    block = pd.DataFrame(rows, columns=["ratio", "cost", "is_reference"])
    table = _fronts(block.assign(**dict.fromkeys(COSTS, block["cost"])), COSTS)
    found = table[table["front_seconds"]]
    adapters = table[~table["is_reference"]]
    assert not found["is_reference"].any()
    assert found.empty == adapters.empty
    for row in adapters.to_dict("records"):
        beats = (found["ratio"] <= row["ratio"]) & (found["seconds"] <= row["seconds"])
        assert beats.any()  # itself, where it is on the front
        strictly = beats & ((found["ratio"] < row["ratio"]) | (found["seconds"] < row["seconds"]))
        assert strictly.any() != row["front_seconds"]


def test_a_better_and_cheaper_method_stands_alone() -> None:
    table = costs_and_ratios(priced(seconds=1.0), COSTS).set_index("method")
    assert table["front_seconds"].to_dict() == {
        method: method == "queryable" for method in table.index
    }
    assert table.loc["queryable", "ratio"] < 1 == table.loc["lora", "ratio"]
    assert table.loc["full", "is_reference"]


def test_a_better_and_dearer_one_does_not() -> None:
    table = costs_and_ratios(priced(seconds=3.0), COSTS).set_index("method")
    assert table.loc["lora", "front_seconds"]
    assert table.loc["queryable", "front_seconds"]
    assert not table.loc["lora", "front_lane_bytes"]  # at the same memory the better one wins


def test_costs_are_means_over_runs_and_the_figure_has_a_panel_each() -> None:
    frame = priced()
    frame["seconds"] = 1.0 + frame["seed"]
    table = costs_and_ratios(frame, COSTS)
    assert table["seconds"].tolist() == pytest.approx([2.5] * len(table))
    figure = pareto_figure(table, "lora_r4", COSTS)
    assert [axis.get_xlabel() for axis in figure.axes] == list(COSTS.values())


def test_without_lora_nothing_is_held_against_it() -> None:
    frame = study(nothing).assign(frozen_loss_clean=100.0)
    alone = with_columns(frame[frame["method"] != "lora"].assign(lane_bytes=1.0, seconds=1.0))
    assert costs_and_ratios(alone, COSTS).empty
