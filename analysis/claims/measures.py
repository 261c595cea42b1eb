"""What claims on losses are answered from: each measure goes from `Evidence` to a `Finding`.

A measure takes the method and what it is held against by their names, and knows none of them.
Effects are logarithms of ratios, the method's loss over the other's: below 0 is better. A mean over
functions says in its remark how far the functions agree. What one measure compares is one network:
pooled networks share samples and noise, and are not independent.
"""

import math
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.claims.evidence import CELL, NETWORK, Evidence
from analysis.claims.rules import Finding, LackingError
from analysis.flags import off_budget
from analysis.names import function_title
from analysis.stats.intervals import contrast
from analysis.stats.pairs import extended_mean, log_ratio
from analysis.stats.power import precision
from analysis.text import ratio_text


def loss_ratio(
    method: str,
    against: str,
    evidence: Evidence,
    *,
    functions: Collection[str] = (),
    loss: str | None = None,
    comparable: bool = False,
) -> Finding:
    """The mean ratio over functions.

    Args:
        functions: none: all on which both have runs.
        loss: None: the loss that decides.
        comparable: whether the two must have counts near each other.
    """
    pairs = of_one_network(evidence.pairs(method, against, loss=loss))
    counts = (pairs[f"trainable_parameters_{side}"] for side in ("own", "other"))
    if comparable and off_budget(*counts).any():
        raise LackingError(f"the parameter count is not comparable to that of {against}")
    if functions:
        pairs = _on(pairs, functions)
    remark = ""
    if loss in (None, evidence.benchmark.deciding):
        label, second = evidence.benchmark.beside
        others = evidence.pairs(method, against, loss=second).merge(pairs[CELL])
        remark = f"{label} {ratio_text(mean_over_functions(others, 'log_ratio').effect.value)}"
    return average(pairs, "log_ratio", remark)


def kept_ratio(method: str, against: str, evidence: Evidence, *, loss: str, fitted: str) -> Finding:
    """The ratio of the losses over that of the losses that were `fitted`, which is the `part`.

    Above 0 the method does worse on data that it has not seen than its fit, held against the
    other's. A diverged run has neither loss, and the two would cancel.
    """
    pairs = of_one_network(evidence.pairs(method, against, finite=True, loss=loss))
    fit = evidence.pairs(method, against, finite=True, loss=fitted)["log_ratio"]
    pairs = pairs.assign(fit=fit, kept=minus(pairs["log_ratio"], fit))
    kept = average(pairs, "kept", without_diverged(evidence, method, against))
    return replace(kept, part=average(pairs, "fit").effect)


def lowest_ratio(method: str, against: str, evidence: Evidence, *, function: str) -> Finding:
    """The ratio on one function over that on the other that leaves it the least certain lead."""
    pairs = of_one_network(evidence.pairs(method, against))
    own, ratios = _on(pairs, [function]), _by_function(pairs, "log_ratio")
    leads = {
        name: _difference([ratios[function]], [other])
        for name, other in ratios.items()
        if name != function
    }
    if not leads:
        raise LackingError("the study has no other function to compare with")

    def certainty(name: str) -> tuple[float, float]:
        lead = leads[name].effect
        return np.nan_to_num(lead.high, nan=math.inf), lead.value

    rival = max(leads, key=certainty)
    return replace(
        leads[rival],
        runs=[*runs_of(own), *runs_of(_on(pairs, [rival]))],
        remark=f"the closest of {len(leads)} others: {function_title(rival)}",
        part=average(own, "log_ratio").effect,
        beside=runs_of(pairs),
    )


def ratio_on_ripples(
    method: str, against: str, evidence: Evidence, *, without: Collection[str] = ()
) -> Finding:
    """The mean ratio on targets with ripples, but for `without`, over that on all other targets."""
    pairs = of_one_network(evidence.pairs(method, against))
    rippled = pairs["samples_per_period_own"].notna() & ~pairs["function"].isin(list(without))
    inside, outside = (
        _by_function(pairs[own], "log_ratio").values() for own in (rippled, ~rippled)
    )
    if not inside or not outside:
        raise LackingError("the study has functions of one kind only, and none to compare with")
    part = average(pairs[rippled], "log_ratio")
    return replace(
        _difference(inside, outside), runs=runs_of(pairs), remark=part.remark, part=part.effect
    )


def ratio_with_depth(method: str, against: str, evidence: Evidence) -> Finding:
    """The ratio in the deepest network over that in the shallowest, by function and seed."""
    pairs = evidence.pairs(method, against)
    networks = _networks(pairs)
    if len({depth for depth, _ in networks}) < 2:
        raise LackingError(f"the study has one depth of network ({_sizes(networks)})")
    first, last = (
        pairs[(pairs[NETWORK] == list(size)).all(axis=1)] for size in (networks[0], networks[-1])
    )
    both = last.merge(first, on=["function", "seed"], suffixes=("", "_shallow"))
    if both.empty:
        raise LackingError("the two networks share no function and seed")
    both = both.assign(difference=minus(both["log_ratio"], both["log_ratio_shallow"]))
    runs = [*runs_of(both), *both["run_id_own_shallow"], *both["run_id_other_shallow"]]
    return replace(average(both, "difference"), runs=runs, part=average(both, "log_ratio").effect)


