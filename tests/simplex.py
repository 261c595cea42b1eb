"""The sparse simplex, searched numerically: what routing weights are held against."""

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import scipy.optimize

Loss = Callable[[np.ndarray, list[int]], float]


def sparse_minimiser(loss: Loss, atoms: int, k: int) -> np.ndarray:
    """The minimiser (atoms,) over the simplex's vectors with at most k entries other than 0.

    Args:
        loss: of the entries (k,) on a support of k atoms.
    """
    least, best = math.inf, np.zeros(atoms)
    for support in map(list, combinations(range(atoms), k)):
        found = scipy.optimize.minimize(
            loss,
            np.full(k, 1 / k),
            args=(support,),
            bounds=[(1e-12, 1)] * k,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            tol=1e-12,
        )
        if found.fun < least:
            least, best = found.fun, np.zeros(atoms)
            best[support] = found.x
    return best
