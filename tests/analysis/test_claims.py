"""The paper's claims on studies whose truth is planted."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import STUDY, cell_of, summary_of, write_run
from random_tables import named
from scipy import stats as scipy_stats

from analysis.claims import __main__ as claims_command
from analysis.claims.__main__ import answer, table
from analysis.claims.evidence import Norms
from analysis.claims.measures import QUERYABLE, larger, larger_later, more_even
from analysis.claims.paper import CLAIMS
from analysis.claims.rules import (
    AT_LEAST,
    LITTLE,
    NOT_SUPPORTED,
    SUPPORTED,
    UNDECIDED,
    Answer,
    Claim,
    verdict,
)
from analysis.statistics.intervals import Interval
from qlexp.errors import UsageError
from qlexp.problem.functions import FUNCTIONS
from qlexp.store.files import write_folder
from qlexp.store.store import Store

SMOOTH = ("matyas", "himmelblau", "six_hump_camel")
METHODS = ("frozen", "lora", "queryable", "instruction_queryable", "hyra", "full")
Gain = Callable[[str, str, float, int], float]  # function, method, depth, seed -> log(LoRA / own)


def study(
    gain: Gain,
    seeds: int = 4,
    noise: float = 0.01,
    depths: tuple[int, ...] = (8,),
    budgets: tuple[str, ...] = ("lora_r4",),
    targets: int = 1,
) -> pd.DataFrame:
    """A long table in which each method's loss is LoRA's, less what `gain` says, and noise."""
    draw, rows = np.random.default_rng(0), []
    cells = itertools.product(budgets, depths, FUNCTIONS, METHODS, range(seeds))
    for budget, depth, function, method, seed in cells:
        base = np.random.default_rng([seed, len(function)]).normal(-3, 0.3)
        loss = math.exp(base - gain(function, method, depth, seed) + noise * draw.normal())
        rows.append(
            {
                "budget": budget,
                "function": function,
                "method": method,
                "overrides": f"backbone.depth={depth}",
                "settings": {"backbone.depth": depth},
                "seed": seed,
                "run_id": f"{budget}-{depth}-{function}-{method}-{seed}",
                "status": "done",
                "error": None,
                "frozen_loss": 1.0,
                "test_loss": loss,
                "test_r2": 0.9,
                "samples_per_period": math.nan if function in SMOOTH else 4.0,
                "trainable_parameters": 1000,
                "reference_parameters": 1000,
                "reading": method == "hyra",
                "config.backbone.depth": depth,
                "config.backbone.width": 32,
                "config.shift.targets": targets,
            }
        )
    return pd.DataFrame(rows)


def nothing(function: str, method: str, depth: float, seed: int) -> float:
    return 0.0


def paper_says(function: str, method: str, depth: float, seed: int) -> float:
    """What the paper says it saw."""
    if method != QUERYABLE:
        return 0.0
    gains = {"drop_wave": 0.5, "griewank": 0.3, "levy": 0.3, "ackley": 0.01}
    return gains.get(function, 0.0) + (0.1 if depth > 8 else 0.0)


def flat_norms(run_id: str) -> np.ndarray:
    """LoRA's norms fade with depth; with an instruction they are larger and nearly even."""
    jitter = np.random.default_rng(sum(map(ord, run_id))).uniform(0.99, 1.01, 6)
    return jitter * (4.0 if "instruction" in run_id else 2.0 - 0.3 * np.arange(6.0))


def answers(
    frame: pd.DataFrame, norms: Norms = flat_norms, budget: str = "lora_r4"
) -> dict[str, Answer]:
    """The answers of one block by claim."""
    found = [own for own in answer(frame, norms) if budget in own.budgets]
    assert len(found) == len(CLAIMS)
    return {own.claim.name: own for own in found}


def of_both(gain: Gain, norms: Norms = flat_norms, **options: Any) -> dict[str, Answer]:
    """Claims on texts from adapters of eight targets, all others from adapters of one."""
    one, many = (answers(study(gain, targets=n, **options), norms) for n in (1, 8))
    return {n: many[n] if n.startswith(("text_", "gradients_")) else one[n] for n in one}


