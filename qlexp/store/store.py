"""The folder of runs: the only truth of the project.

    store/runs/<run_id>/        summary.json, curves.parquet, adapter.safetensors; state.pt where
                                a trial is paused
    store/backbones/<id>/       summary.json, curves.parquet, backbone.safetensors
    store/studies/<study>.json  the cells that a study asked for, by run_id
    store/groups/<id>/          plan and checkpoint of a batch in training

A folder is written under a temporary name and put in place by one rename, so that a reader sees a
whole run or none.
"""

import math
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from qlexp.errors import UsageError
from qlexp.store.files import FINISHED, PAUSED, is_finished, read_summary, write_file
from qlexp.store.manifest import Cell, ManifestError, OlderManifestError, dump, parse

_LONGEST = 100  # letters of a study's name, which names files


class Store:
    """Reads and writes a store at `root`, which is made if needed.

    Args:
        writable: False leaves the folder as it is, for one that is only read.

    Raises:
        UsageError: `root` is no path, or is to be written to and cannot be.
    """

    def __init__(self, root: str | Path, writable: bool = True) -> None:
        try:
            self.root = Path(root).expanduser().resolve()
        except (ValueError, RuntimeError) as error:
            raise UsageError(f"store={str(root)!r} is no path of a folder ({error}).") from error
        if not writable:
            return
        try:
            for folder in ("runs", "backbones", "studies", "locks"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise UsageError(
                f"The results folder {self.root} is not writable ({error.strerror}): name another "
                "with store=PATH."
            ) from error

    def run_folder(self, run_id: str) -> Path:
        return self.root / "runs" / run_id

    def backbone_folder(self, backbone_id: str) -> Path:
        return self.root / "backbones" / backbone_id

    def summary(self, run_id: str) -> dict[str, Any] | None:
        """The summary of a run, or None where it is not stored whole."""
        return read_summary(self.run_folder(run_id))

    def finished(self, run_id: str) -> bool:
        """Whether a rerun may skip this run."""
        return is_finished(self.run_folder(run_id))

    def rung(self, run_id: str) -> float:
        """How far a run is: at 1 it is finished, at k it has made 1/k of its updates and was paused
        or stopped there; infinite where nothing of it is stored."""
        summary = self.summary(run_id) or {}
        finished = summary.get("status") in FINISHED
        return 1 if finished else summary.get("rung", math.inf)

    def paused_at(self, run_id: str) -> int | None:
        """The rung from which a run can go on; None where it begins."""
        summary = self.summary(run_id) or {}
        return summary["rung"] if summary.get("status") == PAUSED else None

    def has_backbone(self, backbone_id: str) -> bool:
        """Whether this backbone is stored whole."""
        return read_summary(self.backbone_folder(backbone_id)) is not None

    def write_study(self, name: str, cells: Sequence[Cell], goes_on: bool = False) -> None:
        """Names the cells of a study.

        Args:
            goes_on: adds them to those named before; else the last sweep is the one that counts.

        Raises:
            StoreError: the file cannot be written.
        """
        path = self.manifest(name)
        with self.lock(f"study-{name}"):
            before = self.study(name) if goes_on and path.exists() else []
            write_file(path, dump([*before, *cells]))

    def manifest(self, name: str) -> Path:
        """The file that lists the cells of a study.

        Raises:
            UsageError: there can be none of that name.
        """
        check_study_name(name)
        return self.root / "studies" / f"{name}.json"

    def lock(self, name: str) -> FileLock:
        """An inter-process lock, to be held in a `with`."""
        return FileLock(self.root / "locks" / f"{name}.lock")

    def study(self, name: str) -> list[Cell]:
        """The cells of a study.

        Raises:
            UsageError: no sweep of that name has run here, or its manifest is not readable.
        """
        path = self.manifest(name)
        if not path.exists():
            known = sorted(file.stem for file in path.parent.glob("*.json"))
            listed = f"stored studies: {', '.join(known)}" if known else "no study is stored yet"
            raise UsageError(
                f"The store {self.root} has no study '{name}' ({listed}). Run "
                f"`qlexp experiment={name}` first."
            )
        try:
            return parse(path.read_text())
        except OlderManifestError as error:
            raise UsageError(
                f"The manifest {path} is of an older form: run `qlexp migrate {self.root}` once."
            ) from error
        except (ManifestError, UnicodeDecodeError) as error:
            raise UsageError(
                f"The manifest {path} is not readable ({error}): run `qlexp experiment={name}` "
                "again to rewrite it."
            ) from error


def check_study_name(name: str) -> None:
    """Raises `UsageError` where no study can have this name, since it names files."""
    if not re.fullmatch(r"[\w.-]*\w", name):
        raise UsageError(
            f"study={name!r} names a file: use letters, digits, '_', '-' and '.' only."
        )
    if len(name.encode()) > _LONGEST:
        raise UsageError(
            f"study='{name[:20]}...' names a file: use at most {_LONGEST} letters, not {len(name)}."
        )
