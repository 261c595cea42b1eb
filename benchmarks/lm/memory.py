"""How many bytes a training step holds, counted tensor by tensor."""

from collections.abc import Iterable
from typing import NamedTuple
from weakref import WeakSet

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.lm.contenders import Contender, trainable

_OF_ADAMW = 3  # numbers a trained one: its gradient and two moments


class StepBytes(NamedTuple):
    """What a step with AdamW holds where its backward pass begins.

    Attributes:
        weights: frozen and trained ones.
        optimizer: gradients and moments of the trained ones.
        saved: what the forward pass leaves for the backward pass.
    """

    weights: int
    optimizer: int
    saved: int

    @property
    def total(self) -> int:
        return sum(self)


class _Saved:
    """A tensor in the autograd graph, which alone holds it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def step_bytes(contender: Contender, ids: Tensor) -> StepBytes:
    """Of a step on the tokens ids (N, T). A storage counts once, however many tensors share it."""
    model, extra = contender.model.train(), contender.extra(len(ids))
    graph = WeakSet[_Saved]()  # without what is saved and then dropped, as behind a detach()

    def pack(tensor: Tensor) -> _Saved:
        saved = _Saved(tensor)
        graph.add(saved)
        return saved

    with saved_tensors_hooks(pack, lambda saved: saved.tensor):
        output = model(input_ids=ids, labels=ids, use_cache=False, **extra)
    weights = _storages((*model.parameters(), *model.buffers()))
    saved = _storages(one.tensor for one in graph)
    del output
    return StepBytes(
        sum(weights.values()),
        _OF_ADAMW * sum(parameter.nbytes for parameter in trainable(model)),
        sum(size for place, size in saved.items() if place not in weights),
    )


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes by address."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return {storage.data_ptr(): storage.nbytes() for storage in storages}