def only(frame: pd.DataFrame, name: str, norms: Norms = flat_norms) -> Answer:
    """The answer of one claim in a study of one block."""
    (own,) = answer(frame, norms, [claim for claim in CLAIMS if claim.name == name])
    return own


# The rule


@pytest.mark.parametrize(
    ("rule", "value", "low", "high", "wanted"),
    [
        (AT_LEAST, 0.2, 0.1, 0.3, SUPPORTED),
        (AT_LEAST, 0.2, 0.01, 0.4, SUPPORTED),
        (AT_LEAST, 0.2, -0.01, 0.4, UNDECIDED),
        (AT_LEAST, 0.05, 0.01, 0.09, NOT_SUPPORTED),  # certain, and too small
        (AT_LEAST, 0.08, 0.01, 0.15, UNDECIDED),
        (AT_LEAST, -0.2, -0.3, -0.1, NOT_SUPPORTED),
        (AT_LEAST, -0.2, -0.6, 0.2, UNDECIDED),
        (AT_LEAST, math.inf, math.inf, math.inf, SUPPORTED),
        (AT_LEAST, -math.inf, -math.inf, math.inf, UNDECIDED),
        (AT_LEAST, 0.5, math.nan, math.nan, UNDECIDED),
        (LITTLE, 0.0, -0.05, 0.05, SUPPORTED),
        (LITTLE, 0.05, 0.01, 0.09, SUPPORTED),
        (LITTLE, 0.0, -0.2, 0.2, UNDECIDED),
        (LITTLE, 0.3, 0.2, 0.4, NOT_SUPPORTED),
        (LITTLE, -0.3, -0.4, -0.2, NOT_SUPPORTED),
        (LITTLE, 0.2, 0.05, 0.35, UNDECIDED),
        (LITTLE, 0.0, math.nan, math.nan, UNDECIDED),
        (AT_LEAST, 0.2, 0.2, 0.2, UNDECIDED),  # seeds that agree are no interval
        (AT_LEAST, 0.0, 0.0, 0.0, UNDECIDED),
        (LITTLE, 0.0, 0.0, 0.0, UNDECIDED),
    ],
)
def test_the_rule(rule: str, value: float, low: float, high: float, wanted: str) -> None:
    claim = Claim("a", "b", "c", "d", lambda evidence: None, "e", rule, smallest=1.1)  # log 0.095
    assert verdict(claim, Interval(value, low, high)) == wanted


@pytest.mark.parametrize(
    ("value", "low", "high", "wanted"),
    [
        (0.3, 0.1, 0.5, SUPPORTED),
        (0.3, -0.1, 0.7, UNDECIDED),  # what helps there may be nothing
        (0.05, 0.01, 0.09, UNDECIDED),  # too little
        (-0.3, -0.5, -0.1, UNDECIDED),
        (0.3, math.nan, math.nan, UNDECIDED),
    ],
)
def test_more_help_in_a_part_wants_help_there(
    value: float, low: float, high: float, wanted: str
) -> None:
    claim = Claim("a", "b", "c", "d", lambda evidence: None, "e", smallest=1.1)
    part = Interval(value, low, high)
    assert verdict(claim, Interval(0.5, 0.4, 0.6), part) == wanted
    assert verdict(claim, Interval(-0.5, -0.6, -0.4), part) == NOT_SUPPORTED


def test_claims_have_names_of_their_own() -> None:
    assert len({claim.name for claim in CLAIMS}) == len({claim.text for claim in CLAIMS})
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)


# Planted truths


def test_a_world_as_the_paper_says_supports_its_claims() -> None:
    found = of_both(paper_says)
    unanswered = {
        "deep_narrow",
        "inference",
        "retention",
        "sparsity",
        *(name for name in found if name.startswith("text_")),
    }
    for name in set(found) - unanswered - {"stability"}:
        assert found[name].verdict == SUPPORTED, name
    assert {found[name].verdict for name in unanswered} == {UNDECIDED}
    assert found["drop_wave_above_all"].effect.value == pytest.approx(0.5 - 0.3, abs=0.03)
    assert found["heterogeneous"].effect.value == pytest.approx(1.1 / 3 - 0.01 / 6, abs=0.03)


