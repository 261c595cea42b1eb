"""Counts of the documented sizes, refusals outside the budget, and the rank of an equal count."""

from copy import deepcopy
from dataclasses import replace

import pytest
from build import METHODS, TINY, composed, of_method

from qlexp.adapters.base import LowRankConfig, count_trainable
from qlexp.adapters.budget import reference_count, trainable_count, with_budget
from qlexp.adapters.lora import LoRA
from qlexp.config.schema import BackboneConfig, BudgetConfig
from qlexp.errors import UsageError
from qlexp.model.backbone import linear_shapes

SMALL = BackboneConfig(depth=2, width=8, heads=2, mlp_ratio=2, frequencies=2)
SIZED = [name for name in METHODS if of_method(name).method.config.sized_by is not None]
NEAR_LORA = [name for name in SIZED if of_method(name).method.kind.near_lora]
LOW_RANK = [name for name in SIZED if isinstance(of_method(name).method.config, LowRankConfig)]


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


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize("reference", [1, 2, 5])
def test_the_size_of_an_equal_count_is_the_nearest(name: str, reference: int) -> None:
    config = replace(of_method(name, SMALL), budget=BudgetConfig(rank=reference, enforce=False))
    method = config.method.config
    wanted = count_trainable(LoRA, LowRankConfig(rank=reference), SMALL)
    distances = {
        size: abs(count_trainable(config.method.kind, method.sized(size), SMALL) - wanted)
        for size in method.sizes(SMALL)
    }
    chosen = with_budget(config)
    size = getattr(chosen.method.config, method.sized_by)
    assert distances[size] == min(distances.values())
    assert chosen.method.config == method.sized(size)
    assert reference_count(chosen) == wanted
    if name == "lora":
        assert size == reference


@pytest.mark.parametrize("name", SIZED)
def test_counts_grow_with_the_size(name: str) -> None:
    config = of_method(name, SMALL)
    method = config.method.config
    sizes = method.sizes(SMALL)
    counts = [count_trainable(config.method.kind, method.sized(size), SMALL) for size in sizes]
    assert counts == sorted(counts)


@pytest.mark.parametrize("name", LOW_RANK)
@pytest.mark.parametrize("rank", [1, 3])
def test_an_equal_rank_is_taken_as_it_is(name: str, rank: int) -> None:
    config = of_method(name, SMALL)
    by_rank = BudgetConfig(rank=rank, by="rank", enforce=False)
    chosen = with_budget(replace(config, budget=by_rank)).method.config
    assert chosen.rank == rank
    assert chosen == config.method.config.ranked(rank)
    large = BudgetConfig(rank=9, by="rank", enforce=False)
    with pytest.raises(UsageError, match="at most 8"):
        with_budget(replace(config, budget=large))


def test_the_scale_is_kept_with_the_size() -> None:
    config = LowRankConfig(rank=4, alpha=6.0)
    assert config.sized(10).scale == pytest.approx(config.scale)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in SIZED])
def test_a_method_without_a_size_is_left_alone(name: str) -> None:
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
