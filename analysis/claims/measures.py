"""What claims are answered from: each measure goes from `Evidence` to a `Finding`.

Effects are log ratios, above 0 in the claim's favour. A mean over functions says in its remark how
far the functions agree. What one measure compares is one network and, but for those on texts, one
target an adapter: pooled networks share samples and noise, and are not independent.
"""

import json
import math
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.cells import off_budget
from analysis.claims.evidence import LOSS, NETWORK, Evidence
from analysis.claims.rules import Finding, LackingError
from analysis.names import function_title
from analysis.notes import number, ratio_text
from analysis.stats.intervals import Interval, contrast
from analysis.stats.pairs import extended_mean, log_ratio

LORA, QUERYABLE, INSTRUCTED = "lora", "queryable", "instruction_queryable"
Measure = Callable[[np.ndarray, np.ndarray], float]


def _single(evidence: Evidence) -> pd.DataFrame:
    """Queryable LoRA beside LoRA on one network, each adapted to one target."""
    return _of_one_network(_of_one_target(evidence.pairs(QUERYABLE, LORA)))


def _of_one_target(pairs: pd.DataFrame) -> pd.DataFrame:
    if (pairs["targets_own"] > 1).any():
        raise LackingError("several targets an adapter: the paper's study has one")
    return pairs


def _of_one_network(runs: pd.DataFrame) -> pd.DataFrame:
    networks = sorted({tuple(row) for row in runs[NETWORK].to_numpy()})
    if len(networks) > 1:
        raise LackingError(f"several networks ({_sizes(networks)}): the claim is on one")
    return runs


def _sizes(networks: list[tuple[float, float]]) -> str:
    return ", ".join(f"{depth:g} x {width:g}" for depth, width in networks)


def gain_everywhere(evidence: Evidence) -> Finding:
    """The mean gain over all functions, at a count near that of the LoRA it is divided by."""
    pairs = _single(evidence)
    if off_budget(pairs["trainable_parameters_own"], pairs["trainable_parameters_other"]).any():
        raise LackingError("the parameter count is not comparable to LoRA's")
    return _average(pairs, "gain")


def gain_on(function: str, evidence: Evidence) -> Finding:
    """The gain on one function."""
    return _average(_on(_single(evidence), [function]), "gain")


def gain_above_all(function: str, evidence: Evidence) -> Finding:
    """The gain on one function over that on the other that leaves it the least certain lead."""
    pairs = _single(evidence)
    own = _on(pairs, [function])
    others = sorted(set(pairs["function"]) - {function})
    if not others:
        raise LackingError("the study has no other function to compare with")
    leads = {name: _lead(pairs, function, name) for name in others}
    rival = min(others, key=lambda name: _certainty(leads[name]))
    runs = [*_runs(own), *_runs(_on(pairs, [rival]))]
    remark = f"the closest of {len(others)} others: {function_title(rival)}"
    return Finding(leads[rival], runs, remark, _average(own, "gain").effect)


def _lead(pairs: pd.DataFrame, function: str, other: str) -> Interval:
    gains = [pairs.loc[pairs["function"] == name, "gain"].to_numpy() for name in (function, other)]
    return contrast(gains, [1.0, -1.0])


def _certainty(lead: Interval) -> tuple[float, float]:
    return -math.inf if math.isnan(lead.low) else lead.low, lead.value


def gain_on_ripples(without: Collection[str], evidence: Evidence) -> Finding:
    """The mean gain on targets with ripples, but for `without`, over that on all other targets."""
    pairs = _single(evidence)
    rippled = pairs["samples_per_period_own"].notna() & ~pairs["function"].isin(list(without))
    inside, outside = (
        [part.to_numpy(float) for _, part in pairs[chosen].groupby("function")["gain"]]
        for chosen in (rippled, ~rippled)
    )
    if not inside or not outside:
        raise LackingError("the study has functions of one kind only, and none to compare with")
    weights = [1 / len(inside)] * len(inside) + [-1 / len(outside)] * len(outside)
    part = _average(pairs[rippled], "gain")
    return Finding(contrast([*inside, *outside], weights), _runs(pairs), part.remark, part.effect)


