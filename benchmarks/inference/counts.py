"""What a forward pass costs beside time, counted on the meta device: nothing is computed.

Floating-point operations are two for a multiplication with an addition. Contractions are counted,
whether a matrix product does them or a multiplication whose result is summed at once (queryable's
R A h, scores of attention, norms expanded by DoRA). What multiplies without a sum over the products
(gates, a softmax, top-k, norms, the blend of two values in the backbone's attention) is not.
Mixtures count as the code computes them: over the whole pool, with zeros for what was not chosen.
"""

import weakref
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakTensorKeyDictionary

from benchmarks.contenders import shapes_of
from qlexp.adapters.budget import trainable_count
from qlexp.config.schema import BackboneConfig, Config
from qlexp.errors import UsageError
from qlexp.model.backbone import COORDINATES, Backbone
from qlexp.model.initial import Shapes
from qlexp.sweep.width import free_bytes

_SHARE = 0.6  # of the free memory; the rest is for the other models, their inputs and the allocator
_MOST_ROWS = 2**36  # larger shapes could overflow; no memory holds these


@dataclass(frozen=True)
class Cost:
    """A method, unmerged, on a backbone and a batch.

    Attributes:
        trainable: parameters.
        flops: what the method adds to a pass over the batch.
        backbone_flops: those of the pass without an adapter.
        reading: whether the method's formula is partly a reading of its paper.
    """

    trainable: int
    flops: int
    backbone_flops: int
    reading: bool

    @property
    def share(self) -> float:
        """What is added, over the backbone's."""
        return self.flops / self.backbone_flops


def costs_of(configs: Sequence[Config], batch: int) -> dict[str, Cost]:
    """By method, of a pass over `batch` points; all on one backbone."""
    bare = bare_flops(configs[0].backbone, batch)
    return {
        config.method.name: Cost(
            trainable=trainable_count(config),
            flops=count_flops(*shapes_of(config, batch)) - bare,
            backbone_flops=bare,
            reading=config.method.kind.reading,
        )
        for config in configs
    }


def bare_flops(shape: BackboneConfig, batch: int) -> int:
    """Of the bare network."""
    points = torch.empty(1, batch, COORDINATES, device="meta")
    return count_flops(Backbone(shape, Shapes()).to("meta"), (points,))


def count_flops(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Those of the contractions in one pass of `model`."""
    products, written_out = FlopCounterMode(display=False), _WrittenOut()
    with torch.no_grad(), products, written_out:
        model(*inputs)
    return products.get_total_flops() + written_out.flops


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
    model, inputs = shapes_of(config, min(batch, _MOST_ROWS))
    held = sum(tensor.nbytes for tensor in (*inputs, *model.parameters()))
    with torch.no_grad(), _Peak() as peak:
        model(*inputs)
    return held + peak.bytes


class _Watch(TorchDispatchMode):
    """Shows `note` every operation with its result."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.note(getattr(func, "overloadpacket", None), args, result)
        return result

    @abstractmethod
    def note(self, operation: Any, args: Sequence[Any], result: Any) -> None:
        """Takes one operation, what it was given and what it made."""


class _WrittenOut(_Watch):
    """Counts the sums of elementwise products of two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self._products: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def note(self, operation: Any, args: Sequence[Any], result: Any) -> None:
        if operation is torch.ops.aten.mul and all(isinstance(a, Tensor) for a in args):
            self._products[result] = True
        elif operation is torch.ops.aten.sum and args[0] in self._products:
            self.flops += 2 * args[0].numel()


class _Peak(_Watch):
    """The most bytes that results held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self._live: dict[int, int] = {}  # by the address of the storage

    def note(self, operation: Any, args: Sequence[Any], result: Any) -> None:
        for leaf in tree_leaves(result):
            if not isinstance(leaf, Tensor):
                continue
            storage = leaf.untyped_storage()
            if storage._cdata not in self._live:
                self._live[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self._live.pop, storage._cdata)
                self.bytes = max(self.bytes, sum(self._live.values()))
