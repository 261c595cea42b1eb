"""Samples of tasks: seeded splits without leaks, and one sentence for what is wrong."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlexp import UsageError
from qlexp.lm.schema import PartConfig
from qlexp.lm.tasks import plain, splits

SIZES = {"train": 12, "validation": 5, "test": 7}


def jsonl(tmp_path: Path, rows: int = 30, **columns: Any) -> PartConfig:
    path = tmp_path / "mine.jsonl"
    lines = [json.dumps({"question": f"q{i}", "answer": str(i), **columns}) for i in range(rows)]
    path.write_text("\n".join([*lines, ""]))
    return PartConfig(source="jsonl", name=str(path), score="exact")


def generated() -> PartConfig:
    return PartConfig(name="chain_sum", options={"min_terms": 2, "max_terms": 2, "max_digits": 2})


@pytest.mark.parametrize("make", [lambda tmp: generated(), jsonl])
def test_splits_are_seeded_and_share_no_question(
    make: Callable[[Path], PartConfig], tmp_path: Path
) -> None:
    part = make(tmp_path)
    one, same, other = (splits("mine", part, SIZES, seed) for seed in (0, 0, 1))
    prompts = {split: [sample.prompt for sample in own] for split, own in one.items()}
    assert {split: len(own) for split, own in prompts.items()} == SIZES
    assert len({prompt for own in prompts.values() for prompt in own}) == sum(SIZES.values())
    assert prompts == {split: [sample.prompt for sample in own] for split, own in same.items()}
    assert prompts != {split: [sample.prompt for sample in own] for split, own in other.items()}


def test_a_sum_with_its_terms_swapped_is_the_same_question() -> None:
    options = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    part = PartConfig(name="chain_sum", options=options)
    sizes = {"train": 30, "validation": 10, "test": 10}
    pairs = [
        tuple(sorted(re.findall(r"\d", sample.prompt)) + re.findall("[-+]", sample.prompt))
        for own in splits("mine", part, sizes, 0).values()
        for sample in own
    ]
    assert len(set(pairs)) == len(pairs)


def test_the_test_split_does_not_depend_on_the_other_sizes(tmp_path: Path) -> None:
    small = splits("mine", generated(), SIZES, 0)["test"]
    large = splits("mine", generated(), {**SIZES, "train": 40}, 0)["test"]
    assert [sample.prompt for sample in small] == [sample.prompt for sample in large]


def test_every_right_answer_is_judged_right_and_another_wrong(tmp_path: Path) -> None:
    for part in (generated(), jsonl(tmp_path)):
        for sample in splits("mine", part, SIZES, 0)["test"]:
            assert sample.judge(sample.answer)
            assert not sample.judge(sample.answer + "1")


@given(st.integers(-(10**6), 10**6))
def test_numbers_are_compared_by_value(value: int) -> None:
    assert plain(f" {value:,}. ") == plain(f"{value}.0") == plain(str(value))
    assert plain(str(value)) != plain(str(value + 1))


@pytest.mark.parametrize(
    ("one", "other"), [("12345678901", "12345678902"), ("1,2", "12"), ("007", "7"), ("a", "b")]
)
def test_different_answers_stay_different(one: str, other: str) -> None:
    assert plain(one) != plain(other)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty: it wants a JSON object a line"),
        ('{"question": "a", "answer": "b"}\n{"question": ', r"mine\.jsonl, line 2, is no JSON"),
        ('["a"]', r"line 1, is no JSON object"),
        ('{"question": "a", "reply": "b"}', r"no column 'answer' \(its columns: question, reply\)"),
        ('{"question": "a", "answer": "b"}', "has 1 different questions"),
    ],
)
def test_a_file_that_does_not_do(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(text)
    part = PartConfig(source="jsonl", name=str(path), score="exact")
    with pytest.raises(UsageError, match=sentence):
        splits("mine", part, SIZES, 0)


def test_other_sources_that_do_not_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'chain_sum'"):
        splits("mine", PartConfig(name="chainsum"), SIZES, 0)
    with pytest.raises(UsageError, match="options fit no gcd"):
        splits("mine", PartConfig(name="gcd", options={"sides": 3}), SIZES, 0)
    with pytest.raises(UsageError, match="could not read"):
        splits("mine", PartConfig(source="jsonl", name="/nowhere", score="exact"), SIZES, 0)
    with pytest.raises(UsageError, match="score=verifier wants a task of reasoning_gym"):
        PartConfig(source="jsonl", name="mine.jsonl")
    with pytest.raises(UsageError, match="choices are for score=choice"):
        PartConfig(name="syllogism", choices=["Yes", "No"])
    part = jsonl(tmp_path)
    part.choices = ["yes", "no"]
    with pytest.raises(UsageError, match="is not among its choices"):
        splits("mine", part, SIZES, 0)
