"""Turns and rounds; no time is asserted."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from timeit import Timer
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.contenders import config_of, forward_pass, inputs_of, merged, trained
from benchmarks.timing import fewest_rounds, in_turns, median_of

CPU = torch.device("cpu")


def test_a_round_times_every_contender_once_in_an_order_drawn_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: list[tuple[str, int]] = []

    class Recorded(Timer):
        def __init__(self, stmt: Callable[[], str], *, timer: Callable[[], float]) -> None:
            super().__init__(stmt, timer=timer)
            self.name = stmt()

        def timeit(self, number: int = 1) -> float:
            turns.append((self.name, number))
            return super().timeit(number)

    monkeypatch.setattr("benchmarks.timing.Timer", Recorded)
    monkeypatch.setattr("benchmarks.timing.TURN", 0.0)
    names, repeats = "abcde", 6
    found = in_turns({name: lambda name=name: name for name in names}, "a", repeats)
    assert found.shape == (repeats, len(names))
    assert list(found) == list(names)
    assert (found > 0).all(axis=None)
    timed = [turn for turn in turns if turn[1]][-repeats * len(names) :]
    assert {number for _, number in timed} == {1}
    order = "".join(name for name, _ in timed)
    rounds = [order[start : start + len(names)] for start in range(0, len(order), len(names))]
    assert ["".join(sorted(held)) for held in rounds] == [names] * repeats
    assert len(set(rounds)) == repeats


def test_compiled_forms_give_the_eager_outputs_and_each_is_compiled_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More forms of the same code than torch keeps of one function."""
    graphs: list[nn.Module] = []

    def keep(graph: nn.Module, inputs: Sequence[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=keep))
    methods = ("lora", "rslora", "dora", "vera", "lily", "queryable")
    shallow = ("backbone=small", "backbone.depth=2")
    configs = [config_of(name, 4, *shallow) for name in methods]
    models = [
        model
        for config in configs
        for model in (trained(config, CPU), merged(config, CPU))
        if model is not None
    ]
    assert len(models) > torch._dynamo.config.recompile_limit
    inputs = inputs_of(configs[0], 3, CPU)
    with torch.no_grad():
        for position, model in enumerate(models, 1):
            eager, compiled = (forward_pass(model, inputs, value) for value in (False, True))
            torch.testing.assert_close(compiled(), eager())
            torch.testing.assert_close(compiled(), eager())
            assert len(graphs) == position
    torch._dynamo.reset()


def test_an_interval_at_a_higher_level_is_wider_and_wants_more_rounds() -> None:
    seconds = [float(value) for value in range(1, 31)]
    narrow, wide = median_of(seconds), median_of(seconds, 1 - 0.05 / 8)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    for level in (0.95, 1 - 0.05 / 8):
        fewest = fewest_rounds(level)
        assert math.isnan(median_of(seconds[: fewest - 1], level).low)
        enough = median_of(seconds[:fewest], level)
        assert (enough.low, enough.high) == (1.0, fewest)  # the whole range
