"""The routing equations as plain loops over examples, tokens, blocks and atoms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class Seen:
    """An adapted linear in a forward pass.

    Attributes:
        x, y: its inputs and outputs, (N, T, in) and (N, T, out).
        frozen: what the frozen linear makes of x.
    """

    layer: int
    x: Array
    y: Array
    frozen: Array
    A: Array
    B: Array
    gate: float
    scale: float


def expected(
    linears: Sequence[Seen],
    bank: Mapping[str, Array],
    block_size: int,
    top_k: int,
    kept: NDArray[np.bool_] | None = None,
) -> list[Array]:
    """The outputs of the linears, in the order in which they ran.

    Args:
        kept: (N, T), False on padding; a state is then the mean over the kept tokens so far. None:
            a state is that of its token alone.
    """
    depth = linears[-1].layer + 1
    first = [next(one for one in linears if one.layer == layer) for layer in range(depth)]
    outputs = [np.empty_like(one.y) for one in linears]
    N, T = linears[0].x.shape[:2]
    for n in range(N):
        for t in range(T):
            states = []
            for one in first:
                low = one.x[n] @ one.A.T
                if kept is None:
                    states.append(low[t])
                else:
                    so_far = [low[i] for i in range(t + 1) if kept[n, i]]
                    states.append(np.mean(so_far, axis=0) if so_far else np.zeros(len(one.A)))
            operators = routed(states, bank, block_size, top_k)
            for output, one in zip(outputs, linears, strict=True):
                low = one.A @ one.x[n, t]
                low = low + one.gate * operators[one.layer // block_size] @ low
                output[n, t] = one.frozen[n, t] + one.scale * one.B @ low
    return outputs


def routed(
    states: Sequence[Array], bank: Mapping[str, Array], block_size: int, top_k: int
) -> list[Array]:
    """R of every block, from the state of every layer."""
    keys, root = bank["keys"], np.sqrt(bank["keys"].shape[-1])
    operators, averages = [], list[Array]()
    for block, prior in enumerate(bank["priors"]):
        layers = states[block * block_size : (block + 1) * block_size]
        query = prior + bank["U"] @ normed(layers[0])
        if averages:
            shares = np.ones(1)
            if "V" in bank:
                shares = softmax([query @ bank["V"] @ normed(v) / root for v in averages])
            summary = sum(share * v for share, v in zip(shares, averages, strict=False))
            query = query + bank["S"] @ summary
        logits = keys @ query / root
        chosen = np.argsort(-logits)[:top_k]
        weights = softmax(logits[chosen])
        operators.append(sum(w * bank["atoms"][m] for w, m in zip(weights, chosen, strict=True)))
        averages.append(np.mean(layers, axis=0))
    return operators


def normed(state: Array) -> Array:
    return state / np.sqrt(np.mean(state**2) + 1e-6)


def softmax(scores: Sequence[float] | Array) -> Array:
    powers = np.exp(np.asarray(scores) - np.max(scores))
    return powers / powers.sum()
