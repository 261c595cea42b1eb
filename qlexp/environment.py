"""Where a number was computed: versions, commit, device, memory."""

import ctypes
import gc
import platform
import re
import resource
import subprocess
import traceback
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from qlexp.errors import UsageError

_PACKAGES = ("qlexp", "torch", "numpy", "hydra-core", "pandas", "safetensors")


@cache
def versions(more: tuple[str, ...] = ()) -> dict[str, str]:
    """Versions of Python and of the packages that a number depends on, and of `more`."""
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@cache
def commit() -> str | None:
    """The source tree's commit, `-dirty` where tracked files differ; None outside a checkout."""
    if not (Path(__file__).parent.parent / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of glibc's mallopt(3)


def keep_freed_memory() -> None:
    """Lets a CPU process keep the memory of freed tensors for the next step.

    By default glibc returns every large block to the kernel and faults it in anew, which takes 5 to
    15 % of a training step at width 32. Does nothing where the C library is another.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def pick_device(name: str) -> torch.device:
    """`auto` takes a CUDA device where there is one.

    Raises:
        UsageError: `cuda` is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device=cuda, but torch sees no CUDA device: use device=cpu or auto.")
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """The model of the processor or accelerator."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        described = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        described = None
    model = described[1] if described else platform.machine()
    return f"{model}, {torch.get_num_threads()} threads"


def release_memory(error: BaseException) -> None:
    """Lets go of what the frames that `error` passed through still hold, so that it can be used."""
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where CUDA was never used


def start_peak_memory(device: torch.device) -> None:
    """From here on counts `peak_memory_bytes`; a CPU's process knows its whole life only."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """The most that was held at once: by torch on an accelerator, since `start_peak_memory`; on a
    CPU by the process since it began, other batches included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
