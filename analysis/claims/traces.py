"""What claims on more than losses are answered from: gradient norms, texts, tasks, atoms.

As in `analysis.claims.measures`: effects are logarithms of ratios, method over other.
"""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.claims.evidence import Evidence
from analysis.claims.measures import (
    average,
    diverged,
    mean_over_functions,
    minus,
    of_one_network,
    without_diverged,
)
from analysis.claims.rules import Finding, LackingError
from analysis.stats.pairs import extended_mean, log_ratio
from analysis.text import number

Measure = Callable[[np.ndarray, np.ndarray], float]  # of norms by layer, one's own and the other's


def gradients(
    method: str, against: str, evidence: Evidence, *, measure: Measure, part: Measure | None = None
) -> Finding:
    """`measure` of the layers' gradient norms of two methods.

    Args:
        part: the measure in the part for which more is claimed, if one is.
    """
    pairs = of_one_network(evidence.pairs(method, against, finite=True))
    norms = [
        (evidence.norms(own), evidence.norms(others))
        for own, others in zip(pairs["run_id_own"], pairs["run_id_other"], strict=True)
    ]
    if any(min(len(own), len(others)) < 3 for own, others in norms):
        raise LackingError("the curves have gradient norms of fewer than three layers")

    def mean(of: Measure, remark: str = "") -> Finding:
        effects = [of(own, others) for own, others in norms]
        return average(pairs.assign(effect=effects), "effect", remark)

    found = mean(
        measure,
        f"{without_diverged(evidence, method, against)}; norms of the layers' own factors, which "
        "depend on how a method is parametrised",
    )
    return found if part is None else replace(found, part=mean(part).effect)


def larger(own: np.ndarray, other: np.ndarray) -> float:
    """Log ratio of the mean norms."""
    return float(np.log(own.mean() / other.mean()))


def evenness(own: np.ndarray, other: np.ndarray) -> float:
    """Log ratio of the coefficients of variation over layers."""
    return float(log_ratio(own.std() / own.mean(), other.std() / other.mean()))


def larger_later(own: np.ndarray, other: np.ndarray) -> float:
    """`larger` in the last two thirds of the layers over `larger` in the first third."""
    first = len(own) // 3
    return larger_there(own, other) - larger(own[:first], other[:first])


def larger_there(own: np.ndarray, other: np.ndarray) -> float:
    """`larger` in the last two thirds of the layers."""
    first = len(own) // 3
    return larger(own[first:], other[first:])


def text_ratio(
    method: str, evidence: Evidence, *, control: str, loss: str | None = None
) -> Finding:
    """The loss with a target's own text over that with what `control` puts in its place.

    Args:
        loss: None: the loss that decides.
    """
    pairs = evidence.pairs(method, method, loss=loss, control=control)
    return average(of_one_network(pairs), "log_ratio")


def forgetting(method: str, against: str, evidence: Evidence) -> Finding:
    """How much more the loss on old tasks has grown since they were learnt than the other's.

    The growth is inf where the run diverged, and two such are tied.
    """
    pairs = of_one_network(evidence.pairs(method, against))
    own, other = (
        np.where(
            pairs[f"status_{side}"] == "diverged",
            np.inf,
            [_growth(losses) for losses in _parsed(pairs, f"task_losses_{side}")],
        )
        for side in ("own", "other")
    )
    effects = pairs.assign(effect=minus(own, other))
    return average(effects, "effect", diverged(evidence, method, against))


def stillness(method: str, evidence: Evidence) -> Finding:
    """The share of old tasks' atom weights that stayed where it was, over all of it.

    That is 1 less the drift at the end, mean over the tasks but the last; a diverged run keeps 0.
    """
    runs = of_one_network(evidence.runs(method))
    rows = [np.array(drifts[-1][:-1], float) for drifts in _parsed(runs, "route_drift")]
    drifts = np.array([own.mean() for own in rows])
    lost = runs["status"].eq("diverged").to_numpy()
    kept = np.where(lost, -np.inf, log_ratio(1 - drifts, np.ones(len(drifts))))
    found = mean_over_functions(runs.assign(effect=kept), "effect")
    remark = f"mean drift {number(float(drifts[~lost].mean()))}" if not lost.all() else ""
    return replace(found, runs=list(runs["run_id"]), remark=remark)


def _growth(losses: list[list[float | None]]) -> float:
    """Mean log growth of the losses of all tasks but the last; [j][i]: of task i after j tasks."""
    rows = [[np.inf if loss is None else loss for loss in row] for row in losses]
    tasks = len(rows) - 1
    learnt = np.array([rows[task + 1][task] for task in range(tasks - 1)])
    return float(extended_mean(log_ratio(np.array(rows[tasks][: tasks - 1]), learnt)))


def sparsity(method: str, evidence: Evidence) -> Finding:
    """All atoms over those in effect used, which are exp(entropy) of their mean weights."""
    runs = of_one_network(evidence.runs(method))
    runs = runs[runs["status"] == "done"]
    if runs.empty:
        raise LackingError(f"all runs of {method} diverged")
    usage = _parsed(runs, "atom_usage")
    effects = [_shortfall(np.array(weights, float)) for weights in usage]
    found = mean_over_functions(runs.assign(effect=effects), "effect")
    remark = f"without diverged runs ({evidence.diverged(method)}){_alike(runs, usage)}"
    return replace(found, runs=list(runs["run_id"]), remark=remark)


def _shortfall(usage: np.ndarray) -> float:
    """log K minus the entropy of weights (..., K), averaged."""
    logs = np.log(np.where(usage > 0, usage, 1.0))
    return float((np.log(usage.shape[-1]) + (usage * logs).sum(-1)).mean())


def _alike(runs: pd.DataFrame, usage: list[list]) -> str:
    """What the ratio would be if every input took the same atoms."""
    atoms, mixed = np.shape(usage[0])[-1], set(runs["top_k"].dropna())
    if len(mixed) != 1:
        return ""
    (k,) = mixed
    return (
        f"; a router that takes {k:g} of {atoms} atoms evenly, the same for every input, "
        f"has {number(atoms / k)}"
    )


def _parsed(runs: pd.DataFrame, column: str) -> list[list]:
    """Lists that the long table holds as JSON text."""
    if runs[column].isna().any():
        raise LackingError("the study has no sequence of tasks")
    return [json.loads(text) for text in runs[column]]
