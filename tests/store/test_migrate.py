"""A store of before manifests held typed settings shows the same tables once it is migrated."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.__main__ import main as show
from analysis.load import load_study
from qlexp.errors import UsageError
from qlexp.main import main
from qlexp.store.files import write_folder
from qlexp.store.migrate import meant, migrate
from qlexp.store.store import Store

OLD = json.loads((Path(__file__).parent / "old_store.json").read_text())
STUDY = "old"  # single runs, their overrides spelt in several ways; one diverged to null losses


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The store as it was written."""
    store = Store(tmp_path / "store")
    for summary in OLD["runs"]:
        write_folder(store.run_folder(summary["run_id"]), summary)
    store.manifest(STUDY).write_text(json.dumps(OLD["manifest"], indent=1) + "\n")
    return store


def qlexp(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["qlexp", *map(str, words)])
    main()


def test_the_tables_are_what_they_were(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    view = ["tables", STUDY, "--store", str(store.root), "--out", str(tmp_path / "out"), "--tune"]
    assert show(view) == 2
    error = capsys.readouterr().err
    assert f"run `qlexp migrate {store.root}` once" in error
    assert error.count("\n") == 1
    qlexp(monkeypatch, "migrate", store.root)
    assert "old: 6 cells\n1 studies migrated" in capsys.readouterr().out
    assert show(view) == 0
    for name, text in OLD["tables"].items():
        before = pd.read_csv(io.StringIO(text))
        after = pd.read_csv(tmp_path / "out" / STUDY / f"{name}.csv")
        pd.testing.assert_frame_equal(after[list(before)], before)


def test_a_migrated_store_stays_as_it_is(store: Store) -> None:
    manifest = store.manifest(STUDY)
    text = manifest.read_text()
    assert migrate(store, dry_run=True) == {STUDY: 6}
    assert manifest.read_text() == text
    assert migrate(store) == {STUDY: 6}
    text = manifest.read_text()
    assert migrate(store) == {}
    assert manifest.read_text() == text


def test_settings_are_those_of_the_runs(store: Store) -> None:
    migrate(store)
    cells = store.study(STUDY)
    assert {cell.target for cell in cells if cell.method == "lora"} == {"qlexp.adapters.lora.LoRA"}
    rates = [cell.settings["trainer.adapt.learning_rate"] for cell in cells]
    assert rates == [0.005, 0.005, 0.005, 0.005, 1e30, 0.005]
    frame = load_study(store, STUDY)
    assert frame["overrides"].tolist() == [
        "trainer.adapt.learning_rate=0.005",
        "trainer.adapt.learning_rate=0.005; method.rank=2",
        "trainer.adapt.learning_rate=0.005; method.rank=2",
        "trainer.adapt.learning_rate=1e+30; method.rank=2",
        "trainer.adapt.learning_rate=0.005; method.rank=2; method.block_size=1",
        "trainer.adapt.learning_rate=0.005; method.rank=2; method.block_size=1",
    ]


def test_without_a_stored_run_the_words_say_what_was_meant(store: Store) -> None:
    (store.run_folder(OLD["manifest"][0]["run_id"]) / "summary.json").unlink()
    migrate(store)
    first = store.study(STUDY)[0]
    assert (first.target, first.settings["trainer.adapt.learning_rate"]) == (None, 0.005)


@pytest.mark.parametrize("text", ["{", "3", '[{"run_id": "a"}]', "[3]", '{"schema": 3}'])
def test_a_manifest_that_is_none_stops_before_any_is_changed(store: Store, text: str) -> None:
    store.manifest("z").write_text(text)
    before = store.manifest(STUDY).read_text()
    with pytest.raises(UsageError, match=r"manifest .*z\.json is not readable"):
        migrate(store)
    assert store.manifest(STUDY).read_text() == before


def test_there_must_be_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with pytest.raises(SystemExit) as left:
        qlexp(monkeypatch, "migrate", tmp_path / "none")
    assert left.value.code == 2
    assert "There is no store at" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.noise=5e-2", 0.05),
        ("++method.gated=True", True),
        ("trainer.adapt.clip=null", None),
        ("shift.coefficients=[amplitude,decay]", ["amplitude", "decay"]),
        ("instruction.folder='a b'", "a b"),
        ("backbone=deep_narrow", "deep_narrow"),
        ("instruction.folder=a b=c", "a b=c"),
    ],
)
def test_a_word_has_the_value_that_it_gives(override: str, value: object) -> None:
    settings, asked = meant([override], {})
    assert settings == {asked[0]: value}
