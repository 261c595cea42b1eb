"""Claims on gradient norms, texts, tasks in sequence and atoms; the truth is planted."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from made_up import DECIDING
from planted import answers, diverged, jitter, nothing, only, sequence, study, used
from random_tables import named

from analysis.claims.rules import NOT_SUPPORTED, SUPPORTED, UNDECIDED
from analysis.claims.traces import evenness, larger, larger_later, larger_there
from analysis.paper.claims import QUERYABLE
from analysis.stats.intervals import Interval


def test_norms_that_are_alike_are_not_larger() -> None:
    draw = np.random.default_rng(0)

    def norms(run_id: str) -> np.ndarray:
        return np.array([1.0, 2.0, 3.0]) * draw.uniform(0.999, 1.001, 3)

    found = answers(study(nothing, targets=8), norms)
    assert {a.verdict for name, a in found.items() if "gradients" in name} == {NOT_SUPPORTED}


def test_measures_of_gradient_norms() -> None:
    one, other = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), np.full(6, 2.0)
    assert larger(one, other) == pytest.approx(math.log(3.5 / 2))
    assert larger_later(one, other) == pytest.approx(math.log(4.5 / 2) - math.log(1.5 / 2))
    assert evenness(one, 2 * one) == 0.0
    assert evenness(other, one) == -math.inf
    assert evenness(one + 1, one) < 0
    for measure in (larger, larger_later, larger_there, evenness):
        assert measure(other + one, one) == pytest.approx(-measure(one, other + one))


def test_norms_that_shrink_less_later_are_not_larger_there() -> None:
    def norms(run_id: str) -> np.ndarray:
        return np.array([0.2, 0.8, 0.8] if "instruction" in run_id else [1.0, 1.0, 1.0])

    own = only(study(nothing, targets=8), "gradients_later_lora", norms)
    assert own.effect.value == pytest.approx(math.log(4.0))
    assert own.verdict == UNDECIDED
    assert "the ratio in that part itself: 0.800" in own.remark


def test_a_sequence_of_tasks_answers_the_continual_claims() -> None:
    frame = study(nothing)
    rows = []
    for cell in frame.itertuples():
        grown = 0.2 if cell.method == "lora" else 0.1
        final = [grown * jitter(cell), grown, 0.05]
        rows.append(json.dumps([[1, 1, 1], [0.05, 1, 1], [0.1, 0.05, 1], final]))
    found = answers(frame.assign(task_losses=rows, atom_usage=used(frame, 0.5)))
    assert found["retention"].verdict == SUPPORTED
    assert found["retention"].effect.value == pytest.approx(-math.log(2), abs=0.02)
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
    assert found["retention"].effect == Interval(math.inf, math.inf, math.inf)
    assert found["retention"].verdict == NOT_SUPPORTED


@pytest.mark.parametrize(
    ("lost", "value"), [([QUERYABLE], math.inf), (["lora"], -math.inf), ([QUERYABLE, "lora"], 0.0)]
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


def controlled(**gains: float) -> pd.DataFrame:
    """A study of instructions; `gains` are the log ratios of each control's loss over that with
    the own text, by loss and control."""
    frame = study(nothing, targets=8)
    own = frame[frame["method"] == "instruction_queryable"]
    parts = [frame[frame["method"] != "instruction_queryable"]]
    for control in ("matched", "shuffled", "empty"):
        losses = {
            loss: own[DECIDING] * math.exp(gains.get(f"{name}_{control}", 0.0))
            for name, loss in (
                ("test", DECIDING),
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
    effects = {name: -a.effect.value for name, a in found.items() if name.startswith("text_")}
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
    assert found.effect == Interval(-math.inf, -math.inf, -math.inf)
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
