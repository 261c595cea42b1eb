"""What is said of the gradient norms of a run: their size, and how even they are over depth."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

Array = NDArray[np.float64]

SCALES = {"norm": "gradient norm", "rms": "gradient norm / √parameters"}
THIRDS = ("early", "middle", "late")


def shares(norms: Array) -> Array:
    """p_l = g_l² / sum_j g_j² of norms (..., layers); NaN where the sum is 0 or not finite."""
    square = np.square(norms)
    return _ratio(square, square.sum(-1, keepdims=True))


def _ratio(part: Array, whole: Array) -> Array:
    whole = np.where(np.isfinite(whole) & (whole > 0), whole, math.nan)
    with np.errstate(invalid="ignore"):
        return part / whole


def evenness(norms: Array) -> Array:
    """Normalised entropy of `shares(norms)`: (..., layers) -> (...), in [0, 1].

    NaN as there, and for a single layer.
    """
    part = shares(norms)
    with np.errstate(invalid="ignore"):
        return np.clip(entr(part).sum(-1) / math.log(part.shape[-1]), 0.0, 1.0)


def thirds(norms: Array) -> Array:
    """Shares of the first, middle and last third of the layers: (..., layers) -> (..., 3)."""
    parts = np.array_split(shares(norms), 3, axis=-1)
    return np.stack([part.sum(-1) for part in parts], axis=-1)


def scaled(norms: Array, parameters: Array) -> dict[str, Array]:
    """By scale the norms (N, R, layers), for `rms` over the root of `parameters` (N, layers)."""
    return {"norm": norms, "rms": norms / np.sqrt(parameters)[:, None]}


def measures(norms: Array, outside: Array, parameters: Array) -> dict[str, Array]:
    """The measures (N,) of N runs.

    Args:
        norms: of every layer at R recorded updates, (N, R, layers).
        outside: the squared norm of what belongs to no layer, (N, R).
        parameters: trainable ones of every layer, (N, layers).

    Returns:
        `norm` and `rms`, means over layers and updates; `evenness_norm` and `evenness_rms` and the
        shares `early`, `middle` and `late`, means over the updates at which a layer has a gradient;
        `outside`, the share of the squared norm that lies outside the layers, mean over the updates
        that have any. NaN without such an update.
    """
    found, known = {}, (norms != 0).any(-1)
    for scale, values in scaled(norms, parameters).items():
        found[scale] = values.mean((1, 2))
        found[f"evenness_{scale}"] = _mean_where(known, evenness(values))
    parts = thirds(norms)
    found |= {name: _mean_where(known, parts[..., i]) for i, name in enumerate(THIRDS)}
    whole = outside + np.square(norms).sum(-1)
    return found | {"outside": _mean_where(whole != 0, _ratio(outside, whole))}


def _mean_where(chosen: NDArray[np.bool_], values: Array) -> Array:
    """The mean of the chosen ones of each row, (N, R) -> (N,); NaN without any."""
    with np.errstate(invalid="ignore"):
        mean: Array = np.where(chosen, values, 0.0).sum(1) / chosen.sum(1)
    return mean
