"""What makes a number doubtful: the quality columns of the table, and the values behind them."""

import math

import pandas as pd

from analysis.benchmark import benchmark_of
from analysis.names import FROZEN, UNRESTRICTED
from qlexp.store.files import FINISHED

COUNT_TOLERANCE = 0.1  # trainable parameters further from LoRA's are marked
MATCHED = "matched"  # the control of an instruction under which a target has its own text


def off_budget(count: pd.Series, reference: pd.Series) -> pd.Series:
    """Whether trainable parameters lie further than `COUNT_TOLERANCE` from LoRA's, elementwise.

    Where either is missing they do not.
    """
    return abs(count - reference) > COUNT_TOLERANCE * reference


def not_learnable(frame: pd.DataFrame) -> dict[str, dict[int, float]]:
    """Functions that full fine-tuning could not learn: its validation R² below 0, by seed.

    Of targets in sequence each counts as it stood when it was learnt, not as later ones left it.
    """
    full = frame[frame["method"] == UNRESTRICTED]
    return _by_function(full[full["learnt_r2"] < 0], "learnt_r2")


def weak_backbones(frame: pd.DataFrame) -> dict[str, dict[int, float]]:
    """Functions with a backbone whose validation R² is below its floor: that R², by seed."""
    floor = frame.get("config.trainer.r2_floor", math.nan)
    return _by_function(frame[frame["pretrain_r2"] < floor], "pretrain_r2")


def beyond_reach(frame: pd.DataFrame) -> dict[str, dict[int, float]]:
    """Functions of which some target values lie where the frozen head cannot go, whatever an
    adapter does before it: their share of the test sample, by seed."""
    return _by_function(frame[frame["beyond_head"] > 0], "beyond_head")


def learnt(frame: pd.DataFrame) -> pd.Series:
    """The share of the frozen backbone's loss above the noise that adaptation took away.

    By validation loss, since a flag chooses runs; of targets in sequence by that of each right
    after its turn. 1 is all of it, 0 none; NaN without a finished run, or where the frozen backbone
    lacked nothing.
    """
    noise = pd.to_numeric(_column(frame, "config.data.noise", 0.0)).astype(float)
    lacking = frame["frozen_validation_loss"] - noise**2
    return 1 - (frame["learnt_loss"] - noise**2) / lacking.where(lacking > 0)


def little_learnt(frame: pd.DataFrame) -> pd.Series:
    """Whether a run learnt less than the least of its benchmark, elementwise.

    Not of runs that diverged or train nothing, nor of those that read another text than their
    target's: what such a control does not learn is what it shows.
    """
    own_text = _column(frame, "config.instruction.control", MATCHED) == MATCHED
    trained = (frame["status"] == "done") & (frame["method"] != FROZEN)
    return trained & own_text & ~(learnt(frame) >= benchmark_of(frame).least_learnt)


def _column(frame: pd.DataFrame, name: str, default: object) -> pd.Series:
    return frame[name] if name in frame else pd.Series(default, index=frame.index)


def _by_function(cells: pd.DataFrame, column: str) -> dict[str, dict[int, float]]:
    done = cells[cells["status"].isin(FINISHED)]
    return {
        function: {int(seed): float(values.min()) for seed, values in part.groupby("seed")[column]}
        for function, part in done.groupby("function")
    }
