"""Each adapter beside LoRA of its cell, against plain loops."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_tables import (
    ADAPTERS,
    FUNCTIONS,
    SEEDS,
    VALUES,
    long_table,
    losses_of,
    named,
    pairs_of,
    plain_mean,
    plain_ratio,
    row,
)

from analysis.stats.aggregates import improvement, iqm
from analysis.stats.pairs import common, extended_mean, groups, log_ratio, partner_of, unpaired
from analysis.stats.ranks import against_baseline


def test_every_adapter_stands_beside_lora_of_its_cell(frame: pd.DataFrame) -> None:
    cells = pairs_of(frame)
    assert set(cells["method"]) == set(ADAPTERS)
    assert len(cells) == 2 * len(FUNCTIONS) * len(ADAPTERS) * len(SEEDS)
    for cell in cells.itertuples():
        base = losses_of(frame, cell.budget, "lora")[cell.function, cell.seed]
        assert cell.log_ratio == pytest.approx(plain_ratio(cell.loss, base))


@given(st.lists(VALUES, min_size=1, max_size=9))
def test_an_extended_mean_is_never_nan(values: list[float]) -> None:
    assert float(extended_mean(np.array(values))) == pytest.approx(plain_mean(values), abs=1e-9)
    stacked = extended_mean(np.array([values, [0.0] * len(values)]))
    assert stacked[1] == 0.0
    assert extended_mean(np.array([values]), axis=0).tolist() == pytest.approx(values)


def test_no_value_has_no_mean() -> None:
    assert math.isnan(float(extended_mean(np.array([]))))


def test_equal_losses_are_tied_whatever_they_are() -> None:
    ratios = log_ratio(
        np.array([0.0, np.inf, 1.0, np.inf, 1.0, 0.0]), np.array([0, np.inf, 1, 1, np.inf, 1])
    )
    assert ratios.tolist() == [0.0, 0.0, 0.0, math.inf, -math.inf, -math.inf]


def test_a_block_without_lora_is_normalised_by_the_frozen_backbone() -> None:
    frame = long_table()
    frame = frame[(frame["budget"] == "equal_rank") | (frame["method"] != "lora")]
    cells = pairs_of(frame)
    assert set(zip(cells["budget"], cells["baseline"], strict=True)) == {
        ("equal_rank", "lora"),
        ("lora_r4", "frozen"),
    }
    own = cells[(cells["budget"] == "lora_r4") & np.isfinite(cells["loss"])]
    np.testing.assert_allclose(own["log_ratio"], np.log(own["loss"] / 2.0))
    assert set(against_baseline(cells)["budget"]) == {"equal_rank"}


def test_a_variant_stands_beside_lora_of_its_own() -> None:
    frame = long_table(infinite=0.0)
    frame = frame[(frame["budget"] == "equal_rank") & frame["method"].isin(["lora", "dora"])]
    parts = [
        named(frame, f"noise={noise}").assign(test_loss_clean=frame["test_loss_clean"] * factor)
        for noise, factor in ((1, 1.0), (2, 3.0))
    ]
    cells = pairs_of(pd.concat(parts, ignore_index=True))
    assert set(cells["variant"]) == {"noise=1", "noise=2"}
    first, second = (cells[cells["variant"] == f"noise={n}"]["log_ratio"] for n in (1, 2))
    np.testing.assert_allclose(first, second)
    one_lora = pd.concat([parts[0], parts[1][parts[1]["method"] == "dora"]], ignore_index=True)
    cells = pairs_of(one_lora)
    first, second = (
        cells[(cells["variant"] == variant) & (cells["method"] == "dora")]["log_ratio"].to_numpy()
        for variant in ("noise=1", "noise=2")
    )
    np.testing.assert_allclose(second, first + math.log(3.0))


def test_functions_that_cannot_be_learnt_are_left_out_with_all_seeds() -> None:
    frame = long_table()
    place = (frame["function"] == "levy") & (frame["method"] == "full") & (frame["seed"] == 1)
    frame.loc[place & (frame["budget"] == "equal_rank"), "learnt_r2"] = -0.1
    assert set(pairs_of(frame)["function"]) == set(FUNCTIONS) - {"levy"}


def test_missing_cells_are_in_no_pair_and_named() -> None:
    frame = long_table(infinite=0.0)
    gone = (frame["function"] == "levy") & (frame["method"] == "lora") & (frame["seed"] == 1)
    frame.loc[gone, ["status", "test_loss_clean"]] = ["missing", math.nan]
    cells = pairs_of(frame)
    assert unpaired(cells[cells["budget"] == "lora_r4"]) == [
        "dora on levy (lora_r4), seed 1",
        "queryable on levy (lora_r4), seed 1",
    ]
    dora = row(iqm(cells), budget="lora_r4", method="dora")
    assert (dora["cells"], dora["unpaired"]) == (15, 1)
    assert (
        len(
            groups(
                cells[(cells["budget"] == "lora_r4") & (cells["method"] == "dora")], "log_ratio"
            )[3]
        )
        == 2
    )
    assert len(common(cells[cells["budget"] == "lora_r4"])) == 14
    chance = row(improvement(cells), budget="lora_r4", method="dora", other="queryable")
    assert chance["cells"] == 15  # LoRA's gap does not touch what the two have


@pytest.mark.parametrize(
    ("variant", "known", "wanted"),
    [
        ("x=1", ["x=1", ""], "x=1"),
        ("x=2", ["x=1"], "x=1"),
        ("x=2", ["x=1", "x=3"], None),
        ("data.noise=0.2", [""], None),
        ("x=2; data.noise=0.2", ["", "data.noise=0.2"], "data.noise=0.2"),
        ("x=2", ["", "data.noise=0.2"], ""),
        ("x=2", [], None),
    ],
)
def test_lora_stands_beside_what_was_learnt_under_its_condition(
    variant: str, known: list[str], wanted: str | None
) -> None:
    assert partner_of(variant, known) == wanted
