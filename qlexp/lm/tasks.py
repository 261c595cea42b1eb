"""Samples of a task: generated, from a JSONL file or from a dataset, in seeded splits.

No question of the test split is in another one, and no question is there twice, not even with its
words in another order, such as a sum with its terms swapped.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from qlexp.errors import UsageError, unknown_name
from qlexp.lm.schema import PartConfig
from qlexp.problem.seeding import seed_stream

SPLITS = ("test", "validation", "train")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")  # 007 is none
_GROUPED = re.compile(r"-?[1-9]\d{0,2}(,\d{3})+(\.\d+)?")
_TRIES = 50  # generated questions for each that is wanted


@dataclass(frozen=True)
class Sample:
    """One question.

    Attributes:
        part: the task that it belongs to.
        system: the system turn; None: what the model's chat template says.
        instruction: the text of the column for the router, or "".
        choices: the answers to choose from, the right one among them; empty: none are given.
        judge: whether a text answers it.
    """

    part: str
    system: str | None
    prompt: str
    answer: str
    instruction: str
    choices: tuple[str, ...]
    judge: Callable[[str], bool]


def splits(
    name: str, part: PartConfig, sizes: Mapping[str, int], seed: int
) -> dict[str, list[Sample]]:
    """The samples of a task by split, `sizes` of each.

    Raises:
        UsageError: the source is not to be had, a column is missing, or it has too few questions.
    """
    read = {"reasoning_gym": _generated, "jsonl": _from_jsonl, "datasets": _from_datasets}
    wanted = sum(sizes.values())
    distinct = _distinct(read[part.source](name, part, seed, wanted))
    found = {split: list(islice(distinct, sizes[split])) for split in SPLITS if split in sizes}
    have = sum(map(len, found.values()))
    if have < wanted:
        raise UsageError(
            f"Task {name} has {have} different questions and data.train, data.validation and "
            f"data.test want {wanted}: make them smaller."
        )
    return found


def _distinct(samples: Iterable[Sample]) -> Iterator[Sample]:
    seen: set[tuple[str, ...]] = set()
    for sample in samples:
        words = tuple(sorted(re.findall(r"\w+", sample.prompt)))
        if words not in seen:
            seen.add(words)
            yield sample


def _generated(name: str, part: PartConfig, seed: int, wanted: int) -> Iterator[Sample]:
    from reasoning_gym import create_dataset  # noqa: PLC0415, a second
    from reasoning_gym.factory import DATASETS  # noqa: PLC0415

    if part.name not in DATASETS:
        raise unknown_name("generator of reasoning_gym", part.name, DATASETS)
    stream = seed_stream("lm task", name, seed) % 2**31
    try:
        dataset = create_dataset(part.name, seed=stream, size=_TRIES * wanted, **part.options)
    except (AssertionError, TypeError, ValueError) as error:
        raise UsageError(f"task.parts.{name}.options fit no {part.name}: {error}.") from error

    def judged(entry: dict[str, Any]) -> Callable[[str], bool]:
        return lambda text: dataset.score_answer(text, entry) >= 1.0

    for index in range(len(dataset)):
        entry = dataset[index]
        judge = judged(entry) if part.score == "verifier" else None
        yield _sample(name, part, entry, f"{part.name}, sample {index}", judge)


def _from_jsonl(name: str, part: PartConfig, seed: int, wanted: int) -> Iterator[Sample]:
    path = Path(part.name).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Task {name} could not read {path} ({error}).") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}, line {number}, is no JSON ({error}).") from error
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {number}, is no JSON object with named columns.")
        rows.append((f"{path}, line {number}", row))
    if not rows:
        raise UsageError(f"{path} is empty: it wants a JSON object a line.")
    return _shuffled(name, part, rows, seed)


def _from_datasets(name: str, part: PartConfig, seed: int, wanted: int) -> Iterator[Sample]:
    try:
        from datasets import load_dataset  # noqa: PLC0415, optional
    except ImportError as error:
        raise UsageError(
            f"Task {name} wants the package datasets: pip install datasets."
        ) from error
    try:
        dataset = load_dataset(part.name, **{"split": "train", **part.options})
    except Exception as error:  # whatever a hub, a cache or a builder meets
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UsageError(
            f"Task {name} could not load the dataset {part.name} ({reason})."
        ) from error
    rows = [(f"{part.name}, row {number}", dict(row)) for number, row in enumerate(dataset)]
    return _shuffled(name, part, rows, seed)


def _shuffled(
    name: str, part: PartConfig, rows: list[tuple[str, dict[str, Any]]], seed: int
) -> Iterator[Sample]:
    samples = [_sample(name, part, row, place) for place, row in rows]
    Random(seed_stream("lm task", name, seed)).shuffle(samples)
    return iter(samples)


def _sample(
    name: str,
    part: PartConfig,
    row: Mapping[str, Any],
    place: str,
    judge: Callable[[str], bool] | None = None,
) -> Sample:
    def column(key: str) -> Any:
        if row.get(key) is None:
            raise UsageError(
                f"{place}, has no column '{key}' (its columns: {', '.join(map(str, row))}): name "
                f"those of task.parts.{name}."
            )
        return row[key]

    answer = str(column(part.answer))
    given = column(part.choices) if isinstance(part.choices, str) else part.choices or ()
    choices = tuple(map(str, given))
    if choices and answer not in choices:
        raise UsageError(f"{place}: the answer '{answer}' is not among its choices.")
    return Sample(
        name,
        part.system,
        str(column(part.prompt)),
        answer,
        str(column(part.instruction)) if part.instruction else "",
        choices,
        judge or (lambda text: plain(text) == plain(answer)),
    )


def plain(text: str) -> str:
    """An answer as it is compared: blanks, capitals, a full stop and the form of a number aside."""
    short = " ".join(text.split()).casefold().removesuffix(".")
    digits = short.replace(",", "") if _GROUPED.fullmatch(short) else short
    return str(Decimal(digits).normalize()) if _NUMBER.fullmatch(digits) else short