def spread_ratio(method: str, against: str, evidence: Evidence) -> Finding:
    """The spread over seeds over the other's; functions are the unit of the interval."""
    pairs = of_one_network(evidence.pairs(method, against))
    if pairs["function"].value_counts().min() < 2:
        raise LackingError("a spread over seeds wants two seeds of every function")
    losses = [f"{evidence.benchmark.deciding}_{side}" for side in ("own", "other")]
    spreads = pairs.groupby("function")[losses].agg(_spread)
    ratios = log_ratio(*(spreads[loss] for loss in losses))
    remark = f"{diverged(evidence, method, against)}; the interval is over functions"
    return Finding(contrast([ratios], [1.0]), runs_of(pairs), remark)


def _spread(losses: pd.Series) -> float:
    """Standard deviation of the logarithm, inf where a run diverged."""
    values = losses.to_numpy(float)
    return float(np.log(values).std(ddof=1)) if np.isfinite(values).all() else np.inf


def of_one_network(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs`, refused where they are of several networks."""
    networks = _networks(runs)
    if len(networks) > 1:
        raise LackingError(f"several networks ({_sizes(networks)}): the claim is on one")
    return runs


def _networks(runs: pd.DataFrame) -> list[tuple[float, float]]:
    return sorted({(depth, width) for depth, width in runs[NETWORK].to_numpy()})


def _sizes(networks: list[tuple[float, float]]) -> str:
    return ", ".join(f"{depth:g} x {width:g}" for depth, width in networks)


def _on(pairs: pd.DataFrame, functions: Collection[str]) -> pd.DataFrame:
    lacking = [name for name in functions if name not in set(pairs["function"])]
    if lacking:
        titles = ", ".join(map(function_title, lacking))
        raise LackingError(f"the study has no usable pair of runs on {titles}")
    return pairs[pairs["function"].isin(list(functions))]


def average(pairs: pd.DataFrame, column: str, remark: str = "") -> Finding:
    """The mean over functions of the mean over seeds, and how far the functions agree."""
    remarks = filter(None, [remark, _agreement(pairs, column)])
    mean = mean_over_functions(pairs, column)
    return replace(mean, runs=runs_of(pairs), remark="; ".join(remarks))


def mean_over_functions(cells: pd.DataFrame, column: str) -> Finding:
    """Of the means over seeds, with Welch's interval."""
    return _difference(_by_function(cells, column).values())


def _by_function(cells: pd.DataFrame, column: str) -> dict[str, np.ndarray]:
    return {name: own.to_numpy(float) for name, own in cells.groupby("function")[column]}


def _difference(inside: Collection[np.ndarray], outside: Collection[np.ndarray] = ()) -> Finding:
    """The mean over functions of the means over seeds, less that of other functions."""
    groups = [*inside, *outside]
    weights = [1 / len(inside)] * len(inside) + [-1 / len(outside) for _ in outside]
    return Finding(contrast(groups, weights), [], precision=precision(groups, weights))


def _agreement(cells: pd.DataFrame, column: str) -> str:
    """`below 1 on 5 of 9 functions, 0.85 (Matyas) to 2.48 (Ackley)`; "" for one function."""
    means = {name: float(extended_mean(own)) for name, own in _by_function(cells, column).items()}
    if len(means) < 2:
        return ""
    ranked = sorted(means, key=lambda name: means[name])
    ends = (
        f"{ratio_text(means[name])} ({function_title(name)})" for name in (ranked[0], ranked[-1])
    )
    below = sum(mean < 0 for mean in means.values())
    return f"below 1 on {below} of {len(means)} functions, {' to '.join(ends)}"


def diverged(evidence: Evidence, *methods: str) -> str:
    """`diverged: lora 1/27, dora 0/27`."""
    return f"diverged: {', '.join(f'{name} {evidence.diverged(name)}' for name in methods)}"


def without_diverged(evidence: Evidence, method: str, against: str) -> str:
    """What was left out where pairs are `finite`."""
    counts = f"{evidence.diverged(method)}, {evidence.diverged(against)}"
    return f"pairs without diverged runs ({counts} of the two methods)"


def runs_of(pairs: pd.DataFrame) -> list[str]:
    """The run_ids of both sides."""
    return [*pairs["run_id_own"], *pairs["run_id_other"]]


def minus(one: pd.Series | np.ndarray, other: pd.Series | np.ndarray) -> np.ndarray:
    """one - other, where two equal infinities are a tie."""
    one, other = np.asarray(one, float), np.asarray(other, float)
    with np.errstate(invalid="ignore"):
        return np.where(one == other, 0.0, one - other)
