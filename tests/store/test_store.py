"""The store: whole runs or none, and the first finished one stays."""

import errno
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlexp.errors import UsageError
from qlexp.store import files as module
from qlexp.store.files import (
    read_curve_table,
    read_curves,
    read_summary,
    read_tensors,
    write_folder,
)
from qlexp.store.manifest import Cell
from qlexp.store.store import Store

CURVES = pd.DataFrame({"step": [0, 10], "loss": [1.5, math.nan]})
TENSORS = {"adapter": {"layers.0.qkv.A": torch.arange(6.0).view(2, 3)}}


def listed(folder: Path) -> list[str]:
    """Everything in a folder, drafts included."""
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_reads_back_as_it_was_written(tmp_path: Path) -> None:
    folder = Store(tmp_path).run_folder("a")
    assert write_folder(folder, {"status": "done", "loss": 0.1}, CURVES, TENSORS)
    assert read_summary(folder) == {"status": "done", "loss": 0.1}
    pd.testing.assert_frame_equal(read_curves(folder), CURVES)
    pd.testing.assert_frame_equal(
        read_curve_table(folder, ["step", "none"]).to_pandas(), CURVES[["step"]]
    )
    assert torch.equal(
        read_tensors(folder / "adapter.safetensors")["layers.0.qkv.A"],
        TENSORS["adapter"]["layers.0.qkv.A"],
    )
    assert listed(folder) == ["adapter.safetensors", "curves.parquet", "summary.json"]
    assert listed(folder.parent) == ["a"]


