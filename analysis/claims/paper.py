"""The claims of "Queryable LoRA" (arXiv 2605.08423) on its synthetic study, one entry each.

To add one, write what it measures as a function from `Evidence` to `Finding` and an entry in
`CLAIMS`. Readings of this project, where the paper gives no measure:

- "helps": queryable LoRA's test loss is below LoRA's, on the same function, seed and network;
- "locally heterogeneous": the target has ripples (a period), against targets that have none;
- "little": between 10 % less and 10 % more; a gain of interest: 2 %, since tuned variants of LoRA
  end within 1 to 2 % of each other (arXiv 2602.04998); gradient norms and atoms: 10 %;
- gradient norms: the mean over all recorded updates, by layer; "more even": a smaller coefficient
  of variation over layers; "middle and late": the last two thirds of the layers against the first;
- instructions: one adapter serves several targets, so that their texts differ; "its own text" is
  compared with texts dealt out at random (shuffled) and with none (empty);
- "more stable": less spread over seeds, the standard deviation of the logarithm of the test loss,
  function by function. It is inf where a seed diverged, and two such are tied.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from analysis.cells import off_budget
from analysis.claims.evidence import LOSS, NETWORK, TEXT_LOSSES, Evidence
from analysis.claims.rules import LITTLE, Claim, Finding, LackingError
from analysis.names import function_title
from analysis.statistics.intervals import contrast
from analysis.statistics.pairs import extended_mean, log_ratio

LORA, QUERYABLE, INSTRUCTED = "lora", "queryable", "instruction_queryable"
Measure = Callable[[np.ndarray, np.ndarray], float]

SETTLED = 1.1  # the ratio up to which a difference is little


def _single(evidence: Evidence) -> pd.DataFrame:
    """Queryable LoRA beside LoRA, each adapted to one target."""
    pairs = evidence.pairs(QUERYABLE, LORA)
    if (pairs["targets_own"] > 1).any():
        raise LackingError("several targets an adapter: the paper's study has one")
    return pairs


def gain_everywhere(evidence: Evidence) -> Finding:
    """The mean gain over all functions, at a count near LoRA's."""
    pairs = _single(evidence)
    if off_budget(pairs["trainable_parameters_own"], pairs["reference_parameters_own"]).any():
        raise LackingError("the parameter count is not comparable to LoRA's")
    return _average(pairs, "gain")


def gain_on(function: str, evidence: Evidence) -> Finding:
    """The gain on one function."""
    return _average(_on(_single(evidence), [function]), "gain")


def gain_above_all(function: str, evidence: Evidence) -> Finding:
    """The gain on one function over the mean gain on the others."""
    pairs = _single(evidence)
    _on(pairs, [function])
    return _difference(pairs, pairs["function"] == function)


def gain_on_ripples(evidence: Evidence) -> Finding:
    """The mean gain on targets with ripples over that on targets without."""
    pairs = _single(evidence)
    return _difference(pairs, pairs["samples_per_period_own"].notna())


def gain_with_depth(evidence: Evidence) -> Finding:
    """The gain in the deepest network over that in the shallowest, by function and seed."""
    pairs = _single(evidence)
    networks = sorted({tuple(row) for row in pairs[NETWORK].to_numpy()})
    if len({depth for depth, _ in networks}) < 2:
        sizes = ", ".join(f"{depth:g} x {width:g}" for depth, width in networks)
        raise LackingError(f"the study has one depth of network ({sizes})")
    first, last = (
        pairs[(pairs[NETWORK] == list(size)).all(axis=1)] for size in (networks[0], networks[-1])
    )
    both = last.merge(first, on=["function", "seed"], suffixes=("", "_shallow"))
    if both.empty:
        raise LackingError("the two networks share no function and seed")
    both = both.assign(difference=_minus(both["gain"], both["gain_shallow"]))
    runs = [*_runs(both), *both["run_id_own_shallow"], *both["run_id_other_shallow"]]
    part = _average(both, "gain").effect.value
    return Finding(_average(both, "difference").effect, runs, part=part)


