"""Reads a `.wandb` file back: a LevelDB log of protobuf records.

The file is cut into blocks of 32 KiB; the first starts with 7 bytes of W&B's own. A chunk is a
little-endian header (CRC-32 of type and data, length, type) and data, and never crosses a block; a
record is one FULL chunk or FIRST, MIDDLE..., LAST.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

_MAGIC = b":W&B"
_FILE_HEADER = 7
_BLOCK = 32768
_CHUNK = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass(frozen=True)
class MirroredRun:
    """What one `.wandb` file says of its run."""

    run_id: str
    name: str
    group: str
    project: str
    job_type: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    exit_code: int | None  # None: the run was never closed


def read_run(path: Path) -> MirroredRun:
    """The run in `path`; a broken file fails an assertion."""
    config: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    exit_code = None
    for data in _records(path.read_bytes()):
        record = Record.FromString(data)
        match record.WhichOneof("record_type"):
            case "run":
                run = record.run
                _update(config, run.config.update)
            case "config":
                _update(config, record.config.update)
            case "history":
                row: dict[str, Any] = {}
                _update(row, record.history.item)
                history.append(row)
            case "summary":
                _update(summary, record.summary.update)
            case "exit":
                exit_code = record.exit.exit_code
    return MirroredRun(
        run_id=run.run_id,
        name=run.display_name,
        group=run.run_group,
        project=run.project,
        job_type=run.job_type,
        tags=tuple(run.tags),
        config=config,
        history=history,
        summary=summary,
        exit_code=exit_code,
    )


def _records(data: bytes) -> Iterator[bytes]:
    assert data.startswith(_MAGIC)
    position = _FILE_HEADER
    parts: list[bytes] = []
    while position < len(data):
        left = _BLOCK - position % _BLOCK
        if left < _CHUNK.size:  # too short for a chunk: padding
            position += left
            continue
        checksum, length, kind = _CHUNK.unpack_from(data, position)
        position += _CHUNK.size
        assert length <= left - _CHUNK.size
        chunk = data[position : position + length]
        assert zlib.crc32(chunk, zlib.crc32(bytes([kind]))) == checksum
        assert kind in ((_MIDDLE, _LAST) if parts else (_FULL, _FIRST))
        parts.append(chunk)
        position += length
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts.clear()
    assert not parts


def _update(target: dict[str, Any], items: Iterable[Any]) -> None:
    """Sets `a` or, where an item has a nested key, `a.b` of `target` to the item's JSON value."""
    for item in items:
        *parents, last = item.nested_key or [item.key]
        node = target
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = json.loads(item.value_json)