def test_two_networks_answer_the_claim_on_depth_alone() -> None:
    frame = study(paper_says, depths=(8, 32))
    found = answers(frame)
    assert found["deep_narrow"].verdict == SUPPORTED
    assert found["deep_narrow"].effect.value == pytest.approx(0.1, abs=0.02)
    for name in ("held_out", "drop_wave", "heterogeneous", "little_matyas", "stability"):
        assert found[name].verdict == UNDECIDED
        assert "several networks (8 x 32, 32 x 32)" in found[name].remark
    tasks = answers(sequence(frame))
    assert "several networks" in tasks["retention"].remark
    assert "several networks" in tasks["sparsity"].remark
    texts = answers(study(nothing, depths=(8, 32), targets=8))
    assert "several networks" in texts["gradients_larger_lora"].remark


@pytest.mark.parametrize(("rival", "wanted"), [(0.1, SUPPORTED), (0.5, NOT_SUPPORTED)])
def test_above_all_is_above_every_other(rival: float, wanted: str) -> None:
    def gain(function: str, method: str, depth: float, seed: int) -> float:
        return {"drop_wave": 0.3, "griewank": rival}.get(function, 0.0) * (method == QUERYABLE)

    found = only(study(gain), "drop_wave_above_all")
    assert found.verdict == wanted
    assert found.effect.value == pytest.approx(0.3 - rival, abs=0.03)
    assert "the closest of 8 others: Griewank" in found.remark
    assert {run.split("-")[2] for run in found.runs} == {"drop_wave", "griewank"}


def test_a_mean_says_how_far_the_functions_agree() -> None:
    def gain(function: str, method: str, depth: float, seed: int) -> float:
        return {"levy": 2.0, "matyas": -0.3}.get(function, 0.05) * (method == QUERYABLE)

    found = only(study(gain, noise=0.0), "held_out")
    ends = f"{math.exp(-0.3):.3f} (Matyas) to {math.exp(2.0):.2f} (Levy)"
    assert f"above 1 on 8 of 9 functions, {ends}" in found.remark


def test_a_count_is_comparable_to_that_of_the_lora_beside_it() -> None:
    frame = study(paper_says)
    tuned = frame.assign(
        trainable_parameters=frame["method"].map({QUERYABLE: 4000}).fillna(1000),
        reference_parameters=frame["method"].map({QUERYABLE: 4000}).fillna(1000),
    )  # each within its own rank's budget
    assert "not comparable" in only(tuned, "held_out").remark


def test_a_world_without_gains_supports_none() -> None:
    found = answers(study(nothing, noise=0.001))
    for name in ("held_out", "drop_wave", "drop_wave_above_all", "heterogeneous"):
        assert found[name].verdict == NOT_SUPPORTED, name


def test_norms_that_are_alike_are_not_larger() -> None:
    draw = np.random.default_rng(0)

    def norms(run_id: str) -> np.ndarray:
        return np.array([1.0, 2.0, 3.0]) * draw.uniform(0.999, 1.001, 3)

    found = answers(study(nothing, targets=8), norms)
    assert {a.verdict for name, a in found.items() if "gradients" in name} == {NOT_SUPPORTED}


def test_a_world_of_noise_decides_nothing() -> None:
    found = answers(study(nothing, seeds=3, noise=1.0))
    for name in ("held_out", "drop_wave", "drop_wave_above_all", "little_matyas", "stability"):
        assert found[name].verdict == UNDECIDED, name


def test_a_large_gain_is_not_little() -> None:
    found = answers(study(lambda f, m, d, s: 0.5 * (m == QUERYABLE) * (f == "matyas")))
    assert found["little_matyas"].verdict == NOT_SUPPORTED
    assert found["little_ackley"].verdict == SUPPORTED
    assert found["heterogeneous"].verdict == NOT_SUPPORTED


@pytest.mark.parametrize(("calm", "wanted"), [(QUERYABLE, SUPPORTED), ("lora", NOT_SUPPORTED)])
def test_stability_is_the_spread_over_seeds(calm: str, wanted: str) -> None:
    def swing(function: str, method: str, depth: float, seed: int) -> float:
        return 0.0 if method == calm else 3.0 * (-1) ** seed

    assert only(study(swing), "stability").verdict == wanted


