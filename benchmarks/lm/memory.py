"""How many bytes a training step holds, counted tensor by tensor."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.lm.contenders import Contender, trainable


class StepBytes(NamedTuple):
    """What a step with AdamW holds as its backward pass begins.

    Attributes:
        weights: frozen and trained ones.
        optimizer: gradients and both moments of the trained ones.
        saved: activations that the backward pass wants.
    """

    weights: int
    optimizer: int
    saved: int

    @property
    def total(self) -> int:
        return sum(self)


def step_bytes(contender: Contender, ids: Tensor) -> StepBytes:
    """Of a step on the tokens ids (N, T). Storages count once, whoever shares them."""
    model = contender.model.train()
    held: dict[int, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        _hold(held, tensor)
    weights = sum(held.values())

    def pack(tensor: Tensor) -> Tensor:
        _hold(held, tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(input_ids=ids, labels=ids, use_cache=False, **contender.extra(len(ids))).loss
    saved = sum(held.values()) - weights
    del loss  # only now: a storage that is freed may lend its address to another
    return StepBytes(weights, 3 * sum(one.nbytes for one in trainable(model)), saved)


def _hold(held: dict[int, int], tensor: Tensor) -> None:
    storage = tensor.untyped_storage()
    held[storage.data_ptr()] = storage.nbytes()