@pytest.mark.parametrize("broken", ["save_file", "_to_json", "_put_in_place"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_a_write_that_stops_leaves_nothing(
    broken: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise error

    folder = Store(tmp_path).run_folder("a")
    monkeypatch.setattr(module, broken, stop)
    expected = UsageError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_folder(folder, {"status": "done"}, CURVES, TENSORS)
    assert listed(folder.parent) == []


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(UsageError, match=r"No space left on device.*store=PATH"):
        write_folder(Store(tmp_path).run_folder("a"), {}, CURVES, TENSORS)


@pytest.mark.parametrize("first", ["done", "diverged", "failed"])
@pytest.mark.parametrize("second", ["done", "diverged", "failed"])
def test_the_first_finished_writer_stays(first: str, second: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.run_folder("a")
    assert not store.finished("a")
    assert write_folder(folder, {"status": first, "writer": 1}, CURVES, TENSORS)
    stays = first != "failed"
    assert store.finished("a") == stays
    assert write_folder(folder, {"status": second, "writer": 2}) == (not stays)
    summary = store.summary("a")
    assert summary is not None
    assert summary["writer"] == (1 if stays else 2)
    assert (folder / "curves.parquet").exists() == stays
    assert listed(folder.parent) == ["a"]


def test_of_writers_at_once_one_stays_whole(tmp_path: Path) -> None:
    writers = 8
    store, start = Store(tmp_path), Barrier(writers)

    def write(folder: Path, writer: int) -> bool:
        tensors = {"adapter": {"w": torch.full((1000,), float(writer))}}
        start.wait()
        return write_folder(folder, {"status": "done", "writer": writer}, CURVES, tensors)

    with ThreadPoolExecutor(writers) as pool:
        for identity in map(str, range(20)):
            folder = store.run_folder(identity)
            placed = list(pool.map(write, [folder] * writers, range(writers)))
            summary = store.summary(identity)
            assert summary is not None
            assert placed == [writer == summary["writer"] for writer in range(writers)]
            weights = read_tensors(folder / "adapter.safetensors")["w"]
            assert set(weights.tolist()) == {float(summary["writer"])}
    assert listed(tmp_path / "runs") == sorted(map(str, range(20)))


@pytest.mark.parametrize("text", ["", '{"status": "do', "[1, 2]", "null"])
def test_a_summary_that_is_not_whole_is_none_and_gives_way(text: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.run_folder("a").mkdir()
    (store.run_folder("a") / "summary.json").write_text(text)
    assert store.summary("a") is None
    assert not store.finished("a")
    assert write_folder(store.run_folder("a"), {"status": "done"})
    assert store.finished("a")


values: st.SearchStrategy = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(st.dictionaries(st.text(), values))
def test_what_is_not_finite_is_null_in_a_summary(summary: dict[str, Any]) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    assert json.loads(module._to_json(summary), parse_constant=refuse) == finite(summary)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:20]),
        lambda path: path.write_bytes(b"no tensors"),
        lambda path: path.unlink(),
    ],
    ids=["cut short", "foreign", "missing"],
)
def test_unreadable_weights_are_one_sentence(
    spoil: Callable[[Path], object], tmp_path: Path
) -> None:
    folder = Store(tmp_path).run_folder("a")
    write_folder(folder, {"status": "done"}, CURVES, TENSORS)
    spoil(folder / "adapter.safetensors")
    with pytest.raises(UsageError, match=r"adapter\.safetensors is not a readable"):
        read_tensors(folder / "adapter.safetensors")


def test_a_study_reads_back_and_is_replaced_by_the_next_sweep(tmp_path: Path) -> None:
    store = Store(tmp_path)
    cells = [
        Cell("a", "matyas", "lora", 0, "equal_rank"),
        Cell("b", "matyas", "lora", 1, "equal_rank", {"a": 2, "b": None, "c": [1, 2]}, ("a",)),
        Cell("c", "matyas", "lora", 2, "equal_rank", {"a": True, "b": None}, ("b", "a"), 512),
        Cell("d", "matyas", "lora", 3, "equal_rank", {"a": 4}, ("a",), 512, extension=1),
    ]
    store.write_study("mine", cells)
    assert store.study("mine") == cells
    store.write_study("mine", cells[:1])
    assert store.study("mine") == cells[:1]
    assert listed(tmp_path / "studies") == ["mine.json"]
    store.write_study("mine", cells, goes_on=True)
    assert store.study("mine") == cells


def test_what_all_cells_have_is_written_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    own = ({"a": 1, "b": 2.5}, {"b": 2.5, "a": 2}, {"a": 1, "b": 2.5, "c": "x"})
    store.write_study(
        "mine", [Cell(str(i), "matyas", "lora", i, "equal_rank", s) for i, s in enumerate(own)]
    )
    manifest = json.loads(store.manifest("mine").read_text())
    assert manifest["settings"] == {"b": 2.5}
    assert [cell["settings"] for cell in manifest["cells"]] == [
        {"a": 1},
        {"a": 2},
        {"a": 1, "c": "x"},
    ]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[]", "older form: run `qlexp migrate"),
        ('{"schema": 3, "settings": {}, "cells": []}', "its schema is 3, and this qlexp's 2"),
        ("{", "not readable"),
    ],
)
def test_a_manifest_of_another_schema_is_refused(tmp_path: Path, text: str, wanted: str) -> None:
    store = Store(tmp_path)
    store.manifest("mine").write_text(text)
    with pytest.raises(UsageError, match=wanted) as refusal:
        store.study("mine")
    assert str(refusal.value).count("\n") == 0


@pytest.mark.parametrize("name", ["a/b", "", "x" * 300, "ä" * 60, "a\0", "..", "a\n"])
def test_a_name_that_names_no_file_is_refused(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    for ask in (store.study, lambda name: store.write_study(name, [])):
        with pytest.raises(UsageError, match="names a file"):
            ask(name)
    assert not any((tmp_path / "studies").iterdir())


@pytest.mark.parametrize("place", ["a\0b", "~nobody_of_that_name/store", "x" * 300])
@pytest.mark.parametrize("writable", [True, False])
def test_a_place_that_is_no_path_is_refused(place: str, writable: bool) -> None:
    if not writable and "x" in place:
        return  # a folder that is not there
    with pytest.raises(UsageError, match=r"no path of a folder|not writable"):
        Store(place, writable)


def test_an_unknown_study_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(UsageError, match=r"no study 'mine' \(no study is stored yet\)"):
        store.study("mine")
    store.write_study("yours", [])
    with pytest.raises(UsageError, match=r"stored studies: yours.*qlexp experiment=mine"):
        store.study("mine")


def test_a_store_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"not writable.*store=PATH"):
        Store(tmp_path / "file" / "store")


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store("~/runs").root == (tmp_path / "runs").resolve()
