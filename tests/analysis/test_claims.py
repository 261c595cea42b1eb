"""The paper's claims on studies whose truth is planted."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import (
    FLOOR,
    NINE,
    SMOOTH,
    Gain,
    answer,
    answers,
    diverged,
    flat_norms,
    nothing,
    of_both,
    only,
    paper_says,
    sequence,
    study,
)
from random_tables import named
from scipy import stats as scipy_stats

from analysis.claims.answers import grid, table
from analysis.claims.rules import (
    ABOVE,
    BELOW,
    LITTLE,
    NOT_SUPPORTED,
    SUPPORTED,
    UNDECIDED,
    Claim,
    verdict,
)
from analysis.paper.claims import CLAIMS, QUERYABLE
from analysis.render import NO_CELL
from analysis.stats.intervals import Interval
from analysis.stats.power import precision
from analysis.table import with_columns
from analysis.text import number
from analysis.tuning import UNTUNED

RULES = pytest.mark.parametrize(
    ("rule", "value", "low", "high", "wanted"),
    [
        (ABOVE, 0.2, 0.1, 0.3, SUPPORTED),
        (ABOVE, 0.2, 0.01, 0.4, SUPPORTED),
        (ABOVE, 0.2, -0.01, 0.4, UNDECIDED),
        (ABOVE, 0.05, 0.01, 0.09, NOT_SUPPORTED),  # certain, and too small
        (ABOVE, 0.08, 0.01, 0.15, UNDECIDED),
        (ABOVE, -0.2, -0.3, -0.1, NOT_SUPPORTED),
        (ABOVE, -0.2, -0.6, 0.2, UNDECIDED),
        (ABOVE, math.inf, math.inf, math.inf, SUPPORTED),
        (ABOVE, -math.inf, -math.inf, math.inf, UNDECIDED),
        (ABOVE, 0.5, math.nan, math.nan, UNDECIDED),
        (LITTLE, 0.0, -0.05, 0.05, SUPPORTED),
        (LITTLE, 0.05, 0.01, 0.09, SUPPORTED),
        (LITTLE, 0.0, -0.2, 0.2, UNDECIDED),
        (LITTLE, 0.3, 0.2, 0.4, NOT_SUPPORTED),
        (LITTLE, -0.3, -0.4, -0.2, NOT_SUPPORTED),
        (LITTLE, 0.2, 0.05, 0.35, UNDECIDED),
        (LITTLE, 0.0, math.nan, math.nan, UNDECIDED),
        (ABOVE, 0.2, 0.2, 0.2, UNDECIDED),  # seeds that agree are no interval
        (ABOVE, 0.0, 0.0, 0.0, UNDECIDED),
        (LITTLE, 0.0, 0.0, 0.0, UNDECIDED),
    ],
)


def claim_of(rule: str) -> Claim:
    return Claim("a", "b", "c", "d", lambda evidence: None, "e", rule, smallest=1.1)  # log 0.095


@RULES
def test_the_rule(rule: str, value: float, low: float, high: float, wanted: str) -> None:
    assert verdict(claim_of(rule), Interval(value, low, high)) == wanted


TURNED = {ABOVE: BELOW, LITTLE: LITTLE}


@RULES
def test_what_is_claimed_to_be_lower_is_judged_like_its_mirror(
    rule: str, value: float, low: float, high: float, wanted: str
) -> None:
    assert verdict(claim_of(TURNED[rule]), Interval(-value, -high, -low)) == wanted


ENDS = st.lists(
    st.floats(-0.5, 0.5) | st.just(math.inf) | st.just(math.nan), min_size=6, max_size=6
)


@given(st.sampled_from(list(TURNED)), ENDS)
def test_below_is_above_with_all_sides_turned(rule: str, ends: list[float]) -> None:
    effect, part = Interval(*ends[:3]), Interval(*ends[3:])
    found = verdict(claim_of(rule), effect, part)
    assert verdict(claim_of(TURNED[rule]), -effect, -part) == found
    assert verdict(claim_of(TURNED[rule]), -effect) == verdict(claim_of(rule), effect)


PARTS = pytest.mark.parametrize(
    ("value", "low", "high", "wanted"),
    [
        (0.3, 0.1, 0.5, SUPPORTED),
        (0.3, -0.1, 0.7, UNDECIDED),  # what helps there may be nothing
        (0.05, 0.01, 0.09, UNDECIDED),  # too little
        (-0.3, -0.5, -0.1, UNDECIDED),
        (0.3, math.nan, math.nan, UNDECIDED),
    ],
)


@PARTS
def test_more_help_in_a_part_wants_help_there(
    value: float, low: float, high: float, wanted: str
) -> None:
    part, more, less = (
        Interval(value, low, high),
        Interval(0.5, 0.4, 0.6),
        Interval(-0.5, -0.6, -0.4),
    )
    assert verdict(claim_of(ABOVE), more, part) == verdict(claim_of(BELOW), less, -part) == wanted
    for rule, effect, own in ((ABOVE, less, part), (BELOW, more, -part)):
        assert verdict(claim_of(rule), effect, own) == NOT_SUPPORTED


def test_claims_have_names_of_their_own() -> None:
    assert len({claim.name for claim in CLAIMS}) == len({claim.text for claim in CLAIMS})
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)


def test_a_world_as_the_paper_says_supports_its_claims() -> None:
    found = of_both(paper_says)
    unanswered = {
        "deep_narrow",
        "retention",
        "sparsity",
        *(name for name in found if name.startswith("text_")),
    }
    for name in set(found) - unanswered - {"stability"}:
        assert found[name].verdict == SUPPORTED, name
    assert {found[name].verdict for name in unanswered} == {UNDECIDED}
    assert found["drop_wave_above_all"].effect.value == pytest.approx(0.3 - 0.5, abs=0.03)
    assert found["heterogeneous"].effect.value == pytest.approx(0.01 / 6 - 1.1 / 3, abs=0.03)


def test_two_networks_answer_the_claim_on_depth_alone() -> None:
    frame = study(paper_says, depths=(8, 32))
    found = answers(frame)
    assert found["deep_narrow"].verdict == SUPPORTED
    assert found["deep_narrow"].effect.value == pytest.approx(-0.1, abs=0.02)
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
    assert found.effect.value == pytest.approx(rival - 0.3, abs=0.03)
    assert "the closest of 8 others: Griewank" in found.remark
    assert {run.split("-")[2] for run in found.runs} == {"drop_wave", "griewank"}


def test_a_mean_says_how_far_the_functions_agree() -> None:
    def gain(function: str, method: str, depth: float, seed: int) -> float:
        return {"levy": 2.0, "matyas": -0.3}.get(function, 0.05) * (method == QUERYABLE)

    found = only(study(gain, noise=0.0), "held_out")
    ends = f"{math.exp(-2.0):.3f} (Levy) to {math.exp(0.3):.2f} (Matyas)"
    assert f"below 1 on 8 of 9 functions, {ends}" in found.remark


def all_of(gain: float) -> Gain:
    """`gain` of queryable LoRA on every function."""
    return lambda function, method, depth, seed: gain * (method == QUERYABLE)


@pytest.mark.parametrize(
    ("tested", "fitted", "fit", "kept"),
    [
        (0.1, 0.1, SUPPORTED, SUPPORTED),
        (0.0, 0.1, SUPPORTED, NOT_SUPPORTED),  # fits better, and does not generalise better
        (0.1, 0.0, NOT_SUPPORTED, UNDECIDED),  # nothing was gained that could be kept
        (0.0, 0.0, NOT_SUPPORTED, UNDECIDED),
        (0.2, 0.1, SUPPORTED, SUPPORTED),  # more than kept
    ],
)
def test_what_fits_better_need_not_generalise_better(
    tested: float, fitted: float, fit: str, kept: str
) -> None:
    found = answers(study(all_of(tested), all_of(fitted), noise=0.002))
    assert found["fit"].verdict == fit
    assert found["fit_kept"].verdict == kept
    assert found["held_out"].verdict == (SUPPORTED if tested else NOT_SUPPORTED)
    shrunk = 1 / (1 + FLOOR / math.exp(-3))  # the noise that both losses hold
    assert found["fit"].effect.value == pytest.approx(-fitted, abs=0.01)
    assert found["fit_kept"].effect.value == pytest.approx(shrunk * (fitted - tested), abs=0.01)


def test_the_gap_is_that_of_tables_1_and_2() -> None:
    frame = study(paper_says, nothing, noise=0.3)
    own = only(frame, "fit_kept")
    logs = np.log(frame.set_index(["function", "seed", "method"])[["test_loss", "post_train_loss"]])
    logs = logs.xs(QUERYABLE, level="method") - logs.xs("lora", level="method")
    gap = (logs["test_loss"] - logs["post_train_loss"]).groupby("function").mean()
    assert own.effect.value == pytest.approx(gap.mean())


def test_effects_are_decided_without_the_noise() -> None:
    """Noise that is a hundred times the error hides a gain of a fifth."""
    frame = study(all_of(math.log(1.25)), noise=0.001)
    for name in ("test_loss", "validation_loss", "post_train_loss"):
        frame[name] += 10.0
    frame["frozen_validation_loss"] += 10.0
    own = only(frame, "held_out")
    assert own.verdict == SUPPORTED
    assert own.effect.value == pytest.approx(-math.log(1.25), abs=1e-3)
    assert own.remark.startswith("with the noise 0.999;")
    assert only(frame, "fit").verdict == NOT_SUPPORTED


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
    losses = frame.set_index(["function", "method", "seed"])["test_loss_clean"].sort_index()
    ratios = {
        function: np.log(losses[function, QUERYABLE] / losses[function, "lora"]).to_numpy()
        for function in NINE
    }
    oracle = scipy_stats.ttest_1samp(ratios["drop_wave"], 0.0)
    effect = found["drop_wave"].effect
    assert effect.value == pytest.approx(ratios["drop_wave"].mean())
    assert (effect.low, effect.high) == pytest.approx(tuple(oracle.confidence_interval(0.95)))
    assert found["held_out"].effect.value == pytest.approx(
        np.mean([values.mean() for values in ratios.values()])
    )
    noisy = frame.set_index(["function", "method", "seed"])["test_loss"].sort_index()
    noisy_ratio = scipy_stats.gmean(
        [noisy[function, QUERYABLE] / noisy[function, "lora"] for function in NINE], axis=None
    )
    assert f"with the noise {number(noisy_ratio)};" in found["held_out"].remark
    spreads = [
        math.log(np.log(losses[function, QUERYABLE]).std() / np.log(losses[function, "lora"]).std())
        for function in NINE
    ]
    oracle = scipy_stats.ttest_1samp(spreads, 0.0).confidence_interval(0.95)
    effect = found["stability"].effect
    assert (effect.low, effect.high) == pytest.approx(tuple(oracle))


def test_only_the_cells_behind_an_answer_are_named() -> None:
    found = answers(study(paper_says))
    assert set(found["drop_wave"].runs) == {
        f"lora_r4-8-drop_wave-{method}-{seed}"
        for method in ("lora", QUERYABLE)
        for seed in range(4)
    }
    assert len(found["held_out"].runs) == 2 * 4 * len(NINE)
    assert not any("hyra" in run for a in found.values() for run in a.runs)


def test_functions_that_cannot_be_learnt_are_left_out() -> None:
    frame = study(paper_says, budgets=("equal_rank", "lora_r4"))
    unlearnt = (
        (frame["function"] == "drop_wave") & (frame["method"] == "full") & (frame["seed"] == 2)
    )
    frame.loc[unlearnt & (frame["budget"] == "equal_rank"), "learnt_r2"] = -0.2
    found = answers(frame)
    assert found["drop_wave"].verdict == UNDECIDED
    assert "no usable pair of runs on Drop-Wave" in found["drop_wave"].remark
    assert found["drop_wave_above_all"].verdict == UNDECIDED
    assert not any("drop_wave" in run for a in found.values() for run in a.runs)
    assert found["held_out"].effect.value == pytest.approx(-0.61 / 8, abs=0.02)


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
    frame = diverged(frame, place)
    found = answers(frame)
    assert found["drop_wave"].verdict == UNDECIDED
    assert found["drop_wave"].effect.value == math.inf
    assert found["fit"].verdict == UNDECIDED
    assert found["fit_kept"].verdict == SUPPORTED  # of the runs that are left
    assert "without diverged runs (1/36, 0/36 of the two methods)" in found["fit_kept"].remark
    assert found["held_out"].verdict == UNDECIDED
    assert "queryable 1/36, lora 0/36" in found["stability"].remark
    found = answers(diverged(frame, frame["method"] == QUERYABLE))
    assert found["held_out"].verdict == NOT_SUPPORTED
    assert found["fit"].verdict == NOT_SUPPORTED
    assert found["fit_kept"].verdict == UNDECIDED
    assert "no finished pair" in found["fit_kept"].remark
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


def test_blocks_are_answered_apart() -> None:
    frame = study(nothing, noise=0.001, budgets=("equal_rank", "lora_r4"))
    gained = (frame["budget"] == "equal_rank") & (frame["method"] == QUERYABLE)
    frame.loc[gained, "test_loss_clean"] *= 0.5
    assert answers(frame, budget="equal_rank")["held_out"].verdict == SUPPORTED
    assert answers(frame, budget="lora_r4")["held_out"].verdict == NOT_SUPPORTED


def test_the_table_holds_every_answer() -> None:
    found = answer(study(paper_says), flat_norms)
    rows = table(found)
    assert list(rows["answer"]) == [own.verdict for own in found]
    assert {SUPPORTED, UNDECIDED} <= set(rows["answer"])
    assert rows["runs"].str.split().str.len().tolist() == [len(own.runs) for own in found]
    rows = rows.set_index("claim")
    assert set(rows.loc[["held_out", "drop_wave"], "seeds"]) == {4}
    assert rows.loc[["stability", "deep_narrow"], "seeds"].isna().all()
    assert rows["detectable"].isna().equals(rows["seeds"].isna())


def test_what_could_be_shown_stands_beside_every_answer() -> None:
    frame, name = study(nothing, noise=0.05), "held_out"
    (own,) = answer(frame, claims=[claim for claim in CLAIMS if claim.name == name])
    (row,) = table([own]).itertuples()
    pairs = frame.set_index(["function", "seed", "method"])["test_loss_clean"].unstack()
    logs = np.log(pairs[QUERYABLE] / pairs["lora"]).unstack()
    weights = [1 / 9] * 9
    found = precision(list(logs.to_numpy()), weights)
    assert found is not None
    assert row.detectable == pytest.approx(found.detectable())
    assert row.seeds == 4
    assert row.seeds_wanted == found.seeds_for(math.log(1.02))
    assert found.error == pytest.approx(math.sqrt((logs.var(axis=1, ddof=1) / 4).sum()) / 9)
    printed = grid([own], with_columns(frame), UNTUNED, "mine", "claims", "the paper")
    ((texts,),) = (section.rows for section in printed.sections)
    cells = dict(zip(printed.headers, (text.text for text in texts), strict=True))
    assert cells["could show"] == number(math.exp(-row.detectable))
    assert cells["seeds"] == str(row.seeds_wanted)
    assert cells["wanted"] == "at most 0.98"
    (note,) = (note for note in printed.notes if "qlexp" in note)
    assert "qlexp experiment=mine 'seed=range(0,N)'" in note
    once = frame[frame["seed"] == 0]
    (own,) = answer(once, claims=[claim for claim in CLAIMS if claim.name == name])
    printed = grid([own], with_columns(once), UNTUNED, "mine", "claims", "the paper")
    assert not any("qlexp" in note for note in printed.notes)
    ((texts,),) = (section.rows for section in printed.sections)
    assert [text.text for text in texts][4:6] == [NO_CELL, NO_CELL]


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [(BELOW, "at most 0.80"), (ABOVE, "at least 1.25"), (LITTLE, "0.80 to 1.25")],
)
def test_what_is_wanted_is_a_ratio_on_the_claimed_side(rule: str, wanted: str) -> None:
    frame = study(nothing, noise=0.05)
    claim = replace(CLAIMS[0], rule=rule, smallest=1.25)
    found = answer(frame, claims=[claim])
    printed = grid(found, with_columns(frame), UNTUNED, "mine", "claims", "the paper")
    texts = [text.text for text in printed.sections[0].rows[0]]
    assert texts[6] == wanted
    assert (float(texts[4]) > 1) == (rule == ABOVE)


def test_an_adapter_of_several_targets_answers_no_claim_on_one() -> None:
    found = answers(study(nothing, targets=5))
    for name in ("held_out", "drop_wave", "heterogeneous", "little_ackley", "stability"):
        assert found[name].verdict == UNDECIDED
        assert "several targets an adapter" in found[name].remark


def test_less_harm_is_no_help() -> None:
    def gain(function: str, method: str, depth: float, seed: int) -> float:
        return {True: -0.2, False: -0.05}[function in SMOOTH] * (method == QUERYABLE)

    own = only(study(gain), "heterogeneous")
    assert own.effect.high < 0
    assert own.verdict == UNDECIDED
    assert "the ratio in that part itself: 1.05" in own.remark
