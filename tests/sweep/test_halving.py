"""The rule of a tuned sweep: what goes on follows from the losses known so far."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlexp.errors import UsageError
from qlexp.sweep.halving import RUNGS, Losses, Tuning, beyond, replay, standing, validation_at

LOSS = st.floats(0.01, 9.0) | st.just(math.inf)
SETTINGS = st.builds(
    Tuning,
    rungs=st.sets(st.sampled_from(RUNGS)).map(lambda rungs: sorted(rungs, reverse=True)),
    keep=st.floats(0.1, 1.0),
)


def known(losses: dict[tuple[str, int], list[float]]) -> Losses[str]:
    return lambda trial, rung: losses.get((trial, rung))


@given(st.data(), st.integers(1, 7), SETTINGS)
def test_every_rung_keeps_the_best_and_the_end_keeps_one(
    data: st.DataObject, count: int, tuning: Tuning
) -> None:
    trials = [f"trial {number}" for number in range(count)]
    pairs = st.lists(LOSS, min_size=2, max_size=2)
    losses = {(t, rung): data.draw(pairs) for t in trials for rung in (*tuning.rungs, 1)}
    best, reached = replay(trials, tuning.ladder(count), known(losses))
    assert reached[best] == 1
    assert reached.keys() == set(trials)
    going = set(trials)
    for rung, kept in tuning.ladder(count):
        assert going == {trial for trial in trials if reached[trial] <= rung}
        on = {t for t in going if reached[t] < rung} if rung > 1 else {best}
        assert len(on) == min(kept, len(going))
        worst = max(rank(losses[t, rung]) for t in on)
        assert all(worst <= rank(losses[t, rung]) for t in going - on)
        going = on


def rank(losses: list[float]) -> tuple[int, float]:
    finite = [loss for loss in losses if math.isfinite(loss)]
    return len(losses) - len(finite), statistics.fmean(finite) if finite else math.inf


def test_the_usual_settings_cost_two_fifths() -> None:
    tuning = Tuning()
    assert tuning.ladder(5) == [(4, 1), (1, 1)]
    losses = {(t, rung): [float(t)] for t in "12345" for rung in (4, 1)}
    _, reached = replay("12345", tuning.ladder(5), known(losses))
    assert sum(1 / rung for rung in reached.values()) == 2.0  # of 5


def test_without_rungs_the_whole_grid_is_trained() -> None:
    losses = {(t, 1): [float(t)] for t in "213"}
    assert replay("213", Tuning(rungs=[]).ladder(3), known(losses)) == (
        "1",
        dict.fromkeys("213", 1),
    )


def test_where_a_survivor_diverges_the_next_best_goes_on() -> None:
    losses = {("a", 8): [0.1], ("b", 8): [0.2], ("c", 8): [0.3]}
    ladder = [(8, 1), (1, 1)]
    assert standing("abc", ladder, known(losses)).due == ["a"]
    losses |= {("a", 8): [math.inf], ("a", 1): [math.inf]}  # a run that diverged, wherever asked
    assert standing("abc", ladder, known(losses)).due == ["b"]


@given(st.floats(1e-5, 1e3), st.floats(1.1, 10.0), st.integers(2, 6))
def test_an_edge_is_passed_by_the_step_before_it(low: float, factor: float, count: int) -> None:
    values = [low * factor**n for n in range(count)]
    assert beyond(values, values[0]) == pytest.approx(low / factor, rel=1e-5)
    assert beyond(values, values[-1]) == pytest.approx(values[-1] * factor, rel=1e-5)
    assert all(beyond(values, inner) is None for inner in values[1:-1])


def test_one_value_has_no_edge() -> None:
    assert beyond([0.1], 0.1) is None


def test_the_next_value_is_a_number_that_one_would_type() -> None:
    assert beyond([2.5e-3, 5e-3, 1e-2], 2.5e-3) == 1.25e-3
    assert beyond([5e-3, 1e-2, 4e-2], 4e-2) == 0.16


@pytest.mark.parametrize("rungs", [[2, 8], [3], [8, 8], [1], [128]])
def test_rungs_are_halvings_in_order(rungs: list[int]) -> None:
    with pytest.raises(UsageError, match="in this order"):
        Tuning(rungs=rungs)


@pytest.mark.parametrize("keep", [0.0, 1.5, -1.0])
def test_a_rung_keeps_some(keep: float) -> None:
    with pytest.raises(UsageError, match="keep="):
        Tuning(keep=keep)


PATH = {"updates": [1, 2, 5, 10], "validation_loss": [0.8, 0.6, None, 0.3]}  # of 20


@pytest.mark.parametrize(
    ("summary", "at"),
    [
        ({"status": "done", "steps": 20, "path": PATH, "validation_loss": 0.1}, (0.6, 0.3, 0.1)),
        ({"status": "done", "steps": 20, "path": None, "validation_loss": 0.1}, (0.1, 0.1, 0.1)),
        ({"status": "diverged", "steps": 20, "path": PATH}, (math.inf,) * 3),
        ({"status": "failed"}, (math.inf,) * 3),
        *(
            (
                {"status": status, "rung": 8, "steps": 2, "planned_steps": 20, "path": PATH},
                (0.6, None, None),
            )
            for status in ("paused", "stopped")
        ),
        ({}, (None, None, None)),
    ],
)
def test_what_a_stored_run_tells_of_a_rung(
    summary: dict, at: tuple[float | None, float | None, float | None]
) -> None:
    assert tuple(validation_at(summary, rung) for rung in (8, 2, 1)) == at


def test_a_value_that_was_not_finite_on_the_way_is_infinite() -> None:
    done = {"status": "done", "steps": 20, "path": PATH, "validation_loss": 0.1}
    assert validation_at(done, 4) == math.inf