def test_effects_agree_with_scipy() -> None:
    frame = study(paper_says, noise=0.2)
    found = answers(frame)
    losses = frame.set_index(["function", "method", "seed"])["test_loss"].sort_index()
    gains = {
        function: np.log(losses[function, "lora"] / losses[function, QUERYABLE]).to_numpy()
        for function in FUNCTIONS
    }
    oracle = scipy_stats.ttest_1samp(gains["drop_wave"], 0.0)
    effect = found["drop_wave"].effect
    assert effect.value == pytest.approx(gains["drop_wave"].mean())
    assert (effect.low, effect.high) == pytest.approx(tuple(oracle.confidence_interval(0.95)))
    assert found["held_out"].effect.value == pytest.approx(
        np.mean([values.mean() for values in gains.values()])
    )
    spreads = [
        math.log(np.log(losses[function, "lora"]).std() / np.log(losses[function, QUERYABLE]).std())
        for function in FUNCTIONS
    ]
    oracle = scipy_stats.ttest_1samp(spreads, 0.0).confidence_interval(0.95)
    effect = found["stability"].effect
    assert (effect.low, effect.high) == pytest.approx(tuple(oracle))


def test_measures_of_gradient_norms() -> None:
    one, other = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), np.full(6, 2.0)
    assert larger(one, other) == pytest.approx(math.log(3.5 / 2))
    assert larger_later(one, other) == pytest.approx(math.log(4.5 / 2) - math.log(1.5 / 2))
    assert more_even(one, 2 * one) == 0.0
    assert more_even(other, one) == math.inf
    assert more_even(one + 1, one) > 0


# What is left out


def test_only_the_cells_behind_an_answer_are_named() -> None:
    found = answers(study(paper_says))
    assert set(found["drop_wave"].runs) == {
        f"lora_r4-8-drop_wave-{method}-{seed}"
        for method in ("lora", QUERYABLE)
        for seed in range(4)
    }
    assert len(found["held_out"].runs) == 2 * 4 * len(FUNCTIONS)
    assert not any("hyra" in run for a in found.values() for run in a.runs)
    assert found["inference"].runs == ()


def test_functions_that_cannot_be_learnt_are_left_out() -> None:
    frame = study(paper_says, budgets=("equal_rank", "lora_r4"))
    unlearnt = (
        (frame["function"] == "drop_wave") & (frame["method"] == "full") & (frame["seed"] == 2)
    )
    frame.loc[unlearnt & (frame["budget"] == "equal_rank"), "test_r2"] = -0.2
    found = answers(frame)
    assert found["drop_wave"].verdict == UNDECIDED
    assert "no usable pair of runs on Drop-Wave" in found["drop_wave"].remark
    assert found["drop_wave_above_all"].verdict == UNDECIDED
    assert not any("drop_wave" in run for a in found.values() for run in a.runs)
    assert found["held_out"].effect.value == pytest.approx(0.61 / 8, abs=0.02)


def test_readings_are_left_out() -> None:
    frame = study(paper_says)
    frame["reading"] = frame["method"] == QUERYABLE
    found = answers(frame)
    assert found["held_out"].verdict == UNDECIDED
    assert "no usable run of queryable" in found["held_out"].remark
    assert not any(f"-{QUERYABLE}-" in run for a in found.values() for run in a.runs)


def test_diverged_runs_decide_nothing_and_are_counted() -> None:
    frame = study(paper_says)
    place = (
        (frame["method"] == QUERYABLE) & (frame["function"] == "drop_wave") & (frame["seed"] == 0)
    )
    frame.loc[place, ["status", "test_loss"]] = ["diverged", math.inf]
    found = answers(frame)
    assert found["drop_wave"].verdict == UNDECIDED
    assert found["drop_wave"].effect.value == -math.inf
    assert found["held_out"].verdict == UNDECIDED
    assert "queryable 1/36, lora 0/36" in found["stability"].remark
    everywhere = frame.copy()
    everywhere.loc[everywhere["method"] == QUERYABLE, ["status", "test_loss"]] = [
        "diverged",
        math.inf,
    ]
    found = answers(everywhere)
    assert found["held_out"].verdict == NOT_SUPPORTED
    assert found["stability"].verdict == NOT_SUPPORTED
    assert found["gradients_larger_queryable"].verdict == UNDECIDED


