"""What a stored model is asked: points, and the text of a target where it reads one."""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qlexp.config.schema import Config
from qlexp.problem.instructions import encode
from qlexp.problem.targets import Problem, Split

Array = NDArray[np.float64]
Inputs = tuple[Tensor, Tensor | None]  # x (1, n, 2), e(z) (1, n, d_e)


def inputs_at(
    config: Config, problem: Problem, model: nn.Module, x: Array, target: int = 0
) -> Inputs:
    """Points x (n, 2) as `model` takes them, under a target's first wording."""
    texts = encode(config, problem.test)
    if texts is not None:
        first = np.flatnonzero(problem.test.target == target)[0]
        texts = np.tile(texts[first], (len(x), 1))
    return _as_taken_by(model, x, texts)


def split_inputs(config: Config, split: Split, model: nn.Module, count: int) -> Inputs:
    """The first points of every target of a split, equally many of each, `count` at most."""
    turn = pd.Series(split.target).groupby(split.target).cumcount()
    chosen = np.argsort(turn.to_numpy(), kind="stable")[:count]
    texts = encode(config, split)
    return _as_taken_by(model, split.x[chosen], None if texts is None else texts[chosen])


def _as_taken_by(model: nn.Module, x: Array, texts: Array | None) -> Inputs:
    like = next(model.parameters())

    def tensor(values: Array) -> Tensor:
        return torch.as_tensor(values[None], dtype=like.dtype, device=like.device)

    return tensor(x), None if texts is None else tensor(texts)