def gain_with_depth(evidence: Evidence) -> Finding:
    """The gain in the deepest network over that in the shallowest, by function and seed."""
    pairs = _of_one_target(evidence.pairs(QUERYABLE, LORA))
    networks = sorted({tuple(row) for row in pairs[NETWORK].to_numpy()})
    if len({depth for depth, _ in networks}) < 2:
        raise LackingError(f"the study has one depth of network ({_sizes(networks)})")
    first, last = (
        pairs[(pairs[NETWORK] == list(size)).all(axis=1)] for size in (networks[0], networks[-1])
    )
    both = last.merge(first, on=["function", "seed"], suffixes=("", "_shallow"))
    if both.empty:
        raise LackingError("the two networks share no function and seed")
    both = both.assign(difference=_minus(both["gain"], both["gain_shallow"]))
    runs = [*_runs(both), *both["run_id_own_shallow"], *both["run_id_other_shallow"]]
    found = _average(both, "difference")
    return replace(found, runs=runs, part=_average(both, "gain").effect)


def gradients(measure: Measure, part: Measure | None, other: str, evidence: Evidence) -> Finding:
    """`measure` of the layers' gradient norms of instruction-queryable LoRA and of `other`.

    Args:
        part: the measure in the part for which more is claimed, if one is.
    """
    _require_texts(evidence)
    pairs = _of_one_network(evidence.pairs(INSTRUCTED, other, finite=True))
    norms = [
        (evidence.norms(own), evidence.norms(others))
        for own, others in zip(pairs["run_id_own"], pairs["run_id_other"], strict=True)
    ]
    if any(min(len(own), len(others)) < 3 for own, others in norms):
        raise LackingError("the curves have gradient norms of fewer than three layers")

    def mean(of: Measure, remark: str = "") -> Finding:
        effects = [of(own, others) for own, others in norms]
        return _average(pairs.assign(effect=effects), "effect", remark)

    counts = f"{evidence.diverged(INSTRUCTED)}, {evidence.diverged(other)}"
    found = mean(
        measure,
        f"pairs without diverged runs ({counts} of the two methods); norms of the layers' own "
        "factors, which depend on how a method is parametrised",
    )
    return found if part is None else replace(found, part=mean(part).effect)


def text_gain(loss: str, control: str, evidence: Evidence) -> Finding:
    """The gain of a target's own text over what `control` puts in its place."""
    _require_texts(evidence)
    pairs = evidence.pairs(INSTRUCTED, INSTRUCTED, loss=loss, control=control)
    return _average(_of_one_network(pairs), "gain")


def _require_texts(evidence: Evidence) -> None:
    if (evidence.runs(INSTRUCTED)["targets"] < 2).any():
        raise LackingError("one target: the text is a constant")


def larger(own: np.ndarray, other: np.ndarray) -> float:
    """Log ratio of the mean norms."""
    return float(np.log(own.mean() / other.mean()))


def more_even(own: np.ndarray, other: np.ndarray) -> float:
    """Log of the other's coefficient of variation over layers over one's own."""
    return float(log_ratio(other.std() / other.mean(), own.std() / own.mean()))


def larger_later(own: np.ndarray, other: np.ndarray) -> float:
    """`larger` in the last two thirds of the layers over `larger` in the first third."""
    first = len(own) // 3
    return larger_there(own, other) - larger(own[:first], other[:first])


def larger_there(own: np.ndarray, other: np.ndarray) -> float:
    """`larger` in the last two thirds of the layers."""
    first = len(own) // 3
    return larger(own[first:], other[first:])


def stability(evidence: Evidence) -> Finding:
    """LoRA's spread over seeds over queryable LoRA's; functions are the unit of the interval."""
    pairs = _single(evidence)
    ratios = []
    for _, part in pairs.groupby("function"):
        if len(part) < 2:
            raise LackingError("a spread over seeds wants two seeds of every function")
        own, other = (_spread(part[f"{LOSS}_{side}"]) for side in ("own", "other"))
        ratios.append(float(log_ratio(other, own)))
    remark = (
        f"diverged: queryable {evidence.diverged(QUERYABLE)}, lora {evidence.diverged(LORA)}; "
        "the interval is over functions"
    )
    return Finding(contrast([np.array(ratios)], [1.0]), _runs(pairs), remark)


