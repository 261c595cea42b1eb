"""`qlexp check` finds what a method breaks, and says what a method can do."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from build import of_method
from conftest import Command
from torch import Tensor

from qlexp import check
from qlexp.adapters.base import AdaptedLinear
from qlexp.adapters.lora import LoRA, LoRALinear
from qlexp.config.schema import Component, Config
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear


def method(changes: type[LoRALinear]) -> type[LoRA]:
    """LoRA with another linear."""

    class Changed(LoRA):
        def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> AdaptedLinear:
            return changes(base, self.config, draw)

    return Changed


class Moved(LoRALinear):
    def __init__(self, base: LaneLinear, config: Any, draw: Draw) -> None:
        super().__init__(base, config, draw)
        self.B = draw.constant(base.d_out, config.rank, value=0.01)


class Idle(LoRALinear):
    def __init__(self, base: LaneLinear, config: Any, draw: Draw) -> None:
        super().__init__(base, config, draw)
        self.unused = draw.constant(3, value=1.0)


class Mixed(LoRALinear):
    def adapt(self, h: Tensor) -> Tensor:
        return super().adapt(h) + self.B.mean() * h.mean()


class Unmerged(LoRALinear):
    def merged(self) -> Tensor:
        return self.base.weight


class Forgetful(LoRA):
    def load(self, path: Path, lane: int) -> None:
        super().load(path, lane)
        for parameter in self.trainable().values():
            parameter.data[0] *= 0.5


class Untrained(LoRA):
    trains = False


BROKEN: Mapping[str, tuple[type[LoRA], Callable[[Config], None], str]] = {
    "start": (method(Moved), check.starts_as_the_backbone, "away from the frozen one"),
    "gradient": (method(Idle), check.every_tensor_has_a_gradient, "unused"),
    "lanes": (method(Mixed), check.lanes_equal_solo_runs, "lanes mix"),
    "neighbour": (method(Mixed), check.a_broken_lane_stays_alone, "infinite"),
    "merge": (method(Unmerged), check.merging_keeps_the_function, "moves the predictions"),
    "load": (Forgetful, check.a_lane_is_read_back, "not the one that was saved"),
    "trains": (Untrained, check.the_count_is_exact, "trains=False"),
}


@pytest.mark.parametrize(("kind", "promise", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_promise_is_found(
    kind: type[LoRA], promise: Callable[[Config], None], words: str
) -> None:
    config = of_method("lora")
    changed = replace(config, method=Component(kind, config.method.config))
    promise(config)
    with pytest.raises(check.BrokenPromiseError, match=words):
        promise(changed)


class Raising(LoRA):
    def forward(self, x: Tensor, instruction: Tensor | None = None) -> Tensor:
        raise ArithmeticError("no forward pass today")


SMALL = ("backbone.depth=2", "backbone.width=16", "method.rank=2")


def test_the_command_says_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["method=lora", *SMALL]) == 0
    out = capsys.readouterr().out
    assert out.count("kept ") == len(check.PROMISES)
    assert "broken" not in out
    said = dict(line.split(maxsplit=1) for line in out.split("\n\n")[1].splitlines())
    assert said["merge"] == "into the weights"
    assert said["instruction"] == "no"
    assert said["compile"] == "in one piece"
    assert said["budget"] == "sized by rank"
    assert "LoRA" in said["parameters"]


def test_the_command_says_what_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"method._target_={__name__}.Raising", "method.name=mine", *SMALL]
    assert check.main(arguments) == 1
    out = capsys.readouterr().out
    assert "mine: ArithmeticError: no forward pass today" in out
    assert "Traceback" not in out
    assert "compile" not in out


@pytest.mark.parametrize("word", ["method=lroa", "method.rank=99", "--config-dir=nowhere"])
def test_the_command_refuses_in_one_sentence(word: str, command: Command) -> None:
    outcome = command("check", word)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("qlexp: ")
    assert outcome.err.count("\n") == 1


def test_what_reads_a_text_or_routes_is_told_apart() -> None:
    can = {name: check.capabilities(of_method(name)) for name in ("instruction_queryable", "full")}
    assert can["instruction_queryable"]["instruction"] == "reads 16 numbers"
    assert can["instruction_queryable"]["merge"].startswith("no")
    assert can["instruction_queryable"]["lanes"] != "alike"
    assert can["full"]["budget"] == "has no size to choose"
    assert torch.is_grad_enabled()
