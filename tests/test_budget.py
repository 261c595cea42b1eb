"""Counts of the documented sizes, refusals outside the budget, and the rank of an equal count."""

from copy import deepcopy
from dataclasses import replace

import pytest
from build import METHODS, TINY, composed, of_method

from qlexp.adapters.base import LowRankConfig, count_trainable
from qlexp.adapters.lora import LoRA
from qlexp.backbone import linear_shapes
from qlexp.budget import reference_count, trainable_count, with_budget
from qlexp.config import BudgetConfig, Component, Config
from qlexp.errors import UsageError

RANKED = [name for name in METHODS if hasattr(of_method(name).method.config, "rank")]
NEAR_LORA = [name for name in RANKED if of_method(name).method.kind.near_lora]


def sized(config: Config, rank: int) -> Config:
    """`config` at another rank, scale and all else kept."""
    method = replace(config.method.config, rank=rank, alpha=config.method.config.scale * rank)
    return replace(config, method=Component(config.method.kind, method))


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (["backbone=paper", "method=lora", "method.rank=8"], 262_144),
        (["backbone=small", "method=lora", "method.rank=4"], 16_384),
        (["backbone=small", "method=queryable", "method.rank=4"], 16_384 + 416),
        (
            [
                "backbone=paper",
                "method=queryable",
                "method.rank=8",
                "method.atoms=32",
                "method.key_dim=32",
            ],
            262_144 + 4_000,
        ),
    ],
)
def test_documented_counts(overrides: list[str], count: int) -> None:
    config = composed(*overrides)
    assert trainable_count(config) == count
    assert with_budget(config) == config


def test_lora_is_counted_by_its_shapes() -> None:
    for rank in (1, 3):
        for targets in (["qkv"], ["out", "down"]):
            expected = rank * TINY.depth * sum(sum(linear_shapes(TINY)[t]) for t in targets)
            config = LowRankConfig(targets=targets, rank=rank)
            assert count_trainable(LoRA, config, TINY) == expected


@pytest.mark.parametrize("name", NEAR_LORA)
def test_a_count_far_from_loras_is_refused_with_both(name: str) -> None:
    config = of_method(name)  # on the tiny network the shared parts weigh more than 10 %
    own, reference = trainable_count(config), reference_count(config)
    assert reference is not None
    assert own > 1.1 * reference
    with pytest.raises(UsageError, match=f"{own:,} .*LoRA {reference:,} .*budget.enforce=false"):
        with_budget(config)
    free = replace(config, budget=BudgetConfig(enforce=False))
    assert with_budget(free) == free
    lenient = replace(config, budget=BudgetConfig(tolerance=own / reference - 1 + 1e-9))
    assert with_budget(lenient) == lenient
    strict = replace(config, budget=BudgetConfig(tolerance=own / reference - 1 - 1e-9))
    with pytest.raises(UsageError, match="parameters"):
        with_budget(strict)


@pytest.mark.parametrize("name", RANKED)
@pytest.mark.parametrize("reference", [1, 2, 5])
def test_the_rank_of_an_equal_count_is_the_nearest(name: str, reference: int) -> None:
    config = replace(of_method(name), budget=BudgetConfig(rank=reference, enforce=False))
    wanted = trainable_count(sized(replace(of_method("lora"), backbone=config.backbone), reference))
    ranks = range(1, TINY.width + 1)
    distances = [abs(trainable_count(sized(config, rank)) - wanted) for rank in ranks]
    chosen = with_budget(config)
    rank = chosen.method.config.rank
    assert distances[rank - 1] == min(distances)
    assert chosen.method.config.scale == pytest.approx(config.method.config.scale)
    assert reference_count(chosen) == wanted
    if name == "lora":
        assert rank == reference


@pytest.mark.parametrize("name", [name for name in METHODS if name not in RANKED])
def test_a_method_without_a_rank_is_left_alone(name: str) -> None:
    config = replace(of_method(name), budget=BudgetConfig(rank=2))
    assert with_budget(config) == config
    assert reference_count(config) is None


def test_a_reference_rank_too_large_for_the_network_is_refused() -> None:
    config = replace(of_method("dora"), budget=BudgetConfig(rank=17))
    with pytest.raises(UsageError, match="at most 16"):
        with_budget(config)


def test_a_budget_leaves_its_argument_as_it_was() -> None:
    config = replace(of_method("dora"), budget=BudgetConfig(rank=2))
    before = deepcopy(config)
    assert with_budget(config) != before
    assert config == before
