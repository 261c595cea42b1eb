"""Means over functions and seeds of what is said of gradients, also beside LoRA's."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis.stats.intervals import NO_INTERVAL, Interval, welch_of_mean
from analysis.flow.load import PLACE, ROW
from analysis.flow.measures import SCALES, Array
from analysis.names import ALL
from analysis.stats.pairs import BASELINE, log_ratio, partner_of

Groups = Sequence[pd.DataFrame]  # runs of one row, a frame a function


def parts(runs: pd.DataFrame) -> Iterator[tuple[str, Groups]]:
    """The runs of one row on each function, and on all of them."""
    groups = {str(function): part for function, part in runs.groupby("function", sort=False)}
    yield from ((function, [part]) for function, part in groups.items())
    yield ALL, list(groups.values())


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
    variant or its only one under the condition. There is none of LoRA itself.

    Columns: paired; `<scale>_over_lora`, the logarithm of the ratio of the mean norms;
    `evenness_<scale>_minus_lora`. NaN without a partner.
    """
    lora = runs[runs["method"] == BASELINE]
    known = {budget: set(part["variant"]) for budget, part in lora.groupby("budget")}
    partners = {
        (budget, method, variant): partner_of(variant, known.get(budget, ()))
        for budget, method, variant in runs[ROW].drop_duplicates().itertuples(index=False)
        if method != BASELINE
    }
    wanted = runs.assign(variant=[partners.get(row) for row in zip(*map(runs.get, ROW))])
    place = ["budget", "variant", *PLACE]
    partner = lora.set_index(place).reindex(pd.MultiIndex.from_frame(wanted[place]))
    compared = {"paired": partner["method"].notna().to_numpy()}
    for scale in SCALES:
        even = f"evenness_{scale}"
        compared[f"{scale}_over_lora"] = log_ratio(runs[scale], partner[scale])
        compared[f"{even}_minus_lora"] = runs[even].to_numpy() - partner[even].to_numpy()
    return runs.assign(**compared)
