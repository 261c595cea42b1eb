"""A training step of every method, tiny, and the tables that the benchmarks make of rounds."""

from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from analysis.render import Grid
from benchmarks import methods, step, sweep
from benchmarks.contenders import Step, build
from qlexp.main import choices

TINY = Step(depth=2, width=8, rows=4, rank=2, lanes=2, block_size=1)
TRAINED = methods.training(TINY)
LORA = [1.0, 1.0, 2.0, 1.0, 4.0, 1.0, 1.0]


def rounds_of(**factors: float) -> pd.DataFrame:
    """Seconds that are LoRA's by a factor, in every round."""
    return pd.DataFrame({name: [f * value for value in LORA] for name, f in factors.items()})


def texts(grid: Grid) -> dict[str, list[str]]:
    """The cells of each row behind the first."""
    rows = [row for section in grid.sections for row in section.rows]
    return {name.text: [cell.text for cell in cells] for name, *cells in rows}


@pytest.mark.parametrize("method", TRAINED)
def test_a_step_of_every_method_moves_its_weights(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[nn.Module] = []

    def kept(*arguments: Any) -> nn.Module:
        built.append(build(*arguments))
        return built[-1]

    monkeypatch.setattr("benchmarks.contenders.build", kept)
    step = TINY.of(method)
    (model,) = built
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    for _ in range(2):
        loss, _, alive = step()
        assert loss.shape == (2,)
        assert alive.all()
    after = [p for p in model.parameters() if p.requires_grad]
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_every_method_but_the_frozen_backbone_has_a_step() -> None:
    assert sorted([*TRAINED, "frozen"]) == choices("method")


def test_the_settings_of_a_step_reach_the_method() -> None:
    step = Step(rank=2, atoms=8, key_dim=3, block_size=4, lanes=3)
    configs = step.configs("queryable")
    own = configs[0].method.config
    assert (own.rank, own.alpha, own.atoms, own.key_dim, own.block_size) == (2, 4.0, 8, 3, 4)
    assert [config.seed for config in configs] == [0, 1, 2]
    assert step.configs("dora")[0].method.config.rank == 2


def test_a_reason_is_asked_for_above_the_limit_alone() -> None:
    seconds = {"eager": rounds_of(lora=1.0, mix_lora=1.6, dora=1.4)}
    shown = methods.shown(seconds, {"lora": 10, "mix_lora": 40, "dora": 12})
    rows = texts(shown.grids["methods"][0])
    assert rows["dora"] == ["12", "1400.0", "1.40 (1.40 to 1.40)", ""]
    assert rows["lora"][-1] == ""
    assert rows["mix_lora"][-1] == methods.REASONS["mix_lora"]


def test_a_step_stands_beside_the_floor_and_peft() -> None:
    frozen, adapters = step.PAPER.operations()
    floor = (frozen + adapters) / frozen
    names = {"lora, eager": 2 * floor, "queryable, eager": 3 * floor, step.PEFT: floor}
    shown = step.shown(rounds_of(**{step.GEMMS: 1.0}, **names), "eager")
    (grid,) = shown.grids["step"]
    assert texts(grid)["lora, eager"][1:] == ["2.00 (2.00 to 2.00)"] * 2
    assert "queryable / lora (eager): 1.50 (1.50 to 1.50)" in grid.notes


def test_speeds_are_those_of_one_run() -> None:
    section = sweep.speeds("Small", rounds_of(**{sweep.PEFT: 1.0, "lora, 9 lanes": 0.25}))
    (_, _, _, _), (_, speed, milliseconds, over) = section.rows
    assert (speed.text, milliseconds.text, over.text) == ("4.0", "250.00", "4.00 (4.00 to 4.00)")


def test_growth_has_a_panel_an_axis() -> None:
    ratio = methods.median_of([1.5] * 7)
    curves = pd.DataFrame(
        {"axis": axis, "value": value, "ratio": ratio, "lora": 3.0, "queryable": 2.0}
        for axis, values in sweep.GROWTH.items()
        for value in values
    )
    assert len(sweep.growth_figure(curves).axes) == len(sweep.GROWTH)
    grid = sweep.growth_grid(curves)
    assert len(grid.sections[0].rows) == len(curves)
    assert "queryable / lora step time, median: 1.50" in grid.notes
