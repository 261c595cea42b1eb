"""What makes a number doubtful: the quality columns of the table, and the values behind them."""

import json
import math
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from analysis.names import FROZEN, UNRESTRICTED
from qlexp.store.files import FINISHED

COUNT_TOLERANCE = 0.1  # trainable parameters further from LoRA's are marked
MATCHED = "matched"  # the control of an instruction under which a target has its own text
LEAST_LEARNT = 0.5  # a run that learnt less of what the frozen backbone lacks says little


def off_budget(count: pd.Series, reference: pd.Series) -> pd.Series:
    """Whether trainable parameters lie further than `COUNT_TOLERANCE` from LoRA's, elementwise.

    Where either is missing they do not.
    """
    return abs(count - reference) > COUNT_TOLERANCE * reference


def not_learnable(frame: pd.DataFrame) -> dict[str, dict[int, float]]:
    """Functions that full fine-tuning could not learn: its test R² below 0, by seed.

    Of targets in sequence each counts as it stood when it was learnt, not as later ones left it.
    """
    needed = ["function", "seed", "status", "test_loss", "test_r2", "task_losses"]
    full = frame.loc[frame["method"] == UNRESTRICTED, [name for name in needed if name in frame]]
    full = full.assign(learnt_r2=[_learnt_r2(run) for run in full.to_dict("records")])
    return _by_function(full[full["learnt_r2"] < 0], "learnt_r2")


def _learnt_r2(run: dict[Hashable, Any]) -> float:
    """The test R² of a run; of targets in sequence, with each one's loss right after its turn."""
    losses, last = run.get("task_losses"), run["test_loss"]
    if not isinstance(losses, str) or not 0 < last < math.inf:
        return float(run["test_r2"])
    variance = last / (1 - run["test_r2"])
    return 1 - _just_learnt(losses) / variance


def _just_learnt(losses: str) -> float:
    """The mean loss of targets in sequence, each right after its turn; NaN of what is no matrix."""
    try:
        matrix = np.array(json.loads(losses), dtype=float)
        return float(np.diagonal(matrix, offset=-1).mean())
    except ValueError:  # the view of sequences names the run
        return math.nan


def weak_backbones(frame: pd.DataFrame) -> dict[str, dict[int, float]]:
    """Functions with a backbone whose validation R² is below its floor: that R², by seed."""
    floor = frame.get("config.trainer.r2_floor", math.nan)
    return _by_function(frame[frame["pretrain_r2"] < floor], "pretrain_r2")


def learnt(frame: pd.DataFrame) -> pd.Series:
    """The share of the frozen backbone's loss above the noise that adaptation took away.

    By validation loss, since a flag chooses runs; of targets in sequence by the test loss of each
    right after its turn. 1 is all of it, 0 none; NaN without a finished run, or where the frozen
    backbone lacked nothing.
    """
    noise = pd.to_numeric(_column(frame, "config.data.noise", 0.0)).astype(float)
    in_turn = _column(frame, "task_losses", None).where(frame["status"] == "done").dropna()
    loss = in_turn.map(_just_learnt).astype(float).reindex(frame.index)
    lacking = frame["frozen_loss"] - noise**2
    loss = loss.fillna(frame["validation_loss"])
    return 1 - (loss - noise**2) / lacking.where(lacking > 0)


def little_learnt(frame: pd.DataFrame) -> pd.Series:
    """Whether a run learnt less than `LEAST_LEARNT`, elementwise.

    Not of runs that diverged or train nothing, nor of those that read another text than their
    target's: what such a control does not learn is what it shows.
    """
    own_text = _column(frame, "config.instruction.control", MATCHED) == MATCHED
    trained = (frame["status"] == "done") & (frame["method"] != FROZEN)
    return trained & own_text & ~(learnt(frame) >= LEAST_LEARNT)


def _column(frame: pd.DataFrame, name: str, default: object) -> pd.Series:
    return frame[name] if name in frame else pd.Series(default, index=frame.index)


def _by_function(cells: pd.DataFrame, column: str) -> dict[str, dict[int, float]]:
    done = cells[cells["status"].isin(FINISHED)]
    return {
        function: {int(seed): float(values.min()) for seed, values in part.groupby("seed")[column]}
        for function, part in done.groupby("function")
    }
