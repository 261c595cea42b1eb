"""Losses on different data or networks are not held against each other."""

import itertools
from pathlib import Path

import pandas as pd
import pytest
from made_up import cell_of, markdown_rows, render, summary_of, write_run
from random_tables import named

from analysis.cells import by_budget, loss_cells
from analysis.load import load_study
from analysis.settings import conditions, require_one
from analysis.table import with_columns
from analysis.tuning import tune
from qlexp.errors import UsageError
from qlexp.store.store import Store

NOISES = ("0", "0.2")
METHODS = ("lora", "queryable", "full")


def noise_study(store: Store, **changes: object) -> pd.DataFrame:
    """Two noises, three seeds: noise costs a factor of ten, queryable is the best at both."""
    cells = []
    for (i, noise), method, seed in itertools.product(enumerate(NOISES), METHODS, range(3)):
        identity = f"{noise}-{method}-{seed}"
        loss = 10.0 ** (i - 1) * (1 - 0.1 * METHODS.index(method)) + 1e-3 * seed
        summary = summary_of("levy", method, seed, run_id=identity, test_loss=loss, **changes)
        write_run(store, summary)
        cells.append(cell_of(summary, "equal_rank", "experiment=noise", f"data.noise={noise}"))
    store.write_study("noise", cells)
    return with_columns(load_study(store, "noise"))


def test_the_best_row_is_that_of_its_condition(tmp_path: Path) -> None:
    noise_study(Store(tmp_path))
    assert render("tables", Store(tmp_path), tmp_path / "out", study="noise") == 0
    folder = tmp_path / "out" / "noise"
    cells = pd.read_csv(folder / "table2.csv")
    best = cells[cells["best_adapter"]]
    assert set(best["method"]) == {"queryable"}
    assert set(best["overrides"]) == {f"data.noise={noise}" for noise in NOISES}
    assert "within the rows of one setting of data" in (folder / "table2.md").read_text()


@pytest.mark.parametrize(
    ("overrides", "backbones", "wanted"),
    [
        ("data.noise=0.1; method.rank=2", True, "data.noise=0.1"),
        ("shift.strength=0.4; data.adapt=75", True, "data.adapt=75; shift.strength=0.4"),
        ("shift=none; function.spread=0.1", True, "function.spread=0.1; shift=none"),
        ("precision=float64; backbone=small", True, "backbone=small; precision=float64"),
        ("backbone.depth=2; shift=none", False, "shift=none"),
        ("trainer.pretrain.epochs=5; trainer.adapt.epochs=5", True, "trainer.pretrain.epochs=5"),
        ("optimizer@pretrain_optimizer=soap", True, "optimizer@pretrain_optimizer=soap"),
        ("trainer=smoke; optimizer=soap", True, "trainer=smoke"),
        ("method.data=1; budget.rank=2; instruction.control=empty; shifty=1", True, ""),
        ("", True, ""),
    ],
)
def test_what_makes_a_condition(overrides: str, backbones: bool, wanted: str) -> None:
    frame = named(pd.DataFrame({"overrides": [overrides]}))
    assert conditions(frame, backbones).tolist() == [wanted]


def test_several_conditions_are_refused_in_one_sentence(tmp_path: Path, capsys) -> None:
    store = Store(tmp_path)
    frame = noise_study(store)
    require_one(frame[frame["overrides"].str.endswith("noise=0")], "noise")
    lines = named(pd.DataFrame({"overrides": ["", "shift.strength=0.4"]}))
    lines = lines.assign(condition=conditions(lines))
    with pytest.raises(UsageError, match=r"2 conditions \(defaults; shift.strength=0.4\)"):
        require_one(lines, "mine")
    assert render("stats", store, tmp_path / "out", study="noise") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "qlexp show ablation noise" in error
    assert not (tmp_path / "out").exists()


def test_a_precision_is_a_condition(tmp_path: Path, capsys) -> None:
    """float32, which no command line named, and float64: a best row each, and no statistics."""
    store, cells = Store(tmp_path), []
    for method, words in itertools.product(METHODS, ((), ("precision=float64",))):
        for seed in range(3):
            summary = summary_of("levy", method, seed, run_id=f"{method}-{words}-{seed}")
            write_run(store, summary)
            cells.append(cell_of(summary, "equal_rank", *words))
    store.write_study("mine", cells)
    frame = with_columns(load_study(store, "mine"))
    assert set(frame["condition"]) == {"precision=float32", "precision=float64"}
    (_, block), *others = by_budget(loss_cells(frame, "test_loss"))
    assert not others
    best = block.loc[block["best_adapter"], ["method", "variant"]]
    assert sorted(best["variant"]) == ["precision=float32", "precision=float64"]
    with pytest.raises(UsageError, match="'precision' is no trial, since all methods share it"):
        tune(frame, ["precision"])
    assert render("stats", store, tmp_path / "out", study="mine") == 2
    assert "2 conditions (precision=float32; precision=float64)" in capsys.readouterr().err


def test_a_row_bears_every_mark_that_a_note_explains(tmp_path: Path) -> None:
    noise_study(Store(tmp_path), reading=True, trainable_parameters=2000)
    assert render("tables", Store(tmp_path), tmp_path / "out", study="noise") == 0
    (rows,) = markdown_rows(tmp_path / "out" / "noise" / "table2.md").values()
    assert {row["method"] for row in rows if row["method"].startswith("lora")} == {
        f"lora (data.noise={noise}) (style)†" for noise in NOISES
    }
    full = [row["method"] for row in rows if row["method"].startswith("full")]
    assert not any("†" in title for title in full)
