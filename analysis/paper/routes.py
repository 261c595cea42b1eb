"""What atom weights say: usage, entropy, and how alike two routings are.

Weights are (n, N_b, K): points by blocks by atoms, each row at least 0 with sum 1. A bank's atoms
have no order, so only routings through ONE bank can be compared atom by atom: blocks of one
adapter, or one adapter under several targets' texts. Two adapters are compared by what no
reordering of atoms changes: their usages in descending order, and the linear CKA of their weights
over the same points.
"""

import math

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from scipy.special import rel_entr

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


def token_rows(weights: Array) -> Array:
    """(n, T, N_b, K), routed token by token, as rows (n T, N_b, K); (n, N_b, K) as it is."""
    return weights.reshape(-1, *weights.shape[-2:])


def usage(weights: Array) -> Array:
    """Mean weight of each atom: (n, N_b, K) -> (N_b, K)."""
    return weights.mean(0)


def selection(weights: Array) -> Array:
    """Share of the rows in which an atom has a weight: (n, N_b, K) -> (N_b, K)."""
    return (weights > 0).mean(0)


def used_atoms(weights: Array) -> IntArray:
    """How many atoms have a weight in any row: (n, N_b, K) -> (N_b,)."""
    return (weights > 0).any(0).sum(-1)


def largest_usage(weights: Array) -> Array:
    """The largest mean weight of an atom: (n, N_b, K) -> (N_b,)."""
    return usage(weights).max(-1)


def entropy(weights: Array) -> Array:
    """Mean entropy of a row's weights in nats: (n, N_b, K) -> (N_b,); at most ln k."""
    return scipy.stats.entropy(weights, axis=-1).mean(0)


def effective_atoms(weights: Array) -> Array:
    """exp of the entropy of the usage: (n, N_b, K) -> (N_b,), from 1 to K."""
    return np.exp(scipy.stats.entropy(usage(weights), axis=-1))


def input_dependence(weights: Array) -> Array:
    """Entropy of the usage minus the mean entropy of a row, in nats: (n, N_b, K) -> (N_b,).

    It is the mutual information of input and atom: 0 where every input has the same weights.
    """
    return np.maximum(np.log(effective_atoms(weights)) - entropy(weights), 0.0)


def agreement(first: Array, second: Array) -> Array:
    """1 minus the Jensen-Shannon distance (base 2), along the last axis: 1 equal, 0 disjoint."""
    middle = (first + second) / 2
    divergence = (rel_entr(first, middle) + rel_entr(second, middle)).sum(-1) / (2 * math.log(2))
    return 1 - np.sqrt(np.maximum(divergence, 0.0))  # rounding can take it below 0


def block_agreement(weights: Array) -> Array:
    """Mean agreement of two blocks' weights at the same row: (n, N_b, K) -> (N_b, N_b)."""
    return agreement(weights[:, :, None], weights[:, None]).mean(0)


def usage_agreement(first: Array, second: Array) -> Array:
    """Agreement of usages in descending order: two (n, N_b, K) -> (N_b,)."""
    return agreement(*(np.sort(usage(weights), axis=-1)[:, ::-1] for weights in (first, second)))


def cka(first: Array, second: Array) -> Array:
    """Linear centred kernel alignment over the same rows: two (n, N_b, K) -> (N_b,), in [0, 1].

    Kornblith et al. 2019, arXiv 1905.00414: 1 where the weights are the same up to a rotation of
    the atoms' axes, as a reordering is. NaN where one of the two is the same at every row.
    """
    X, Y = (np.moveaxis(weights - weights.mean(0), 1, 0) for weights in (first, second))

    def size(left: Array, right: Array) -> Array:
        return np.square(np.swapaxes(left, 1, 2) @ right).sum((1, 2))  # squared Frobenius norm

    constant = (np.abs(X).max((1, 2)) < 1e-9) | (np.abs(Y).max((1, 2)) < 1e-9)
    whole = np.sqrt(size(X, X) * size(Y, Y))
    return np.where(constant, np.nan, size(X, Y) / np.where(constant, 1.0, whole))
