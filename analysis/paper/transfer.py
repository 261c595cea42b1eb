"""What a sequence of tasks did to an adapter, from its matrix of losses.

L[j, i] is the test loss on task i = 1..T after the first j = 0..T tasks; an array (T + 1, T). The
signs are those of Lopez-Paz and Ranzato 2017 (arXiv 1706.08840), who measure accuracies: a transfer
above 0 is a gain.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import entropy

Array = NDArray[np.float64]


def final_loss(losses: Array) -> float:
    """mean_i L[T, i]."""
    return float(losses[-1].mean())


def learnt_loss(losses: Array) -> float:
    """mean_i L[i, i]."""
    return float(just_learnt(losses).mean())


def backward_transfer(losses: Array) -> float:
    """mean_{i < T} (L[i, i] - L[T, i]): what later tasks did to those learnt before."""
    return float((just_learnt(losses) - losses[-1])[:-1].mean())


def forward_transfer(losses: Array) -> float:
    """mean_{i > 1} (L[0, i] - L[i - 1, i]): what earlier tasks did for one not yet trained on.

    The start, L[0], is the frozen backbone; there it is a network at random.
    """
    return float((losses[0] - np.diagonal(losses))[1:].mean())


def forgetting(losses: Array) -> float:
    """mean_{i < T} (L[T, i] - min_{0 < j < T} L[j, i]): the loss above the best it has been.

    Chaudhry et al. 2018 (arXiv 1801.10112). Never below minus the backward transfer.
    """
    return float((losses[-1] - losses[1:-1].min(axis=0))[:-1].mean())


def just_learnt(losses: Array) -> Array:
    """L[i, i], (T,)."""
    return np.diagonal(losses, offset=-1)


def final_drift(drift: Sequence[Array]) -> float:
    """How far the routes of all tasks but the last have moved since they were learnt, in [0, 1].

    Args:
        drift: `drift[j][i]`, i <= j: of task i after j + 1 tasks.
    """
    return float(drift[-1][:-1].mean())


def atoms_in_use(usage: Array) -> float:
    """exp of the entropy of the mean weights, 1 to K; mean over tasks and blocks.

    Args:
        usage: mean weight of each atom, (T, N_b, K).
    """
    return float(np.exp(entropy(usage, axis=-1)).mean())
