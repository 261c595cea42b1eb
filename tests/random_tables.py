"""Long tables with random losses, and plain loops over them."""

import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from made_up import DECIDING

from analysis.stats.pairs import paired
from analysis.table import with_columns

FUNCTIONS = ("drop_wave", "matyas", "ackley", "levy", "griewank")
METHODS = ("frozen", "lora", "dora", "queryable", "full")
ADAPTERS = ("lora", "dora", "queryable")
SEEDS = (0, 1, 2)
VALUES = st.floats(-100, 100) | st.sampled_from([math.inf, -math.inf])

QUALITY = {
    "pretrain_r2": 0.9,
    "test_r2": 0.9,
    "learnt_r2": 0.9,
    "learnt_loss": 0.1,
    "frozen_loss": 1.0,
    "frozen_loss_clean": 1.0,
    "frozen_validation_loss": 1.0,
    "beyond_head": 0.0,
}  # of a run that nobody doubts

TABLES = {"finite": (0, 0.0, False), "diverged_and_tied": (3, 0.3, True)}  # of `long_table`


def long_table(
    seed: int = 0,
    infinite: float = 0.1,
    ties: bool = False,
    functions: Sequence[str] = FUNCTIONS,
) -> pd.DataFrame:
    """Random losses in two budgets; with `ties` they are coarse. The noise comes on top of them.

    Some are infinite: with seed 0 they lie above the ceiling, with the others the run diverged.
    """
    draw, rows = np.random.default_rng(seed), []
    for budget, function, method, number in itertools.product(
        ("equal_rank", "lora_r4"), functions, METHODS, SEEDS
    ):
        loss = float(draw.integers(1, 4) / 8 if ties else draw.lognormal(-3, 1))
        lost = method in ADAPTERS and draw.random() < infinite
        rows.append(
            {
                "budget": budget,
                "function": function,
                "method": method,
                "overrides": "",
                "settings": {},
                "seed": number,
                "run_id": f"{budget}-{function}-{method}-{number}",
                "status": "diverged" if lost and number else "done",
                "error": None,
                **QUALITY,
                "frozen_loss": 2.25,
                "frozen_loss_clean": 2.0,
                "validation_loss": 1.0,
                "test_loss": math.inf if lost else loss + 0.25,
                "test_loss_clean": math.inf if lost else loss,
                "reading": False,
                "trainable_parameters": 1000,
                "reference_parameters": 1000,
            }
        )
    return pd.DataFrame(rows)


def pairs_of(frame: pd.DataFrame, loss: str = DECIDING) -> pd.DataFrame:
    """The paired cells of a table that has no columns of `analysis.table` yet."""
    return paired(with_columns(frame), loss)


def named(frame: pd.DataFrame, text: str | None = None) -> pd.DataFrame:
    """`frame` with the settings that `text` gives, or its column `overrides`: `a=1; b=x`."""
    frame = frame if text is None else frame.assign(overrides=text)
    return frame.assign(settings=frame["overrides"].map(settings_of))


def settings_of(text: str) -> dict[str, Any]:
    """`a=1; b=x` -> {"a": 1, "b": "x"}."""
    words = (word.partition("=") for word in text.split("; ") if word)
    return {key: _typed(value) for key, _, value in words}


def _typed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def losses_of(frame: pd.DataFrame, budget: str, method: str) -> dict[tuple[str, int], float]:
    own = frame[(frame["budget"] == budget) & (frame["method"] == method)]
    return {
        (c.function, c.seed): c.test_loss_clean for c in own.itertuples() if c.status != "missing"
    }


def diverged_of(frame: pd.DataFrame, budget: str, method: str) -> list[str]:
    """The function of each run that diverged."""
    own = frame[(frame["budget"] == budget) & (frame["method"] == method)]
    return [cell.function for cell in own.itertuples() if cell.status == "diverged"]


def plain_ratio(loss: float, base: float) -> float:
    if loss == base:
        return 0.0
    if math.isinf(loss):
        return math.inf
    return -math.inf if math.isinf(base) else math.log(loss / base)


def plain_mean(values: list[float]) -> float:
    above = sum(value == math.inf for value in values)
    below = sum(value == -math.inf for value in values)
    finite = [value for value in values if math.isfinite(value)]
    if above != below:
        return math.inf if above > below else -math.inf
    return sum(finite) / len(finite) if finite else 0.0


def row(table: pd.DataFrame, **wanted: object) -> pd.Series:
    """The one row of `table` with these values."""
    for name, value in wanted.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def same(one: list[pd.DataFrame], other: list[pd.DataFrame]) -> None:
    for first, second in zip(one, other, strict=True):
        keys = [name for name in first if first[name].dtype.kind not in "f"] + ["factor"]
        keys = [name for name in keys if name in first]
        pd.testing.assert_frame_equal(
            first.sort_values(keys, ignore_index=True),
            second.sort_values(keys, ignore_index=True),
            check_exact=False,
        )