def test_what_a_study_lacks_is_said() -> None:
    frame = study(paper_says)
    assert "one depth of network (8 x 32)" in only(frame, "deep_narrow").remark
    assert "experiment=deep_narrow" in only(frame, "deep_narrow").remark
    assert "experiment=continual" in only(frame, "retention").remark
    two = frame[frame["function"].isin(["drop_wave", "matyas"])]
    assert "on Sin-Cos; answered by experiment=quick" in only(two, "little_sin_cos").remark
    smooth = frame[frame["function"].isin(SMOOTH)]
    assert "functions of one kind only" in only(smooth, "heterogeneous").remark
    once = frame[frame["seed"] == 0]
    assert "two seeds" in only(once, "stability").remark
    assert only(once, "held_out").verdict == UNDECIDED
    assert "too few values for an interval" in only(once, "held_out").remark
    many = study(nothing, targets=8)
    short = only(many, "gradients_larger_lora", lambda run_id: np.ones(2))
    assert "fewer than three layers" in short.remark
    twins = pd.concat([frame, named(frame, "other=1")], ignore_index=True)
    assert "several rows of queryable" in only(twins, "held_out").remark


def test_a_sequence_of_tasks_answers_the_continual_claims() -> None:
    frame = study(nothing)
    rows = []
    for cell in frame.itertuples():
        grown = 0.2 if cell.method == "lora" else 0.1
        final = [grown * jitter(cell), grown, 0.05]
        rows.append(json.dumps([[1, 1, 1], [0.05, 1, 1], [0.1, 0.05, 1], final]))
    found = answers(frame.assign(task_losses=rows, atom_usage=used(frame, 0.5)))
    assert found["retention"].verdict == SUPPORTED
    assert found["retention"].effect.value == pytest.approx(math.log(2), abs=0.02)
    assert found["sparsity"].verdict == SUPPORTED
    assert found["sparsity"].effect.value == pytest.approx(math.log(2), abs=0.01)
    assert "takes" not in found["sparsity"].remark
    mixing = frame.assign(atom_usage=used(frame, 0.5), task_losses=rows)
    found = answers(mixing.assign(**{"config.method.top_k": 2.0}))
    assert "takes 2 of 4 atoms evenly, the same for every input, has 2.00" in (
        found["sparsity"].remark
    )
    found = answers(frame.assign(task_losses=rows, atom_usage=used(frame, 0.25)))
    assert found["sparsity"].verdict == NOT_SUPPORTED
    lost = [
        json.dumps([[1, 1, 1], [0.05, 1, 1], [0.1, 0.05, 1], [None, 0.1, 0.05]])
        if cell.method == QUERYABLE
        else text
        for cell, text in zip(frame.itertuples(), rows, strict=True)
    ]
    found = answers(frame.assign(task_losses=lost))
    assert found["retention"].effect == Interval(-math.inf, -math.inf, -math.inf)
    assert found["retention"].verdict == NOT_SUPPORTED


def jitter(cell: Any) -> float:
    return 1 + 0.01 * cell.seed * (cell.method == QUERYABLE)


def used(frame: pd.DataFrame, weight: float) -> list[str]:
    """Atom usage of two tasks and one block: two of four atoms with nearly `weight` each."""
    return [
        json.dumps(
            [
                [
                    [weight / jitter(cell), 1 - 2 * (0.5 - weight) - weight / jitter(cell)]
                    + [0.5 - weight] * 2
                ]
            ]
            * 2
        )
        for cell in frame.itertuples()
    ]


