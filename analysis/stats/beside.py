"""Each run of a sweep beside the run of LoRA that it is compared with, and means of ratios."""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from analysis.stats.intervals import NO_INTERVAL, Interval, welch_of_mean
from analysis.stats.pairs import BASELINE, partners
from qlexp.config.settings import is_shared

Logs = np.ndarray | None  # a log ratio a seed, (seeds,); None where a run is lacking
UNASKED = "unasked"  # the status of a run of LoRA that is not there


def with_lora(runs: pd.DataFrame, axes: Collection[str]) -> pd.DataFrame:
    """`runs` with `base_loss` and `base_status`, those of LoRA's run beside each, and `baseline`.

    It has the same budget, function and seed, and the same value of each swept setting that all
    methods share (`analysis.settings`) or of which LoRA has several values. Its other overrides
    are the same, or it is LoRA's only row under the same condition
    (`analysis.stats.pairs.partners`). Where there is no such run the loss is NaN and the
    status `UNASKED`.

    Args:
        runs: the long table with `loss` and the columns of `analysis.settings.with_settings`.
        axes: the swept settings.
    """
    parts = [_beside(part, axes) for _, part in runs.groupby("budget", sort=False)]
    return pd.concat(parts, ignore_index=True).assign(baseline=BASELINE)


def _beside(part: pd.DataFrame, axes: Collection[str]) -> pd.DataFrame:
    lora = part[part["method"] == BASELINE]
    told = [axis for axis in axes if is_shared(axis) or lora[axis].nunique() > 1]
    keys = ["function", "seed", *told, "partner"]
    theirs = lora.rename(
        columns={"variant": "partner", "loss": "base_loss", "status": "base_status"}
    )
    both = part.assign(partner=partners(part)).merge(
        theirs[[*keys, "base_loss", "base_status"]], how="left", on=keys
    )
    return both.drop(columns="partner").fillna({"base_status": UNASKED})


def learnable(cells: pd.DataFrame) -> dict[str, list[str]]:
    """By budget the functions that were asked for and that full fine-tuning could learn.

    A function that it could not learn under one condition is left out under all.
    """
    kept = cells[~cells["not_learnable"]]
    return {budget: list(part.unique()) for budget, part in kept.groupby("budget")["function"]}


def geometric_mean(parts: Sequence[Logs]) -> Interval:
    """The geometric mean over functions of the means over seeds.

    With Welch's t interval of the logarithms; of one function Student's. NaN where a part is None,
    and without any part; limits are NaN where a function has one seed.
    """
    known = [logs for logs in parts if logs is not None]
    return welch_of_mean(known).exp() if 0 < len(known) == len(parts) else NO_INTERVAL
