"""What claims on losses are answered from: each measure goes from `Evidence` to a `Finding`.

A measure takes the method and what it is held against by their names, and knows none of them.
Effects are log ratios, above 0 in the claim's favour. A mean over functions says in its remark how
far the functions agree. What one measure compares is one network: pooled networks share samples and
noise, and are not independent.
"""

import math
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.claims.evidence import LOSS, NETWORK, Evidence
from analysis.claims.rules import Finding, LackingError
from analysis.flags import off_budget
from analysis.names import function_title
from analysis.stats.intervals import Interval, contrast
from analysis.stats.pairs import extended_mean, log_ratio
from analysis.text import ratio_text


def gain(
    method: str,
    against: str,
    evidence: Evidence,
    *,
    functions: Collection[str] = (),
    loss: str = LOSS,
    comparable: bool = False,
) -> Finding:
    """The mean gain over functions.

    Args:
        functions: none: all on which both have runs.
        comparable: whether the two must have counts near each other.
    """
    pairs = of_one_network(evidence.pairs(method, against, loss=loss))
    counts = (pairs[f"trainable_parameters_{side}"] for side in ("own", "other"))
    if comparable and off_budget(*counts).any():
        raise LackingError(f"the parameter count is not comparable to that of {against}")
    return average(_on(pairs, functions) if functions else pairs, "gain")


def gain_above_all(method: str, against: str, evidence: Evidence, *, function: str) -> Finding:
    """The gain on one function over that on the other that leaves it the least certain lead."""
    pairs = of_one_network(evidence.pairs(method, against))
    own, gains = _on(pairs, [function]), _by_function(pairs, "gain")
    leads = {
        name: _difference([gains[function]], [other])
        for name, other in gains.items()
        if name != function
    }
    if not leads:
        raise LackingError("the study has no other function to compare with")
    rival = min(
        leads, key=lambda name: (np.nan_to_num(leads[name].low, nan=-math.inf), leads[name].value)
    )
    runs = [*runs_of(own), *runs_of(_on(pairs, [rival]))]
    remark = f"the closest of {len(leads)} others: {function_title(rival)}"
    return Finding(leads[rival], runs, remark, average(own, "gain").effect, runs_of(pairs))


def gain_on_ripples(
    method: str, against: str, evidence: Evidence, *, without: Collection[str] = ()
) -> Finding:
    """The mean gain on targets with ripples, but for `without`, over that on all other targets."""
    pairs = of_one_network(evidence.pairs(method, against))
    rippled = pairs["samples_per_period_own"].notna() & ~pairs["function"].isin(list(without))
    inside, outside = (_by_function(pairs[own], "gain").values() for own in (rippled, ~rippled))
    if not inside or not outside:
        raise LackingError("the study has functions of one kind only, and none to compare with")
    part = average(pairs[rippled], "gain")
    return Finding(_difference(inside, outside), runs_of(pairs), part.remark, part.effect)


def gain_with_depth(method: str, against: str, evidence: Evidence) -> Finding:
    """The gain in the deepest network over that in the shallowest, by function and seed."""
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
    both = both.assign(difference=minus(both["gain"], both["gain_shallow"]))
    runs = [*runs_of(both), *both["run_id_own_shallow"], *both["run_id_other_shallow"]]
    return replace(average(both, "difference"), runs=runs, part=average(both, "gain").effect)


def steadiness(method: str, against: str, evidence: Evidence) -> Finding:
    """The other's spread over seeds over one's own; functions are the unit of the interval."""
    pairs = of_one_network(evidence.pairs(method, against))
    if pairs["function"].value_counts().min() < 2:
        raise LackingError("a spread over seeds wants two seeds of every function")
    spreads = pairs.groupby("function")[[f"{LOSS}_own", f"{LOSS}_other"]].agg(_spread)
    ratios = log_ratio(spreads[f"{LOSS}_other"], spreads[f"{LOSS}_own"])
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
    return Finding(mean_over_functions(pairs, column), runs_of(pairs), "; ".join(remarks))


def mean_over_functions(cells: pd.DataFrame, column: str) -> Interval:
    """Of the means over seeds, with Welch's interval."""
    return _difference(_by_function(cells, column).values())


def _by_function(cells: pd.DataFrame, column: str) -> dict[str, np.ndarray]:
    return {name: own.to_numpy(float) for name, own in cells.groupby("function")[column]}


def _difference(inside: Collection[np.ndarray], outside: Collection[np.ndarray] = ()) -> Interval:
    """The mean over functions of the means over seeds, less that of other functions."""
    weights = [1 / len(inside)] * len(inside) + [-1 / len(outside) for _ in outside]
    return contrast([*inside, *outside], weights)


def _agreement(cells: pd.DataFrame, column: str) -> str:
    """`above 1 on 5 of 9 functions, 0.85 (Matyas) to 2.48 (Ackley)`; "" for one function."""
    means = {name: float(extended_mean(own)) for name, own in _by_function(cells, column).items()}
    if len(means) < 2:
        return ""
    ranked = sorted(means, key=lambda name: means[name])
    ends = (
        f"{ratio_text(means[name])} ({function_title(name)})" for name in (ranked[0], ranked[-1])
    )
    above = sum(mean > 0 for mean in means.values())
    return f"above 1 on {above} of {len(means)} functions, {' to '.join(ends)}"


def diverged(evidence: Evidence, *methods: str) -> str:
    """`diverged: lora 1/27, dora 0/27`."""
    return f"diverged: {', '.join(f'{name} {evidence.diverged(name)}' for name in methods)}"


def runs_of(pairs: pd.DataFrame) -> list[str]:
    """The run_ids of both sides."""
    return [*pairs["run_id_own"], *pairs["run_id_other"]]


def minus(one: pd.Series | np.ndarray, other: pd.Series | np.ndarray) -> np.ndarray:
    """one - other, where two equal infinities are a tie."""
    one, other = np.asarray(one, float), np.asarray(other, float)
    with np.errstate(invalid="ignore"):
        return np.where(one == other, 0.0, one - other)
