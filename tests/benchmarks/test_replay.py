"""What a way of stopping trials would have come to, beside the whole grid."""

import pytest

from benchmarks.tuning import Outcome, Row
from qlexp.sweep.halving import Tuning


def trial(*losses: float) -> list[dict]:
    """A run of 80 updates: its validation losses at 1/8, 1/2 and the end."""
    eighth, half, end = losses
    path = {"updates": [10, 40], "validation_loss": [eighth, half]}
    return [{"status": "done", "steps": 80, "path": path, "validation_loss": end}]


def test_a_way_is_held_against_the_whole_grid() -> None:
    late = {1.0: trial(0.1, 0.1, 0.4), 2.0: trial(0.2, 0.2, 0.2), 4.0: trial(0.3, 0.1, 0.1)}
    row = Row("lora on Levy", late)
    early = Outcome.of(row, Tuning(rungs=[8, 2], keep=0.4))
    assert (early.spent, early.whole) == (80 + 40 + 10, 240)
    assert early.ratio == pytest.approx(4.0)
    assert early.text == "lora on Levy 1 for 4 (4.000)"
    patient = Outcome.of(row, Tuning(rungs=[]))
    assert (patient.spent, patient.ratio) == (240, 1.0)
    assert row.at_edge() == 4.0
