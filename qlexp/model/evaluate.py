"""A model on samples: what it says, and its loss."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Samples:
    """Points x (L, n, 2), values y (L, n), and e(z) (L, n, d_e) or None, of a batch of lanes."""

    x: Tensor
    y: Tensor
    instruction: Tensor | None = None

    def chunk(self, parts: int) -> list["Samples"]:
        """`parts` equal runs of consecutive samples."""
        given = (self.x, self.y, self.instruction)
        chunks = ([t] * parts if t is None else t.chunk(parts, dim=1) for t in given)
        return [Samples(*part) for part in zip(*chunks, strict=True)]


WORST = 0.01  # the share of the points whose part in the error is told


@torch.no_grad()
def predict(
    model: Callable[..., Tensor], x: Tensor, instruction: Tensor | None = None, chunk: int = 1024
) -> Tensor:
    """What `model` says, (L, n, ...), at x (L, n, 2), `chunk` points at a time."""
    inputs = [x] if instruction is None else [x, instruction]
    chunks = zip(*(tensor.split(chunk, dim=1) for tensor in inputs), strict=True)
    return torch.cat([model(*part) for part in chunks], dim=1)


def mean_square_error(model: nn.Module, samples: Samples) -> Tensor:
    """The loss of each lane over all its samples, (L,), summed in float64."""
    return _square_errors(model, samples).mean(1).cpu()


def worst_share(model: nn.Module, samples: Samples) -> Tensor:
    """How much of each lane's square error its worst hundredth of the points makes up, (L,)."""
    errors = _square_errors(model, samples)
    worst = errors.topk(math.ceil(WORST * errors.shape[1]), dim=1).values
    return (worst.sum(1) / errors.sum(1)).cpu()


def _square_errors(model: nn.Module, samples: Samples) -> Tensor:
    """(L, n), in float64."""
    prediction = predict(model, samples.x, samples.instruction)
    return (prediction.double() - samples.y.double()).square()
