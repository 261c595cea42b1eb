"""The compiled training step, and what happens where nothing can be compiled."""

import logging
from collections.abc import Callable, Hashable
from functools import cache, lru_cache
from typing import Any, TypeVar

import torch

from qlexp.train.loop import LossFunction, lane_losses

F = TypeVar("F", bound=Callable[..., Any])

log = logging.getLogger(__name__)


def loss_function(compiled: bool, device: torch.device, shape: Hashable) -> LossFunction:
    """The lanes' losses, compiled if asked for and possible.

    On a CUDA device the step is replayed from CUDA graphs (`reduce-overhead`). Compiled code is
    kept on disk by torch and found again by later runs.

    Args:
        shape: equal for batches that can run the same code.
    """
    if not compiled or not _can_compile(device.type):
        return lane_losses
    return _compiled("reduce-overhead" if device.type == "cuda" else None, shape)


def compiled_apart(function: F, device: torch.device) -> F:
    """`function` compiled with code of its own, for timing many models side by side.

    What cannot be compiled as a whole raises an error instead of running uncompiled.
    """
    mode = "reduce-overhead" if device.type == "cuda" else None
    return torch.compile(  # type: ignore[call-overload]  # torch's overloads lack the last one
        function, mode=mode, dynamic=False, fullgraph=True, isolate_recompiles=True
    )


@lru_cache(maxsize=1)
def _compiled(mode: str | None, shape: Hashable) -> LossFunction:
    torch._dynamo.reset()  # code of another shape would only be tried and found wanting
    return torch.compile(lane_losses, mode=mode, dynamic=False)


@cache
def _can_compile(device_type: str) -> bool:
    error = compiler_error(device_type)
    if error is not None:
        log.warning(
            "compile=true, but nothing can be compiled here (%s): training goes on uncompiled. "
            "Install a C++ compiler such as g++, or set compile=false.",
            error,
        )
    return error is None


def compiler_error(device_type: str) -> str | None:
    """Why nothing can be compiled for a device, in one line; None where it can."""
    try:
        torch.compile(torch.sin)(torch.ones(2, device=device_type))
    except Exception as error:  # a missing compiler shows in many ways
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def from_compiler(error: Exception) -> bool:
    """Whether torch's compiler raised it: a broken C++ compiler, or a cache that was cut short.

    Told by the module's name, since importing the classes costs a second.
    """
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
