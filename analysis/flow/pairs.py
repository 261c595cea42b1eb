"""Gradients of a method beside LoRA's, in pairs that share function, seed and frozen network."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.flow.intervals import Interval, by_function, interval_over_functions
from analysis.flow.measures import Array
from analysis.flow.rows import Row
from analysis.stats.pairs import BASELINE, log_ratio, partner_of

_PLACE = ["function", "seed", "backbone_id"]


@dataclass(frozen=True)
class Pairs:
    """Runs of a method, each with LoRA's on the same function, seed and frozen network.

    Attributes:
        runs: as `Row.runs`, with LoRA's measures beside under names that end in `_lora`.
    """

    runs: pd.DataFrame

    def ratio(self, scale: str) -> Interval:
        """The size over LoRA's, (): the geometric mean, its interval that of the logarithm."""
        logs = self._interval(log_ratio(self.runs[scale], self.runs[f"{scale}_lora"]))
        with np.errstate(over="ignore"):
            return Interval(np.exp(logs.mean), np.exp(logs.low), np.exp(logs.high))

    def difference(self, scale: str) -> Interval:
        """The evenness minus LoRA's, ()."""
        name = f"evenness_{scale}"
        return self._interval((self.runs[name] - self.runs[f"{name}_lora"]).to_numpy())

    def on(self, function: str) -> "Pairs":
        return Pairs(self.runs[self.runs["function"] == function])

    def _interval(self, values: Array) -> Interval:
        if not len(values):
            unknown = np.asarray(np.nan)
            return Interval(unknown, unknown, unknown)
        return interval_over_functions(by_function(values, self.runs["function"]))


def beside_lora(row: Row, rows: Sequence[Row]) -> Pairs:
    """The pairs of a row with LoRA's row of the same variant, or with LoRA's only one.

    There is none where LoRA has no such run, and none of LoRA with itself.
    """
    lora = None if row.name[0] == BASELINE else _lora_for(row, rows)
    partners = row.runs[:0] if lora is None else lora.runs
    return Pairs(row.runs.merge(partners, on=_PLACE, suffixes=("", "_lora")))


def _lora_for(row: Row, rows: Sequence[Row]) -> Row | None:
    known = {other.name[1]: other for other in rows if other.name[0] == BASELINE}
    partner = partner_of(row.name[1], known)
    return None if partner is None else known[partner]