def gradients(measure: Measure, part: Measure | None, other: str, evidence: Evidence) -> Finding:
    """`measure` of the layers' gradient norms of instruction-queryable LoRA and of `other`.

    Args:
        part: the measure in the part for which more is claimed, if one is.
    """
    _require_texts(evidence)
    pairs = evidence.pairs(INSTRUCTED, other, finite=True)
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
    found = mean(measure, f"pairs without diverged runs ({counts} of the two methods)")
    return found if part is None else replace(found, part=mean(part).effect.value)


def text_gain(loss: str, control: str, evidence: Evidence) -> Finding:
    """The gain of a target's own text over what `control` puts in its place."""
    _require_texts(evidence)
    return _average(evidence.pairs(INSTRUCTED, INSTRUCTED, loss=loss, control=control), "gain")


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
    for _, part in pairs.groupby(["function", *NETWORK]):
        if len(part) < 2:
            raise LackingError("a spread over seeds wants two seeds of every function")
        own, other = (_spread(part[f"{LOSS}_{side}"]) for side in ("own", "other"))
        ratios.append(float(log_ratio(other, own)))
    remark = (
        f"diverged: queryable {evidence.diverged(QUERYABLE)}, lora {evidence.diverged(LORA)}; "
        "the interval is over functions"
    )
    return Finding(contrast([np.array(ratios)], [1.0]), _runs(pairs), remark)


def inference_order(evidence: Evidence) -> Finding:
    """Inference times are no part of a run, and three of the five methods are readings."""
    raise LackingError(
        "runs hold no inference times, and RepLoRA, HyRA and DoRAN are readings of their papers"
    )


def retention(evidence: Evidence) -> Finding:
    """How much more LoRA's loss on old tasks has grown since they were learnt.

    The growth is inf where the run diverged, and two such are tied.
    """
    pairs = evidence.pairs(QUERYABLE, LORA)
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
    runs = evidence.runs(QUERYABLE)
    runs = runs[runs["status"] == "done"]
    if runs.empty:
        raise LackingError(f"all runs of {QUERYABLE} diverged")
    usage = _parsed(runs, "atom_usage")
    cells = runs.assign(effect=[_shortfall(np.array(weights, float)) for weights in usage])
    groups = [part["effect"].to_numpy() for _, part in cells.groupby(["function", *NETWORK])]
    remark = f"without diverged runs ({evidence.diverged(QUERYABLE)})"
    effect = contrast(groups, [1 / len(groups)] * len(groups))
    return Finding(effect, list(cells["run_id"]), remark)


def _average(pairs: pd.DataFrame, column: str, remark: str = "") -> Finding:
    """The mean over functions (and networks) of the mean over seeds."""
    groups = [part[column].to_numpy(float) for _, part in pairs.groupby(["function", *NETWORK])]
    return Finding(contrast(groups, [1 / len(groups)] * len(groups)), _runs(pairs), remark)


def _difference(pairs: pd.DataFrame, chosen: pd.Series) -> Finding:
    """The mean gain over the chosen functions minus that over the others."""
    inside = pairs[chosen].groupby(["function", *NETWORK])["gain"]
    outside = pairs[~chosen].groupby(["function", *NETWORK])["gain"]
    if not inside.ngroups or not outside.ngroups:
        raise LackingError("the study has functions of one kind only, and none to compare with")
    groups = [part.to_numpy(float) for kind in (inside, outside) for _, part in kind]
    weights = [1 / inside.ngroups] * inside.ngroups + [-1 / outside.ngroups] * outside.ngroups
    part = _average(pairs[chosen], "gain").effect.value
    return Finding(contrast(groups, weights), _runs(pairs), part=part)


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


_SYNTHETIC = "arXiv 2605.08423, synthetic study"
_FIGURES = "arXiv 2605.08423, Figures 3 and 4"
_TEST = "LoRA's test loss over queryable LoRA's"
_ANY = "experiment=quick"