def retention(evidence: Evidence) -> Finding:
    """How much more LoRA's loss on old tasks has grown since they were learnt.

    The growth is inf where the run diverged, and two such are tied.
    """
    pairs = _of_one_network(evidence.pairs(QUERYABLE, LORA))
    own, other = (
        np.where(
            pairs[f"status_{side}"] == "diverged",
            np.inf,
            [_growth(losses) for losses in _parsed(pairs, f"task_losses_{side}")],
        )
        for side in ("own", "other")
    )
    remark = f"diverged: queryable {evidence.diverged(QUERYABLE)}, lora {evidence.diverged(LORA)}"
    return _average(pairs.assign(effect=_minus(other, own)), "effect", remark)


def sparsity(evidence: Evidence) -> Finding:
    """All atoms over those in effect used, which are exp(entropy) of their mean weights."""
    runs = _of_one_network(evidence.runs(QUERYABLE))
    runs = runs[runs["status"] == "done"]
    if runs.empty:
        raise LackingError(f"all runs of {QUERYABLE} diverged")
    usage = _parsed(runs, "atom_usage")
    effects = [_shortfall(np.array(weights, float)) for weights in usage]
    found = _mean_over_functions(runs.assign(effect=effects), "effect")
    remark = f"without diverged runs ({evidence.diverged(QUERYABLE)}){_alike(runs, usage)}"
    return Finding(found, list(runs["run_id"]), remark)


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


def _average(pairs: pd.DataFrame, column: str, remark: str = "") -> Finding:
    """The mean over functions of the mean over seeds, and how far the functions agree."""
    remarks = filter(None, [remark, _agreement(pairs, column)])
    return Finding(_mean_over_functions(pairs, column), _runs(pairs), "; ".join(remarks))


def _mean_over_functions(cells: pd.DataFrame, column: str) -> Interval:
    groups = [part.to_numpy(float) for _, part in cells.groupby("function")[column]]
    return contrast(groups, [1 / len(groups)] * len(groups))


def _agreement(cells: pd.DataFrame, column: str) -> str:
    """`above 1 on 5 of 9 functions, 0.85 (Matyas) to 2.48 (Ackley)`; "" for one function."""
    means = cells.groupby("function")[column].agg(lambda own: float(extended_mean(own.to_numpy())))
    if len(means) < 2:
        return ""
    ends = (f"{ratio_text(means[name])} ({function_title(name)})" for name in _ends(means))
    above = f"above 1 on {(means > 0).sum()} of {len(means)} functions"
    return f"{above}, {' to '.join(ends)}"


def _ends(means: pd.Series) -> tuple[str, str]:
    ranked = means.sort_values(kind="stable").index
    return ranked[0], ranked[-1]


def _on(pairs: pd.DataFrame, functions: list[str]) -> pd.DataFrame:
    own = pairs[pairs["function"].isin(functions)]
    if own.empty:
        titles = ", ".join(map(function_title, functions))
        raise LackingError(f"the study has no usable pair of runs on {titles}")
    return own


def _runs(pairs: pd.DataFrame) -> list[str]:
    return [*pairs["run_id_own"], *pairs["run_id_other"]]


def _minus(one: pd.Series | float, other: pd.Series | float) -> np.ndarray:
    """one - other, where two equal infinities are a tie."""
    one, other = np.asarray(one, float), np.asarray(other, float)
    with np.errstate(invalid="ignore"):
        return np.where(one == other, 0.0, one - other)


def _spread(losses: pd.Series) -> float:
    values = losses.to_numpy(float)
    return float(np.log(values).std(ddof=1)) if np.isfinite(values).all() else np.inf


def _parsed(runs: pd.DataFrame, column: str) -> list[list]:
    """Lists that the long table holds as JSON text."""
    if column not in runs or runs[column].isna().any():
        raise LackingError("the study has no sequence of tasks")
    return [json.loads(text) for text in runs[column]]


def _growth(losses: list[list[float | None]]) -> float:
    """Mean log growth of the losses of all tasks but the last; [j][i]: of task i after j tasks."""
    rows = [[np.inf if loss is None else loss for loss in row] for row in losses]
    tasks = len(rows) - 1
    learnt = np.array([rows[task + 1][task] for task in range(tasks - 1)])
    return float(extended_mean(log_ratio(np.array(rows[tasks][: tasks - 1]), learnt)))


def _shortfall(usage: np.ndarray) -> float:
    """log K minus the entropy of weights (..., K), averaged."""
    logs = np.log(np.where(usage > 0, usage, 1.0))
    return float((np.log(usage.shape[-1]) + (usage * logs).sum(-1)).mean())
