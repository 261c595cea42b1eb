"""The one long table of a study: what is stored, and what every view has to know of a cell.

A view never computes anew what a column holds.
"""

import json

import numpy as np
import pandas as pd

from analysis.cells import not_learnable, off_budget, variants, weak_backbones
from analysis.conditions import conditions
from analysis.load import finished, load_study
from analysis.names import FROZEN, REFERENCES, UNRESTRICTED
from analysis.transfer import learnt_loss
from qlexp.store.store import Store

MATCHED = "matched"  # the control under which a target has its own text
LEAST_LEARNT = 0.5  # a run that learnt less of what the frozen backbone lacks says little


def read_table(store: Store, study: str) -> pd.DataFrame:
    """`load_study` with the columns of `with_columns`; raises its errors."""
    return with_columns(load_study(store, study))


def with_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with what is told of its cells beside each other.

    Columns:
        variant: the settings that tell the cell's row from others of its method, or "".
        condition: the settings that all methods share and the study sweeps, or "": losses of two
            conditions are not compared. `task`: the same without the backbone's.
        is_reference: the frozen backbone and full fine-tuning, which are no adapters.
        off_budget: the adapter's parameters lie further from LoRA's than `COUNT_TOLERANCE`.
        weak_backbone: the backbone's validation R² lies below its floor.
        not_learnable: full fine-tuning could not learn the function with one of its seeds;
            `learnability_checked`: the study has such a run of the function.
        learnt: the share of the frozen backbone's loss above the noise floor that adaptation took
            away, by validation loss: 1 is all of it, 0 none. Of targets in sequence, each as it
            was just learnt, by test loss. NaN without a finished run, or where nothing was lacking.
        little_learnt: the run trained, did not diverge and learnt less than `LEAST_LEARNT`. What a
            control of the instruction does not learn is what it shows, and is not flagged.
    """
    unlearnable, weak = not_learnable(frame), weak_backbones(frame)
    reference = frame["method"].isin(REFERENCES)
    done = finished(frame)
    checked = set(done.loc[done["method"] == UNRESTRICTED, "function"])
    learnt = _learnt(frame)
    return frame.assign(
        variant=variants(frame),
        condition=conditions(frame),
        task=conditions(frame, backbones=False),
        is_reference=reference,
        off_budget=off_budget(frame["trainable_parameters"], frame["reference_parameters"])
        & ~reference,
        weak_backbone=[
            seed in weak.get(function, {})
            for function, seed in zip(frame["function"], frame["seed"], strict=True)
        ],
        not_learnable=frame["function"].isin(list(unlearnable)),
        learnability_checked=frame["function"].isin(checked),
        learnt=learnt,
        little_learnt=(frame["status"] == "done")
        & (frame["method"] != FROZEN)
        & ~(learnt >= LEAST_LEARNT)
        & (_column(frame, "config.instruction.control", MATCHED) == MATCHED),
    )


def _learnt(frame: pd.DataFrame) -> pd.Series:
    noise = pd.to_numeric(_column(frame, "config.data.noise", 0.0)).astype(float)
    lacking = (frame["frozen_loss"] - noise**2).where(lambda lack: lack > 0)
    return 1 - (_final_loss(frame) - noise**2) / lacking


def _final_loss(frame: pd.DataFrame) -> pd.Series:
    """The validation loss; of targets in sequence, the mean test loss right after each."""
    losses = _column(frame, "task_losses", None).where(frame["status"] == "done").dropna()
    learnt = losses.map(lambda text: learnt_loss(np.array(json.loads(text), dtype=float)))
    return learnt.astype(float).reindex(frame.index).fillna(frame["validation_loss"])


def _column(frame: pd.DataFrame, name: str, default: object) -> pd.Series:
    return frame[name] if name in frame else pd.Series(default, index=frame.index)
