"""What was measured, as tables: times over LoRA's in the same round, and bytes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.render import Grid
from analysis.view import Shown
from benchmarks.contenders import REFERENCE
from benchmarks.lm.contenders import PREFIX
from benchmarks.lm.memory import StepBytes
from benchmarks.lm.work import INFERENCE, MEMORY_LIMIT, STEP, Work
from benchmarks.report import grid, interval_text, section
from benchmarks.timing import median_of


@dataclass(frozen=True)
class Measured:
    """One model in one precision.

    Attributes:
        trained: parameters by method.
        held: bytes of a training step by method.
        rounds: seconds by the name of the work; a row a round, a column a method.
    """

    precision: str
    trained: Mapping[str, int]
    held: Mapping[str, StepBytes]
    rounds: Mapping[str, pd.DataFrame]

    def time(self, work: Work, method: str) -> list[str]:
        """Milliseconds, and the ratio to LoRA."""
        seconds = self.rounds[work.name]
        ratio = median_of(seconds[method] / seconds[REFERENCE])
        return [f"{seconds[method].median() * 1e3:.1f}", interval_text(ratio)]

    def memory(self, method: str) -> list[str]:
        """Megabytes of a step, what of it is saved activations, and the ratio to LoRA's step."""
        held = self.held[method]
        return [f"{held.total / 1e6:.0f}", f"{held.saved / 1e6:.0f}", f"{self.heavier(method):.3f}"]

    def heavier(self, method: str) -> float:
        """Bytes of a step over those of LoRA's."""
        return self.held[method].total / self.held[REFERENCE].total


def shown(measured: Sequence[Measured], setting: str) -> Shown:
    """The figures; `setting` says of which model and at which rank."""
    rounds = len(measured[0].rounds[STEP.name])
    notes = [
        setting,
        f"Times are medians over {rounds} rounds in which all methods take turns in a new order; "
        f"over {REFERENCE}: median over the rounds of the ratio to {REFERENCE} in the same round, "
        "with 95 % intervals.",
    ]
    return Shown(grids={"lm": [_training(measured, notes), _inference(measured)]})


def _training(measured: Sequence[Measured], notes: Sequence[str]) -> Grid:
    over = f"over {REFERENCE}"
    headers = ["method", "trained", "ms", over, "MB held", "of it activations", over]
    sections = [
        section(
            one.precision,
            [
                [method, f"{count:,}", *one.time(STEP, method), *one.memory(method)]
                for method, count in one.trained.items()
            ],
        )
        for one in measured
    ]
    notes = [
        *notes,
        "Held where the backward pass begins: weights, gradients, AdamW's moments and every tensor "
        "that the forward pass saves, each storage once (counted, not sampled).",
        *_verdicts(measured, (STEP,)),
        *(
            f"memory, {PREFIX} / {REFERENCE} ({one.precision}): {one.heavier(PREFIX):.3f}, at most "
            f"{MEMORY_LIMIT} wanted."
            for one in measured
        ),
    ]
    return grid("training", f"A {STEP.name}", headers, *sections, notes=notes)


def _inference(measured: Sequence[Measured]) -> Grid:
    headers = ["method"]
    for work in INFERENCE:
        headers += [f"{work.name}, ms", f"over {REFERENCE}"]
    sections = [
        section(
            one.precision,
            [
                [method, *(cell for work in INFERENCE for cell in one.time(work, method))]
                for method in one.trained
            ],
        )
        for one in measured
    ]
    notes = [
        "A prefill fills the KV cache and gives the next token; a token is decoded behind "
        f"{INFERENCE[-1].length} cached ones. Adapters are not merged.",
        *_verdicts(measured, INFERENCE),
    ]
    return grid("inference", "Prefill and decoding", headers, *sections, notes=notes)


def _verdicts(measured: Sequence[Measured], works: Sequence[Work]) -> Iterator[str]:
    """How queryable LoRA stands to the limits that are set."""
    for one in measured:
        for work in works:
            if work.limit is not None:
                _, ratio = one.time(work, PREFIX)
                yield (
                    f"{work.name}, {PREFIX} / {REFERENCE} ({one.precision}): {ratio}, at most "
                    f"{work.limit} wanted."
                )