CLAIMS = (
    Claim(
        "held_out",
        "Lower held-out loss than LoRA at a comparable parameter count",
        _SYNTHETIC,
        f"{_TEST}, mean over functions",
        gain_everywhere,
        _ANY,
    ),
    Claim(
        "drop_wave",
        "Helps on Drop-Wave",
        _SYNTHETIC,
        _TEST,
        partial(gain_on, "drop_wave"),
        _ANY,
    ),
    Claim(
        "drop_wave_above_all",
        "Helps on Drop-Wave above all",
        _SYNTHETIC,
        f"{_TEST}: on Drop-Wave over the mean of the other functions",
        partial(gain_above_all, "drop_wave"),
        _ANY,
    ),
    Claim(
        "heterogeneous",
        "Helps most on locally heterogeneous targets",
        _SYNTHETIC,
        f"{_TEST}: on targets with ripples over those without",
        gain_on_ripples,
        _ANY,
    ),
    *(
        Claim(
            f"little_{function}",
            f"Helps little on {function_title(function)}",
            _SYNTHETIC,
            _TEST,
            partial(gain_on, function),
            _ANY,
            LITTLE,
            SETTLED,
        )
        for function in ("sin_cos", "matyas", "ackley", "rastrigin")
    ),
    Claim(
        "deep_narrow",
        "Helps more in the deep, narrow network",
        "arXiv 2605.08423, appendix B",
        f"{_TEST}: in the deepest network of the study over the shallowest",
        gain_with_depth,
        "experiment=deep_narrow",
    ),
    Claim(
        "stability",
        "More stable optimisation than LoRA's",
        _SYNTHETIC,
        "LoRA's spread over seeds over queryable LoRA's",
        stability,
        _ANY,
        smallest=SETTLED,
    ),
    *(
        Claim(
            f"gradients_{name}_{other}",
            f"Adapter gradient norms {text} with instruction-conditioned routing than {without}",
            _FIGURES,
            what,
            partial(gradients, measure, part, other),
            "experiment=instructions",
            smallest=SETTLED,
        )
        for other, without in ((QUERYABLE, "without the instruction"), (LORA, "LoRA's"))
        for name, text, what, measure, part in (
            ("larger", "larger", "norms, mean over layers", larger, None),
            (
                "more_even",
                "more even over depth",
                "the other's variation over layers",
                more_even,
                None,
            ),
            (
                "later",
                "larger in middle and late layers above all",
                "norms: in the last two thirds of the layers over the first third",
                larger_later,
                larger_there,
            ),
        )
    ),
    *(
        Claim(
            f"text_{where}_{control}",
            f"A target's own text helps more than {what} on {place}",
            "arXiv 2605.08423, instruction-conditioned routing; the controls are ours",
            f"instruction-queryable LoRA's {loss.replace('_', ' ')}: with {what} over its own",
            partial(text_gain, loss, control),
            "experiment=instructions",
        )
        for where, loss, place in zip(
            ("test", "unseen", "paraphrased"),
            (LOSS, *TEXT_LOSSES),
            ("the targets served", "unseen targets", "held-out wordings"),
            strict=True,
        )
        for control, what in (("shuffled", "a random one"), ("empty", "an empty one"))
    ),
    Claim(
        "inference",
        "Slower in inference than LoRA, faster than RepLoRA, HyRA and DoRAN",
        "arXiv 2605.08423, Table 5",
        "seconds",
        inference_order,
        "python -m analysis.inference",
    ),
    Claim(
        "retention",
        "Retains the losses of old tasks better than LoRA",
        "arXiv 2605.08423, appendix C",
        "LoRA's growth of old tasks' losses over queryable LoRA's",
        retention,
        "experiment=continual",
    ),
    Claim(
        "sparsity",
        "Atoms are used sparsely, not uniformly",
        "arXiv 2605.08423, appendix C",
        "all atoms over those in effect used",
        sparsity,
        "experiment=continual",
        smallest=SETTLED,
    ),
)
