"""Routing over a shared bank of rank-space atoms: functions of tensors, for any network.

Source: arXiv 2605.08423, section 3. In block b of a network, with state u, earlier blocks' averages
v_j and an encoded text e(z):

    q~_b  = p_b + U u + Z e(z)                                 pre_query
    c_b   = sum_j softmax_j(V rms_norm(v_j) . q~_b / sqrt(d)) v_j    depth_summary
    q_b   = q~_b + S c_b                                       query
    pi_m  = softmax_m(k_m . P e(z) / sqrt(d))                  log_prior
    l_m   = q_b . k_m / sqrt(d) + lambda log pi_m              logits, regularised
    w     = softmax over the top k of l, 0 elsewhere           top_k_weights
    R_b   = sum_m w_m M_m                                      operator

Shapes: L networks that are worked on side by side, each with weights of its own (L = 1 for one);
`...` examples, or examples by tokens where every token has a route of its own; K atoms of rank r;
d the length of keys and queries, e that of a text.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from qlexp.model.linear import lane_linear, lane_linear_add


def rms_norm(h: Tensor) -> Tensor:
    """h over its root mean square along the last axis."""
    return F.rms_norm(h, h.shape[-1:], eps=1e-6)


def pre_query(
    state: Tensor,
    prior: Tensor,
    U: Tensor | None,
    text: Tensor | None = None,
    Z: Tensor | None = None,
) -> Tensor:
    """q~_b (L, ..., d).

    state (L, ..., r), prior p_b (L, d); U (L, d, r), where there is one, reads the state, and Z
    (L, d, e) the text (L, ..., e).
    """
    query = _beside(prior, state.ndim)
    query = query.expand(*state.shape[:-1], -1) if U is None else lane_linear(state, U) + query
    if Z is None:
        return query
    assert text is not None
    return query + lane_linear(text, Z)


def depth_summary(query: Tensor, averages: Sequence[Tensor], V: Tensor | None) -> Tensor:
    """c_b (L, ..., r): attention of the pre-query (L, ..., d) over EARLIER blocks, at least one.

    averages (L, ..., r) each, V (L, d, r): without one, or over one block, the first average. Keys
    are normalised, values not, as in block attention residuals (arXiv 2603.15031).
    """
    if V is None or len(averages) == 1:
        return averages[0]
    values = torch.stack(tuple(averages), dim=-2)  # (L, ..., earlier blocks, r)
    keys = lane_linear(rms_norm(values), V)
    scores = (keys * query.unsqueeze(-2)).sum(-1) * query.shape[-1] ** -0.5
    return (scores.softmax(-1).unsqueeze(-1) * values).sum(-2)


def query(pre_query: Tensor, summary: Tensor, S: Tensor) -> Tensor:
    """q_b (L, ..., d), of the pre-query, c_b (L, ..., r) and S (L, d, r)."""
    return lane_linear_add(pre_query, summary, S)


def logits(query: Tensor, keys: Tensor) -> Tensor:
    """q · k_m / sqrt(d), (L, ..., K), of queries (L, ..., d) and keys (L, K, d)."""
    return lane_linear(query, keys) * keys.shape[-1] ** -0.5


def log_prior(text: Tensor, P: Tensor, keys: Tensor) -> Tensor:
    """log pi_m, (L, ..., K), of a text (L, ..., e), P (L, d, e) and keys (L, K, d)."""
    return logits(lane_linear(text, P), keys).log_softmax(-1)


def regularised(logits: Tensor, log_prior: Tensor, strength: Tensor) -> Tensor:
    """logits + lambda log pi, (L, ..., K); strength lambda (L,).

    The softmax of it maximises <w, logits> - KL(w || pi^lambda / Z_lambda) over the simplex.
    """
    return logits + _beside(strength, logits.ndim) * log_prior


def top_k_weights(logits: Tensor, k: int, straight_through: bool = False) -> Tensor:
    """Softmax over the k largest logits and 0 elsewhere: w >= 0, sum 1, (L, ..., K).

    `straight_through` gives them the gradient of the softmax over all.
    """
    largest, chosen = logits.topk(k, dim=-1)
    kept = largest.softmax(-1)
    sparse = kept.new_zeros(logits.shape).scatter(-1, chosen, kept)
    if not straight_through:
        return sparse
    dense = logits.softmax(-1)
    return sparse.detach() + (dense - dense.detach())


def operator(weights: Tensor, atoms: Tensor) -> Tensor:
    """R of every example, (L, r, r, N): examples last, for speed.

    weights (L, N, K), atoms (L, K, r, r).
    """
    return torch.bmm(atoms.flatten(2).mT, weights.mT).unflatten(1, atoms.shape[2:])


def apply_operator(operator: Tensor, low: Tensor) -> Tensor:
    """R a of every token, (L, N, T, r), of R (L, r, r, N) and a (L, N, T, r)."""
    tokens = low.flatten(1, 2).mT.unflatten(2, low.shape[1:3]).unsqueeze(1)  # (L, 1, r, N, T)
    return _as_tokens((operator.unsqueeze(-1) * tokens).sum(2).flatten(2), low)


def apply_atoms(weights: Tensor, atoms: Tensor, low: Tensor) -> Tensor:
    """sum_m w_m (M_m a) of every token, (L, N, T, r), where each has its own weights.

    weights (L, N, T, K), atoms (L, K, r, r), a (L, N, T, r).
    """
    products = torch.bmm(atoms.flatten(1, 2), low.flatten(1, 2).mT)
    products = products.unflatten(1, atoms.shape[1:3])  # (L, K, r, N T)
    return _as_tokens((products * weights.flatten(1, 2).mT.unsqueeze(2)).sum(1), low)


def _as_tokens(rows_last: Tensor, low: Tensor) -> Tensor:
    """(L, r, N T) as (L, N, T, r), the shape of `low`."""
    return rows_last.mT.unflatten(1, low.shape[1:3])


def _beside(values: Tensor, ndim: int) -> Tensor:
    """values (L, ...) with axes of 1 behind L, `ndim` in all."""
    return values.unflatten(0, (-1, *[1] * (ndim - values.ndim)))
