"""The files of a run, each folder put in place by one rename."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from qlexp.errors import StoreError, UsageError

if TYPE_CHECKING:
    import pandas as pd
    from pyarrow import Table

log = logging.getLogger(__name__)

FINISHED = ("done", "diverged")  # the states that a rerun leaves alone
PAUSED, STOPPED = "paused", "stopped"  # trials on their way: one may go on, one is behind
_STATE = "state.pt"


def write_folder(
    folder: Path,
    summary: Mapping[str, Any],
    curves: pd.DataFrame | None = None,
    tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
    state: Mapping[str, Any] | None = None,
    save: Callable[[Path], object] | None = None,
) -> bool:
    """Puts a run in place whole: `summary.json`, `curves.parquet`, `<name>.safetensors`, where it
    is paused the state that it goes on from, and what `save` writes into the folder.

    Returns whether it did: where a finished run is already there, that one stays.

    Raises:
        StoreError: the disk is full or the folder not writable; nothing is left behind.
    """
    try:
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            if curves is not None:
                curves.to_parquet(draft / "curves.parquet", index=False)
            for name, lane in (tensors or {}).items():
                save_file(dict(lane), draft / f"{name}.safetensors")
            if state is not None:
                torch.save(state, draft / _STATE)
            if save is not None:
                save(draft)
            (draft / "summary.json").write_text(_to_json(summary))
            return _put_in_place(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _put_in_place(draft: Path, folder: Path) -> bool:
    """Renames `draft` to `folder`; a finished run already there stays, a failed one gives way."""
    draft.chmod(0o755)
    while not _rename(draft, folder):
        if is_finished(folder):
            return False
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent)) / "run"
        try:
            if _rename(folder, aside) and is_finished(aside):  # finished since it was looked at
                _rename(aside, folder)
                return False
        except FileNotFoundError:  # another writer has moved it
            pass
        finally:
            shutil.rmtree(aside.parent, ignore_errors=True)
    return True


def _rename(source: Path, target: Path) -> bool:
    """Whether `source` became `target`: not where `target` is taken."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def is_finished(folder: Path) -> bool:
    """Whether `folder` holds a run that a rerun leaves alone."""
    summary = read_summary(folder)
    return summary is not None and summary.get("status") in FINISHED


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The summary in `folder`, or None where there is none or it is not whole."""
    return read_json(folder / "summary.json")


def read_state(folder: Path) -> dict[str, Any] | None:
    """The state that a paused run goes on from; None where there is none that can be read."""
    try:
        return torch.load(folder / _STATE, weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # a file cut short or foreign shows in many ways
        log.warning("%s is not readable (%s): this run starts anew", folder / _STATE, error)
        return None


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where there is none or it is not whole."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def read_curves(folder: Path) -> pd.DataFrame:
    """The recorded curves of a run, one row a recorded update."""
    return read_curve_table(folder).to_pandas(use_threads=False)


def read_curve_table(folder: Path, columns: Sequence[str] | None = None) -> Table:
    """The recorded curves of a run, of `columns` those that it has."""
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415, a tenth of a second

    # threads, of which prefetching is one, cost more than such a file
    with ParquetFile(folder / "curves.parquet", pre_buffer=False) as file:
        return file.read(columns, use_threads=False)


def lane_tensors(
    parameters: Mapping[str, Tensor], lane: int, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """One lane of stacked tensors, without the lane axis, as a file takes them.

    Args:
        dtype: the type that they are stored in; None: their own.
    """
    return {name: p.detach()[lane].to("cpu", dtype).contiguous() for name, p in parameters.items()}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UsageError: the file is missing, cut short or not safetensors.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"{path} is not a readable safetensors file ({error}): delete its folder and run again."
        ) from error


def _to_json(summary: Mapping[str, Any]) -> str:
    """JSON without NaN or Infinity, which are no JSON: a number that is not finite becomes null."""
    return json.dumps(_finite(summary), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_file(path: Path, text: str) -> None:
    """Replaces a text file whole; its folder is made if needed.

    Raises:
        StoreError: the disk is full or the folder not writable; the old file stays.
    """
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text)
        os.replace(draft, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        draft.unlink(missing_ok=True)


def _cannot_write(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"Could not write {path} ({error.strerror}): free some space or name another folder with "
        "store=PATH; finished runs are kept."
    )
