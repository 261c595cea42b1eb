"""Equal footing: a method's trainable parameters held against LoRA's.

`budget.rank` asks for equal counts: the method takes the rank whose count is nearest to LoRA's at
that rank, with alpha scaled along so that alpha / rank stays what it was. Without it every method
keeps its own rank. A method that promises to stay near LoRA (`Adapter.near_lora`) is refused
outside `budget.tolerance`.
"""

from dataclasses import replace

from qlexp.adapters.base import Adapter, LowRankConfig, count_trainable
from qlexp.adapters.lora import LoRA
from qlexp.backbone import linear_shapes
from qlexp.config import BackboneConfig, BudgetConfig, Component, Config
from qlexp.errors import UsageError


def with_budget(config: Config) -> Config:
    """`config` with its method sized to `config.budget`.

    Raises:
        UsageError: the method must stay near LoRA's count and does not.
    """
    method = config.method.config
    if not isinstance(method, LowRankConfig):
        return config
    if config.budget.rank is not None:
        method = _nearest(config.method.kind, method, config.backbone, config.budget.rank)
        config = replace(config, method=Component(config.method.kind, method))
    if config.budget.enforce and config.method.kind.near_lora:
        _enforce(config, config.budget)
    return config


def reference_count(config: Config) -> int | None:
    """LoRA's trainable parameters at the reference rank; None for a method without a rank."""
    method = config.method.config
    if not isinstance(method, LowRankConfig):
        return None
    return _lora_count(method, config.backbone, config.budget.rank or method.rank)


def trainable_count(config: Config) -> int:
    """The method's own trainable parameters."""
    return count_trainable(config.method.kind, config.method.config, config.backbone)


def _enforce(config: Config, budget: BudgetConfig) -> None:
    own, reference = trainable_count(config), reference_count(config)
    assert reference is not None
    if abs(own - reference) > budget.tolerance * reference:
        raise UsageError(
            f"{config.method.name} has {own:,} trainable parameters, LoRA {reference:,} at the "
            f"reference rank: more than {budget.tolerance:.0%} apart. Choose fewer atoms or a "
            "smaller key_dim, or set budget.enforce=false for an ablation; its row is then marked."
        )


def _lora_count(method: LowRankConfig, backbone: BackboneConfig, rank: int) -> int:
    lora = LowRankConfig(name="lora", targets=method.targets, rank=rank)
    lora.check(backbone)
    return count_trainable(LoRA, lora, backbone)


def _nearest(
    kind: type[Adapter], method: LowRankConfig, backbone: BackboneConfig, reference_rank: int
) -> LowRankConfig:
    """`method` at the rank whose count is nearest to LoRA's at `reference_rank`."""
    wanted = _lora_count(method, backbone, reference_rank)
    largest = min(min(linear_shapes(backbone)[target]) for target in method.targets)
    best, best_distance = method, None
    for rank in range(1, largest + 1):
        sized = replace(method, rank=rank, alpha=method.scale * rank)
        distance = abs(count_trainable(kind, sized, backbone) - wanted)
        if best_distance is not None and distance > best_distance:
            break  # counts grow with the rank
        if best_distance is None or distance < best_distance:
            best, best_distance = sized, distance
    return best