def sequence(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with losses of three tasks that hardly grow, and atoms that are used sparsely."""
    losses = json.dumps([[1, 1, 1], [0.05, 1, 1], [0.051, 0.05, 1], [0.051, 0.051, 0.05]])
    usage = json.dumps([[[1.0, 0.0, 0.0, 0.0]]] * 3)
    return frame.assign(task_losses=losses, atom_usage=usage)


def diverged(frame: pd.DataFrame, place: pd.Series) -> pd.DataFrame:
    """`frame` with diverged runs; only the losses of `analysis.load.LOSSES` are inf in them."""
    return frame.assign(
        status=frame["status"].mask(place, "diverged"),
        test_loss=frame["test_loss"].mask(place, math.inf),
    )


@pytest.mark.parametrize(
    ("lost", "value"), [([QUERYABLE], -math.inf), (["lora"], math.inf), ([QUERYABLE, "lora"], 0.0)]
)
def test_a_diverged_run_has_retained_nothing(lost: list[str], value: float) -> None:
    frame = sequence(study(nothing))
    own = only(diverged(frame, frame["method"].isin(lost)), "retention")
    assert own.effect == Interval(value, value, value)
    assert f"queryable {36 * (QUERYABLE in lost)}/36" in own.remark


def test_a_diverged_run_is_no_evidence_of_sparsity() -> None:
    frame = sequence(study(nothing))
    own = frame["method"] == QUERYABLE
    uniform = pd.Series(used(frame, 0.25), index=frame.index)
    frame["atom_usage"] = frame["atom_usage"].mask(own & (frame["seed"] > 0), uniform)
    found = only(diverged(frame, own & (frame["seed"] == 0)), "sparsity")
    assert found.verdict == NOT_SUPPORTED
    assert found.effect.value == pytest.approx(0.0, abs=1e-3)
    assert "without diverged runs (9/36)" in found.remark
    assert len(found.runs) == 27
    assert "all runs of queryable diverged" in only(diverged(frame, own), "sparsity").remark


# Texts


def controlled(**gains: float) -> pd.DataFrame:
    """A study of instructions; `gains` are those of the own text over each control, by loss."""
    frame = study(nothing, targets=8)
    own = frame[frame["method"] == "instruction_queryable"]
    parts = [frame[frame["method"] != "instruction_queryable"]]
    for control in ("matched", "shuffled", "empty"):
        losses = {
            loss: own["test_loss"] * math.exp(gains.get(f"{name}_{control}", 0.0))
            for name, loss in (
                ("test", "test_loss"),
                ("unseen", "unseen_loss"),
                ("paraphrased", "paraphrased_loss"),
            )
        }
        if control != "matched":
            losses = {
                loss: own_loss * (1 + 0.001 * own["seed"]) for loss, own_loss in losses.items()
            }
        own = named(own, f"instruction.control={control}")
        names = {"run_id": own["run_id"] + control}
        parts.append(own.assign(**names, **losses, **{"config.instruction.control": control}))
    return pd.concat(parts, ignore_index=True).fillna({"config.instruction.control": "matched"})


def test_a_text_is_held_against_another_targets_and_none() -> None:
    frame = controlled(test_shuffled=0.5, unseen_empty=0.3, paraphrased_shuffled=-0.4)
    found = answers(frame)
    effects = {name: a.effect.value for name, a in found.items() if name.startswith("text_")}
    planted = {
        "text_test_shuffled": 0.5,
        "text_unseen_empty": 0.3,
        "text_paraphrased_shuffled": -0.4,
    }
    assert effects == pytest.approx({name: planted.get(name, 0.0) for name in effects}, abs=2e-3)
    assert len(effects) == 6
    assert found["text_test_shuffled"].verdict == SUPPORTED
    assert found["text_paraphrased_shuffled"].verdict == NOT_SUPPORTED
    assert found["gradients_larger_queryable"].verdict == SUPPORTED  # of the matched rows
    assert not any("empty" in run for run in found["gradients_larger_queryable"].runs)
    lost = frame["config.instruction.control"].eq("empty") & frame["unseen_loss"].notna()
    found = only(diverged(frame, lost), "text_unseen_empty")
    assert found.effect == Interval(math.inf, math.inf, math.inf)
    silent = only(frame.drop(columns="paraphrased_loss"), "text_paraphrased_empty")
    assert "have no paraphrased_loss" in silent.remark


def test_one_target_says_nothing_of_its_text() -> None:
    frame = controlled(test_shuffled=0.5).assign(**{"config.shift.targets": 1})
    found = answers(frame)
    asked = [name for name in found if name.startswith(("text_", "gradients_"))]
    assert len(asked) == 12
    for name in asked:
        assert found[name].verdict == UNDECIDED
        assert "one target: the text is a constant; answered by experiment=instr" in (
            found[name].remark
        )


def test_a_study_without_controls_cannot_say_what_a_text_does() -> None:
    remark = only(study(nothing, targets=8), "text_test_empty").remark
    assert "no usable run of instruction_queryable with instruction.control=empty" in remark


def test_blocks_are_answered_apart() -> None:
    frame = study(nothing, noise=0.001, budgets=("equal_rank", "lora_r4"))
    gained = (frame["budget"] == "equal_rank") & (frame["method"] == QUERYABLE)
    frame.loc[gained, "test_loss"] *= 0.5
    assert answers(frame, budget="equal_rank")["held_out"].verdict == SUPPORTED
    assert answers(frame, budget="lora_r4")["held_out"].verdict == NOT_SUPPORTED


# The command


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two functions, three seeds, adapters with gradient norms of three layers."""
    store = Store(tmp_path / "store")
    cells = []
    methods = ("lora", "shared_lora", QUERYABLE, "full")
    for function, method, seed in itertools.product(("drop_wave", "matyas"), methods, range(3)):
        summary = summary_of(function, method, seed, reading=method == "shared_lora")
        summary["config"]["shift"]["targets"] = 8
        write_run(store, summary)
        cells += [cell_of(summary, budget) for budget in ("equal_rank", "lora_r4")]
        if method != QUERYABLE:
            continue
        run_id = f"{function}-instructed-{seed}"
        instructed = {**summary, "run_id": run_id, "method": "instruction_queryable"}
        curves = pd.DataFrame({"step": [0, 1], "loss": [1.0, 0.5], "learning_rate": 1e-3})
        for twin, size in ((instructed, 3.0), (summary, 1.0)):
            (store.run_folder(twin["run_id"]) / "summary.json").unlink(missing_ok=True)
            norms = {f"gradient_norm.layer_{i}": [size + i + seed, size + i] for i in (10, 2, 0)}
            write_folder(store.run_folder(twin["run_id"]), twin, curves.assign(**norms))
        cells += [cell_of(instructed, budget) for budget in ("equal_rank", "lora_r4")]
    store.write_study(STUDY, cells)
    return store


def command(store: Store, out: Path, *more: str) -> int:
    arguments = ["--study", STUDY, "--store", str(store.root), "--out", str(out), *more]
    return claims_command.main(arguments)


def test_the_command_writes_the_same_bytes_again(store: Store, tmp_path: Path) -> None:
    for out in ("a", "b"):
        assert command(store, tmp_path / out) == 0
        assert sorted(path.name for path in (tmp_path / out / STUDY).iterdir()) == [
            *("claims.csv", "claims.md")
        ]
    for name in ("claims.csv", "claims.md"):
        one, other = (tmp_path / out / STUDY / name for out in ("a", "b"))
        assert one.read_bytes() == other.read_bytes()
    text = (tmp_path / "a" / STUDY / "claims.md").read_text().replace("\\", "")
    assert "Left out: methods whose formula is partly a reading (shared_lora)." in text
    found = pd.read_csv(tmp_path / "a" / STUDY / "claims.csv", keep_default_na=False)
    assert set(found["budget"]) == {"equal_rank / lora_r4"}  # of the same runs
    assert len(found) == len(CLAIMS)
    own = found[(found["claim"] == "gradients_larger_queryable")].iloc[0]
    assert len(own["runs"].split()) == 12
    means = [(3 + seed / 2 + 4, 1 + seed / 2 + 4) for seed in range(3)]
    expected = np.mean([math.log(one / other) for one, other in means])
    assert float(own["effect"]) == pytest.approx(expected)


def test_norms_come_in_the_order_of_the_layers(store: Store) -> None:
    norms = claims_command.stored_norms(store)
    assert norms("drop_wave-instructed-2").tolist() == [4.0, 6.0, 14.0]
    with pytest.raises(UsageError, match="curves of run nowhere are not readable"):
        norms("nowhere")


def test_gaps_are_refused_or_named(store: Store, tmp_path: Path, capsys) -> None:
    (store.run_folder("matyas-lora-2") / "summary.json").unlink()
    assert command(store, tmp_path) == 2
    assert "missing: lora on matyas (equal_rank), seed 2" in capsys.readouterr().err
    assert not (tmp_path / STUDY).exists()
    assert command(store, tmp_path, "--allow-missing") == 0
    assert "Gaps: missing: lora on matyas" in (tmp_path / STUDY / "claims.md").read_text()


def swept_study(store: Store, **swept: tuple[str, ...]) -> None:
    """LoRA and queryable under each value, their losses growing from one to the next."""
    ((key, values),) = swept.items()
    cells = []
    for (i, value), method, seed in itertools.product(
        enumerate(values), ("lora", QUERYABLE, "full"), range(3)
    ):
        gain = 0.5 if method == QUERYABLE and i == 0 else 1.0
        loss = (1 + i) * gain * (1 + 0.01 * seed)
        summary = summary_of(
            "drop_wave",
            method,
            seed,
            run_id=f"{value}-{method}-{seed}",
            validation_loss=loss,
            test_loss=loss,
            test_r2=-0.5 if i else 0.9,
        )
        write_run(store, summary)
        cells.append(cell_of(summary, "equal_rank", f"{key.replace('__', '.')}={value}"))
    store.write_study(STUDY, cells)


def test_each_method_stands_at_its_own_rate(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    swept_study(store, trainer__adapt__learning_rate=("1e-3", "2e-3", "4e-3"))
    assert command(store, tmp_path) == 0
    found = pd.read_csv(tmp_path / STUDY / "claims.csv").set_index("claim")
    assert found.loc["drop_wave", "effect"] == pytest.approx(math.log(2))
    text = (tmp_path / STUDY / "claims.md").read_text().replace("\\", "")
    assert "Tuned: 3 trials for every method" in text
    assert "not learnable" not in text  # by bad rates of full fine-tuning
    assert command(store, tmp_path, "--tune") == 0
    found = pd.read_csv(tmp_path / STUDY / "claims.csv").set_index("claim")
    assert set(found["answer"]) == {UNDECIDED}


def test_conditions_are_refused_but_for_the_network(tmp_path: Path, capsys) -> None:
    store = Store(tmp_path / "store")
    swept_study(store, data__noise=("0", "0.2"))
    assert command(store, tmp_path) == 2
    error = capsys.readouterr().err
    assert "python -m analysis.ablation --study" in error
    assert error.count("\n") == 1
    swept_study(store, backbone=("small", "deep_narrow"))
    assert command(store, tmp_path) == 0


def test_the_table_holds_every_answer() -> None:
    found = answer(study(paper_says), flat_norms)
    rows = table(found)
    assert list(rows["answer"]) == [own.verdict for own in found]
    assert {SUPPORTED, UNDECIDED} <= set(rows["answer"])
    assert rows["runs"].str.split().str.len().tolist() == [len(own.runs) for own in found]


def test_an_adapter_of_several_targets_answers_no_claim_on_one() -> None:
    found = answers(study(nothing, targets=5))
    for name in ("held_out", "drop_wave", "heterogeneous", "little_ackley", "stability"):
        assert found[name].verdict == UNDECIDED
        assert "several targets an adapter" in found[name].remark


def test_norms_that_shrink_less_later_are_not_larger_there() -> None:
    def norms(run_id: str) -> np.ndarray:
        return np.array([0.2, 0.8, 0.8] if "instruction" in run_id else [1.0, 1.0, 1.0])

    own = only(study(nothing, targets=8), "gradients_later_lora", norms)
    assert own.effect.value == pytest.approx(math.log(4.0))
    assert own.verdict == UNDECIDED
    assert "the ratio in that part itself: 0.800" in own.remark


def test_less_harm_is_no_help() -> None:
    def gain(function: str, method: str, depth: float, seed: int) -> float:
        return {True: -0.2, False: -0.05}[function in SMOOTH] * (method == QUERYABLE)

    own = only(study(gain), "heterogeneous")
    assert own.effect.low > 0
    assert own.verdict == UNDECIDED
    assert "the ratio in that part itself: 0.95" in own.remark
