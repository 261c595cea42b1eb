"""Gradients of a method beside LoRA's, in pairs that share function, seed and frozen network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.flow import Array, Flow, Interval, Row, interval_over_functions
from analysis.statistics.pairs import BASELINE, log_ratio, partner_of


@dataclass(frozen=True)
class Pairs:
    """Runs of a method, each with LoRA's on the same function, seed and frozen network."""

    runs: list[tuple[Flow, Flow]]

    def ratio(self, scale: str) -> Interval:
        """The size over LoRA's, (): the geometric mean, its interval that of the logarithm."""
        logs = self._interval(lambda own, lora: log_ratio(own.size(scale), lora.size(scale)))
        with np.errstate(over="ignore"):
            return Interval(np.exp(logs.mean), np.exp(logs.low), np.exp(logs.high))

    def difference(self, scale: str) -> Interval:
        """The evenness minus LoRA's, ()."""
        return self._interval(
            lambda own, lora: np.asarray(own.evenness(scale) - lora.evenness(scale))
        )

    def only(self, function: str) -> "Pairs":
        return Pairs([pair for pair in self.runs if pair[0].function == function])

    def _interval(self, value: Callable[[Flow, Flow], Array]) -> Interval:
        if not self.runs:
            unknown = np.asarray(np.nan)
            return Interval(unknown, unknown, unknown)
        by_function: dict[str, list[Array]] = {}
        for own, lora in self.runs:
            by_function.setdefault(own.function, []).append(value(own, lora))
        return interval_over_functions([np.stack(values) for values in by_function.values()])


def beside_lora(row: Row, rows: Sequence[Row]) -> Pairs:
    """The pairs of a row with LoRA's row of the same variant, or with LoRA's only one.

    There is none where LoRA has no such run, and none of LoRA with itself.
    """
    lora = None if row.name[0] == BASELINE else _lora_for(row, rows)
    partners = {} if lora is None else {_place(flow): flow for flow in lora.flows}
    return Pairs([(own, partners[_place(own)]) for own in row.flows if _place(own) in partners])


def _lora_for(row: Row, rows: Sequence[Row]) -> Row | None:
    known = {other.name[1]: other for other in rows if other.name[0] == BASELINE}
    partner = partner_of(row.name[1], known)
    return None if partner is None else known[partner]


def _place(flow: Flow) -> tuple[str, int, str]:
    return flow.function, flow.seed, flow.backbone
