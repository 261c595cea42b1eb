"""Means over functions and seeds of what is said of gradients, also beside LoRA's."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis.cells import ROW
from analysis.flow.load import PLACE
from analysis.flow.measures import SCALES, Array
from analysis.names import ALL
from analysis.stats.intervals import NO_INTERVAL, Interval, welch_of_mean
from analysis.stats.pairs import BASELINE, log_ratio, partners

CELL = [*ROW, "function"]
Groups = Sequence[pd.DataFrame]  # the runs of one row, a frame a function


def parts(runs: pd.DataFrame) -> Iterator[tuple[dict[str, str], Groups]]:
    """Every row's runs on each function, and on all of them, with the `CELL` that they make."""
    for row, own in runs.groupby(ROW, sort=False):
        groups = dict(iter(own.groupby("function", sort=False)))
        known = {function: [part] for function, part in groups.items()}
        for function, found in {**known, ALL: list(groups.values())}.items():
            yield dict(zip(CELL, (*row, function), strict=True)), found


def mean(groups: Groups, column: str) -> Interval:
    """The mean over functions of the means over seeds of a column, place by place of its arrays."""
    return welch_of_mean([np.stack(part[column]) for part in groups]) if groups else NO_INTERVAL


def heat(runs: pd.DataFrame) -> Array:
    """The norm at each recorded update, mean over one row's functions and seeds, (R, layers)."""
    norms = runs.groupby("function", sort=False)["norms"]
    means: Array = np.mean([np.stack(part).mean(0) for _, part in norms], axis=0)
    return means


def beside_lora(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs` of all rows with what compares them with LoRA's.

    A run's partner is on the same function, seed and frozen network, in LoRA's row of the same
    variant or its only one under the condition. LoRA itself has none.

    Columns: paired; `<scale>_over_lora`, the logarithm of the ratio of the mean norms;
    `evenness_<scale>_minus_lora`. NaN without a partner.
    """
    lora, place = runs[runs["method"] == BASELINE], ["budget", "variant", *PLACE]
    variants = partners(runs).mask(runs["method"] == BASELINE)
    wanted = pd.MultiIndex.from_frame(runs.assign(variant=variants)[place])
    partner = lora.set_index(place).reindex(wanted).set_axis(runs.index)
    columns = {"paired": partner["method"].notna()}
    for scale in SCALES:
        even = f"evenness_{scale}"
        columns[f"{scale}_over_lora"] = log_ratio(runs[scale], partner[scale])
        columns[f"{even}_minus_lora"] = runs[even] - partner[even]
    return runs.assign(**columns)
