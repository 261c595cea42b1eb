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
    with np.errstate(invalid="ignore"):
        return np.clip(entr(shares(norms)).sum(-1) / math.log(norms.shape[-1]), 0.0, 1.0)


def thirds(norms: Array) -> Array:
    """Shares of the first, middle and last third of the layers: (..., layers) -> (..., 3)."""
    parts = np.array_split(shares(norms), len(THIRDS), axis=-1)
    return np.stack([part.sum(-1) for part in parts], axis=-1)


def measures(norms: Array, elsewhere: Array, parameters: Array) -> dict[str, Array]:
    """The measures of N runs.

    Args:
        norms: of every layer at R recorded updates, (N, R, layers).
        elsewhere: the squared norm of what belongs to no layer, (N, R).
        parameters: trainable ones of every layer, (N, layers).

    Returns:
        Of the norms as they are, `norm`, and over the root of the parameters, `rms`:
        `<scale>_layers` (N, layers), means over updates; `<scale>` (N,), over layers too;
        `evenness_<scale>` (N,). Of the norms as they are: `thirds` (N, 3), and `outside` (N,), the
        share of the squared norm that belongs to no layer. Evenness and shares are means over the
        updates at which a layer, for `outside` anything, has a gradient; NaN without one.
    """
    known, whole = (norms != 0).any(-1), elsewhere + np.square(norms).sum(-1)
    parts = np.moveaxis(thirds(norms), -1, 0)
    found = {
        "thirds": np.stack([_mean_where(known, part) for part in parts], axis=-1),
        "outside": _mean_where(whole != 0, _ratio(elsewhere, whole)),
    }
    for scale, values in zip(SCALES, (norms, norms / np.sqrt(parameters)[:, None]), strict=True):
        found[f"{scale}_layers"] = values.mean(1)
        found[scale] = values.mean((1, 2))
        found[f"evenness_{scale}"] = _mean_where(known, evenness(values))
    return found


def _mean_where(chosen: NDArray[np.bool_], values: Array) -> Array:
    """The mean of the chosen ones of each row, (N, R) -> (N,); NaN without any."""
    with np.errstate(invalid="ignore"):
        mean: Array = np.where(chosen, values, 0.0).sum(1) / chosen.sum(1)
    return mean
