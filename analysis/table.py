"""The one long table of a study: what is stored, and what every view has to know of a cell.

A view never computes anew what a column holds.
"""

from collections.abc import Mapping

import pandas as pd

from analysis.benchmark import benchmark_of
from analysis.flags import (
    beyond_reach,
    learnt,
    little_learnt,
    not_learnable,
    off_budget,
    weak_backbones,
)
from analysis.load import finished, load_study
from analysis.names import REFERENCES, UNRESTRICTED
from analysis.settings import conditions, variants
from qlexp.store.store import Store


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
        beyond_reach: the frozen head cannot say some of the targets.
        not_learnable: full fine-tuning could not learn the function with one of its seeds;
            `learnability_checked`: the study has such a run of the function, or its benchmark wants
            none.
        learnt: the share of the frozen backbone's loss above the noise floor that adaptation took
            away: 1 is all of it, 0 none. `little_learnt`: too little to say much of the method.
    """
    unlearnable = not_learnable(frame)
    reference = frame["method"].isin(REFERENCES)
    done = finished(frame)
    if benchmark_of(frame).has_full:
        done = done[done["method"] == UNRESTRICTED]
    checked = set(done["function"])
    whole = frame.copy()  # in one block: a wide frame is slow to add columns to
    return whole.assign(
        variant=variants(frame),
        condition=conditions(frame),
        task=conditions(frame, backbones=False),
        is_reference=reference,
        off_budget=off_budget(frame["trainable_parameters"], frame["reference_parameters"])
        & ~reference,
        weak_backbone=_is_among(frame, weak_backbones(frame)),
        beyond_reach=_is_among(frame, beyond_reach(frame)),
        not_learnable=frame["function"].isin(list(unlearnable)),
        learnability_checked=frame["function"].isin(checked),
        learnt=learnt(frame),
        little_learnt=little_learnt(frame),
    )


def _is_among(frame: pd.DataFrame, found: Mapping[str, Mapping[int, float]]) -> list[bool]:
    """Whether a cell's function and seed are in `found`, cell by cell."""
    cells = zip(frame["function"], frame["seed"], strict=True)
    return [seed in found.get(function, {}) for function, seed in cells]
