"""What identifies a run on a language model, and the frozen model's exam.

Beside the settings that is what they point at: the contents of files, and the versions of packages
that make samples or bring weights. A folder or a hub name of a model stands for itself.
"""

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qlexp.config.identity import digest, identifying
from qlexp.lm.schema import PACKAGE, LmConfig, PartConfig

NUMERICS_VERSION = 1  # part of every id: raised when the same config gives other numbers


def run_id(config: LmConfig) -> str:
    """Identity of a run: 16 hexadecimal digits."""
    return digest(_values(config), _numerics())


def backbone_id(config: LmConfig) -> str:
    """Identity of what the frozen model does on a run's samples."""
    values = _values(config)
    shared = ("model", "task", "data", "retention", "seed", "precision", "sources")
    return digest({name: values[name] for name in shared}, _numerics())


def _values(config: LmConfig) -> dict[str, Any]:
    parts = [*config.task.parts.values(), *config.retention.parts.values()]
    named = [] if config.retention.text is None else [config.retention.text]
    return {
        **identifying(config),
        "sources": {
            "parts": [_source(part) for part in parts],
            "files": [_contents(name) for name in named],
            "model": _version(config.model.source.removeprefix(PACKAGE))
            if config.model.source.startswith(PACKAGE)
            else None,
        },
    }


def _source(part: PartConfig) -> str | None:
    if part.source == "jsonl":
        return _contents(part.name)
    return _version("reasoning-gym") if part.source == "reasoning_gym" else None


def _contents(name: str) -> str | None:
    """The digest of a file; None where there is none, which is refused when it is read."""
    try:
        with Path(name).expanduser().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numerics() -> str:
    return f"language {NUMERICS_VERSION}"
