"""Test losses at equal training loss, on runs whose way is planted."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import DECIDING
from planted import nothing, study

from analysis.table import with_columns
from analysis.views.matched import FITTED, _at, matched

STEPS = (1, 3, 6, 12, 25, 50)  # of 100


def on_the_way(frame: pd.DataFrame, faster: float, better: float) -> pd.DataFrame:
    """Runs on one curve, test loss = training loss ** 0.5.

    Queryable goes `faster` times as far along it, and lies `better` times below it.
    """

    def losses(run: pd.Series, done: float) -> tuple[float, float]:
        own = run["method"] == "queryable"
        fit = 1.0 / (done * (faster if own else 1.0)) * (1 + 0.1 * run["seed"])
        return fit, fit**0.5 * (better if own else 1.0)

    rows = []
    for _, run in frame.iterrows():
        ways = list(zip(*(losses(run, done) for done in STEPS), strict=True))
        fit, test = losses(run, 100)
        rows.append(
            {
                FITTED: fit,
                DECIDING: test,
                "path.updates": json.dumps(STEPS),
                f"path.{FITTED}": json.dumps(ways[0]),
                f"path.{DECIDING}": json.dumps(ways[1]),
            }
        )
    return with_columns(frame.assign(**pd.DataFrame(rows, index=frame.index)))


@pytest.mark.parametrize(("faster", "better"), [(3.0, 1.0), (0.5, 1.0), (1.0, 0.8), (2.5, 0.8)])
def test_what_is_a_matter_of_how_far_a_run_has_come_is_told_from_what_is_not(
    faster: float, better: float
) -> None:
    cells = matched(on_the_way(study(nothing), faster, better))
    own = cells[cells["method"] == "queryable"]
    assert len(own) == 9 * 4
    assert own["fit"].to_numpy() == pytest.approx(-math.log(faster))
    assert own["end"].to_numpy() == pytest.approx(math.log(better) - math.log(faster) / 2)
    assert own["matched"].to_numpy() == pytest.approx(math.log(better))
    assert own["level"].to_numpy() == pytest.approx(
        np.log((1 + 0.1 * own["seed"]) / (100 * min(1, faster)))
    )


def test_runs_that_diverged_or_tell_no_losses_have_no_ratio() -> None:
    frame = on_the_way(study(nothing), 2.0, 1.0)
    lost = (frame["method"] == "lora") & (frame["seed"] == 0)
    cells = matched(frame.assign(status=frame["status"].mask(lost, "diverged")))
    diverged = cells["seed"] == 0
    assert (cells["status"] == "diverged").equals(diverged)
    for name in ("fit", "end", "matched"):
        assert cells[name].isna().equals(diverged)
    silent = [name for name in frame if name.startswith("path.")]
    assert matched(frame.drop(columns=silent)).empty
    faster = (frame["method"] == "queryable") & (frame["seed"] == 0)
    cells = matched(frame.assign(**{name: frame[name].mask(faster) for name in silent}))
    unknown = (cells["method"] == "queryable") & (cells["seed"] == 0)
    assert cells["matched"].isna().equals(unknown)
    assert cells["end"].notna().all()


@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=8, unique=True),
    st.lists(st.floats(-5, 5), min_size=8, max_size=8),
    st.floats(0, 1),
)
def test_between_two_moments_the_losses_lie_on_a_line(
    fits: list[float], tests: list[float], share: float
) -> None:
    fall = np.sort(fits)[::-1]
    known = np.array(tests[: len(fall)])
    level = fall[-1] + share * (fall[0] - fall[-1])
    expected = np.interp(-level, -fall, known)
    assert _at(np.array([fall, known]), level) == pytest.approx(expected, abs=1e-6)
    assert math.isnan(_at(np.array([fall, known]), fall[-1] - 1))
    assert math.isnan(_at(np.array([fall, known]), fall[0] + 1))
