"""Whether a pass fits into memory, counted on the meta device: nothing is computed."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qlexp.config.schema import Config
from qlexp.errors import UsageError
from qlexp.model.backbone import COORDINATES, Backbone
from qlexp.model.initial import Shapes
from qlexp.sweep.width import free_bytes

_SHARE = 0.6  # of the free memory; the rest is for the other models, their inputs and the allocator
_MOST_ROWS = 2**36  # larger shapes could overflow; no memory holds these


def check_memory(
    sized: Mapping[str, Sequence[Config]], batch: int, devices: Sequence[torch.device]
) -> None:
    """Compares what a pass of `batch` points holds with what every device has free.

    Raises:
        UsageError: the largest pass on a backbone does not fit.
    """
    for backbone, configs in sized.items():
        needed, method = max((pass_bytes(config, batch), config.method.name) for config in configs)
        for device in devices:
            if needed > (most := _SHARE * free_bytes(device)):
                raise UsageError(
                    f"--batch {batch} does not fit: a pass of {method} on {backbone} holds at "
                    f"least {needed / 2**30:,.1f} GiB, and at most {most / 2**30:,.1f} GiB, "
                    f"{_SHARE:.0%} of the free memory of {device.type}, can be taken; take a "
                    "smaller batch."
                )


def pass_bytes(config: Config, batch: int) -> int:
    """The most that a pass of `batch` points holds at once, its inputs and weights included."""
    rows = min(batch, _MOST_ROWS)
    method = config.method
    model = method.kind(Backbone(config.backbone, Shapes()), method.config, Shapes()).to("meta")
    inputs = [torch.empty(1, rows, COORDINATES, device="meta")]
    if method.config.instruction_size is not None:
        inputs.append(torch.empty(1, rows, method.config.instruction_size, device="meta"))
    held = sum(tensor.nbytes for tensor in (*inputs, *model.parameters()))
    with torch.no_grad(), _Peak() as peak:
        model(*inputs)
    return held + peak.bytes


class _Peak(TorchDispatchMode):
    """The most bytes that results held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self._live: dict[int, int] = {}  # by the address of the storage

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._live:
            self._live[storage._cdata] = storage.nbytes()
            weakref.finalize(storage, self._live.pop, storage._cdata)
            self.bytes = max(self.bytes, sum(self._live.values()))
