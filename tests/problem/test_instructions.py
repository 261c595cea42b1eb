"""Texts of targets, their encoding, and one adapter over several targets."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from build import planned

from qlexp.config.identity import run_id
from qlexp.config.schema import Config, FunctionConfig, ShiftConfig
from qlexp.errors import UsageError
from qlexp.problem.encoders import embed, hashing_encoder
from qlexp.problem.instructions import HELD_OUT, TRAINED, describe, encode
from qlexp.problem.targets import problem_of, served_shifts, unseen_shifts
from qlexp.sweep.execute import execute

TINY = (
    "backbone.depth=2",
    "backbone.width=8",
    "backbone.heads=2",
    "backbone.frequencies=2",
    "trainer=smoke",
    "data.pretrain=64",
    "data.adapt=48",
    "data.validation=16",
    "data.test=24",
    "budget.enforce=false",
    "tracking=none",
    "function=ackley",
)

Compose = Callable[..., Config]


@pytest.fixture
def composed(tmp_path: Path) -> Compose:
    return partial(planned, *TINY, f"store={tmp_path}")


def test_every_target_and_wording_has_its_own_text(composed: Compose) -> None:
    config = composed("shift.targets=8")
    texts = {
        describe(config.function, shift, wording)
        for shift in (*served_shifts(config.shift), *unseen_shifts(config.shift))
        for wording in range(TRAINED + HELD_OUT)
    }
    assert len(texts) == 16 * (TRAINED + HELD_OUT)
    named = ShiftConfig(strength=0.2, rotation=15.0, coefficients=["ripple_frequency"])
    assert "ripple frequency raised by 20 %" in describe(config.function, named)
    assert "turned by 15 degrees" in describe(config.function, named)
    assert "unchanged" in describe(config.function, ShiftConfig())


def test_hashed_texts_are_near_where_they_share_words() -> None:
    text, alike, other = "ackley raised by 20 %", "ackley raised by 10 %", "levy turned"
    vectors = hashing_encoder([text, alike, other, ""])
    np.testing.assert_array_equal(vectors, hashing_encoder([text, alike, other, ""]))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 0])
    assert vectors[0] @ vectors[1] > 0.4 > abs(vectors[0] @ vectors[2])


def test_the_map_is_orthonormal_up_to_its_scale() -> None:
    full = hashing_encoder(["one text", "and another"])
    np.testing.assert_allclose(
        embed(["one text", "and another"], "hashing", None, 256) @ np.ones(256),
        embed(["one text", "and another"], "hashing", None, 256).sum(1),
    )
    kept = embed(["one text", "and another"], "hashing", None, full.shape[1])
    np.testing.assert_allclose(kept @ kept.T, full @ full.T, atol=1e-12)
    with pytest.raises(UsageError, match="exceeds the encoder's 256 dimensions"):
        embed(["one text"], "hashing", None, 257)


def test_minilm_tells_targets_apart_better_than_wordings() -> None:
    """The package's own model, without a network: a paraphrase is nearer than another target."""
    function = FunctionConfig(name="ackley", domain=[[-1, 1], [-1, 1]])
    shift, other = (ShiftConfig(strength=s, rotation=r) for s, r in ((0.2, 15.0), (-0.2, 0.0)))
    texts = [
        describe(function, shift),
        describe(function, shift, TRAINED),
        describe(function, other),
    ]
    own, paraphrase, different = embed(texts, "minilm", None, 384)
    np.testing.assert_allclose(embed(texts, "minilm", None, 384)[0], own)
    assert own @ paraphrase / (own @ own) > own @ different / (own @ own) > 0


def test_several_targets_share_the_samples_in_turn(composed: Compose) -> None:
    config = composed("shift.targets=4", "data.noise=0")
    problem = problem_of(config)
    assert len(set(map(str, problem.adapt.shifts))) == 4
    for index, shift in enumerate(problem.adapt.shifts):
        alone = problem_of(
            composed(
                f"shift.strength={shift.strength}",
                f"shift.rotation={shift.rotation}",
                "data.noise=0",
            )
        )
        rows = problem.adapt.target == index
        np.testing.assert_allclose(problem.adapt.y[rows], alone.target(problem.adapt.x[rows]))
    assert not {map(str, problem.adapt.shifts)} & {map(str, problem.unseen.shifts)}


def test_instructions_follow_their_samples(composed: Compose) -> None:
    settings = ("method=instruction_queryable", "shift.targets=4")
    config = composed(*settings)
    split = problem_of(config).adapt
    given, held_out = encode(config, split), encode(config, split, held_out=True)
    assert given is not None
    assert held_out is not None
    assert given.shape == (48, 16)
    assert len(np.unique(given.round(9), axis=0)) == 4 * TRAINED
    assert len(np.unique(held_out.round(9), axis=0)) == 4 * HELD_OUT
    empty = encode(composed(*settings, "instruction.control=empty"), split)
    assert empty is not None
    assert not empty.any()


def test_shuffled_texts_say_nothing_of_their_targets(composed: Compose) -> None:
    settings = ("method=instruction_queryable", "shift.targets=4", "data.adapt=2000")
    config = composed(*settings)
    split = problem_of(config).adapt
    given = encode(config, split)
    shuffled = encode(composed(*settings, "instruction.control=shuffled"), split)
    assert given is not None
    assert shuffled is not None
    texts = np.unique(given.round(9), axis=0)
    assert np.array_equal(np.unique(shuffled.round(9), axis=0), texts)
    of_target = [np.unique(given[split.target == k].round(9), axis=0) for k in range(4)]
    told = np.array(
        [[(np.isclose(row, own).all(1)).any() for own in of_target] for row in shuffled]
    ).argmax(1)
    counts = np.histogram2d(split.target, told, bins=4)[0]
    assert np.array_equal(counts.sum(0), counts.sum(1))
    assert scipy.stats.chi2_contingency(counts).pvalue > 0.001


def test_targets_that_are_not_different_are_refused(composed: Compose) -> None:
    with pytest.raises(UsageError, match="not all different"):
        composed("shift=rotation", "shift.targets=4")
    with pytest.raises(UsageError, match="not all different"):
        composed("shift=coefficients", "shift.targets=5", "shift.order=sequence")
    composed("shift.targets=5", "shift.order=sequence")


def test_only_a_method_that_reads_carries_an_instruction(composed: Compose) -> None:
    assert run_id(composed("instruction=hashing")) == run_id(composed())
    reading = ("method=instruction_queryable", "shift.targets=2")
    assert run_id(composed(*reading)) != run_id(composed(*reading, "instruction.control=empty"))
    with pytest.raises(UsageError, match="choose instruction=hashing"):
        composed(*reading, "instruction=none")
    with pytest.raises(UsageError, match=r"shift\.targets to at least 2"):
        composed("method=query_only", "instruction.control=shuffled")
    with pytest.raises(UsageError, match="make them equal"):
        composed(*reading, "method.instruction_dim=8")


def test_a_run_reports_unseen_targets_and_held_out_wordings(composed: Compose) -> None:
    methods = ("instruction_queryable", "queryable")
    runs = execute([composed(f"method={method}", "shift.targets=4") for method in methods])
    reading, plain = runs
    assert reading["unseen_loss"] > 0
    assert reading["paraphrased_loss"] > 0
    assert reading["paraphrased_loss"] != reading["test_loss"]
    assert plain["unseen_loss"] > 0
    assert plain["paraphrased_loss"] is None
    assert execute([composed()])[0]["unseen_loss"] is None
