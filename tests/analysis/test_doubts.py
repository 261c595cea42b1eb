"""Runs in doubt decide no claim: weak backbones, unchecked functions, too little learnt."""

import math

import numpy as np
import pandas as pd
import pytest
from planted import answers, nothing, only, paper_says, study
from test_claim_traces import controlled

from analysis.claims.rules import NOT_SUPPORTED, SUPPORTED, UNDECIDED
from analysis.doubts import doubts
from analysis.flags import learnt, little_learnt
from analysis.paper.claims import QUERYABLE
from analysis.table import with_columns

FLOOR = {"config.trainer.r2_floor": 0.9}


def with_value(frame: pd.DataFrame, column: str, value: float, **where: object) -> pd.DataFrame:
    """`frame` with one more value in the rows that `where` names."""
    place = np.all([frame[name] == wanted for name, wanted in where.items()], axis=0)
    return frame.assign(**{column: frame[column].mask(place, value)})


def test_a_weak_backbone_leaves_its_claims_open_and_others_not() -> None:
    frame = study(paper_says).assign(**FLOOR)
    assert answers(frame)["little_matyas"].verdict == SUPPORTED
    found = answers(with_value(frame, "pretrain_r2", 0.4, function="matyas"))
    for name in ("little_matyas", "held_out", "heterogeneous", "stability"):
        assert found[name].verdict == UNDECIDED, name
        assert found[name].doubts == ("weak backbone on Matyas",)
    assert found["little_ackley"].verdict == SUPPORTED
    assert found["drop_wave"].verdict == SUPPORTED


@pytest.mark.parametrize(("gain", "wanted"), [(paper_says, SUPPORTED), (nothing, NOT_SUPPORTED)])
def test_what_the_frozen_head_cannot_say_is_no_fault_of_an_adapter(gain, wanted: str) -> None:
    frame = study(gain, noise=0.001)
    found = answers(with_value(frame, "beyond_head", 0.01, function="drop_wave"))
    for name in ("drop_wave", "held_out", "fit", "fit_kept", "heterogeneous", "stability"):
        assert found[name].verdict == UNDECIDED, name
        assert found[name].doubts == ("targets beyond the frozen head's reach on Drop-Wave",)
    assert found["little_matyas"].verdict == SUPPORTED
    assert only(frame, "drop_wave").verdict == wanted
    once = with_value(frame, "beyond_head", 0.01, function="drop_wave", seed=2)
    assert only(once, "drop_wave").doubts == found["drop_wave"].doubts


def test_above_all_looks_at_every_other_function() -> None:
    frame = study(paper_says).assign(**FLOOR)
    weak = with_value(frame, "pretrain_r2", 0.4, function="matyas")  # not the closest rival
    found = only(weak, "drop_wave_above_all")
    assert found.verdict == UNDECIDED
    assert not any("matyas" in run for run in found.runs)


@pytest.mark.parametrize(("gain", "wanted"), [(paper_says, SUPPORTED), (nothing, NOT_SUPPORTED)])
def test_functions_that_were_not_checked_decide_nothing(gain, wanted: str) -> None:
    frame = study(gain, noise=0.001)
    assert only(frame, "drop_wave").verdict == wanted
    unchecked = only(frame[frame["method"] != "full"], "drop_wave")
    assert unchecked.verdict == UNDECIDED
    assert unchecked.doubts == (
        "learnability not checked on Drop-Wave (add method=full to the study)",
    )
    assert len(unchecked.runs) == 8  # what was found is shown
    failed = frame.assign(status=frame["status"].mask(frame["method"] == "full", "failed"))
    assert only(failed, "drop_wave").doubts == unchecked.doubts


@pytest.mark.parametrize("method", ["lora", QUERYABLE])
def test_a_method_that_hardly_moves_matches_nothing(method: str) -> None:
    frame = study(nothing, noise=0.001)
    assert only(frame, "little_matyas").verdict == SUPPORTED
    still = with_value(frame, "learnt_loss", 60.0, method=method, function="matyas", seed=2)
    found = only(still, "little_matyas")
    assert found.verdict == UNDECIDED
    assert found.doubts == (
        f"{method} learnt less than 50 % of what the frozen backbone lacks on Matyas",
    )
    assert only(still, "little_ackley").verdict == SUPPORTED


def test_what_a_control_does_not_learn_is_what_it_shows() -> None:
    frame = controlled(test_shuffled=3.0)
    control = frame["config.instruction.control"] != "matched"
    frame["learnt_loss"] = frame["learnt_loss"].mask(control, 100.0)
    assert only(frame, "text_test_shuffled").verdict == SUPPORTED
    own = frame["method"] == "instruction_queryable"
    frame["learnt_loss"] = frame["learnt_loss"].mask(own, 100.0)
    assert only(frame, "text_test_shuffled").verdict == UNDECIDED


def runs(**columns: object) -> pd.DataFrame:
    defaults = {"method": "lora", "status": "done"}
    defaults |= {"frozen_validation_loss": 1.25, "learnt_loss": 0.5}
    return pd.DataFrame({**defaults, "config.data.noise": 0.5, **columns}, index=[7])


def test_what_is_learnt_lies_above_the_noise() -> None:
    assert learnt(runs()).item() == pytest.approx(0.75)
    assert learnt(runs(frozen_validation_loss=math.nan)).isna().item()
    lacking_nothing = runs(frozen_validation_loss=0.24, learnt_loss=0.1)
    assert learnt(lacking_nothing).isna().item()
    assert little_learnt(lacking_nothing).item()
    assert not little_learnt(runs()).item()
    for quiet in ({"status": "diverged"}, {"status": "missing"}, {"method": "frozen"}):
        assert not little_learnt(runs(learnt_loss=1.25, **quiet)).item()


def test_what_was_learnt_and_forgotten_was_learnt() -> None:
    """A run's `learnt_loss` is that of each target right after its turn."""
    frame = runs(validation_loss=1.2, test_loss=1.2)
    assert learnt(frame).item() == pytest.approx(0.75)
    assert learnt(frame.assign(status="diverged", learnt_loss=math.inf)).item() == -math.inf


def test_doubts_are_told_by_function() -> None:
    frame = with_columns(study(nothing).assign(**FLOOR))
    assert doubts(frame) == []
    assert doubts(frame.assign(weak_backbone=True)) == ["weak backbone on all 9 functions"]
    two = frame[frame["function"].isin(["ackley", "matyas"])]
    assert doubts(two.assign(weak_backbone=True)) == ["weak backbone on Matyas, Ackley"]
    assert doubts(two.assign(beyond_reach=True)) == [
        "targets beyond the frozen head's reach on Matyas, Ackley"
    ]
