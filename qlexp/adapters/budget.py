"""Equal footing: a method's trainable parameters held against LoRA's.

`budget.rank` names LoRA's rank to match. By count: the field that a method is sized by (its rank,
or the length of its bank) takes the value whose count is nearest to LoRA's. By rank: a method that
has a rank takes that one. Either way alpha is scaled along, so that alpha / rank stays what it was.
Without `budget.rank` every method keeps its own size. A method that promises to stay near LoRA
(`Adapter.near_lora`) is refused outside `budget.tolerance`.
"""

from bisect import bisect_left
from dataclasses import replace

from qlexp.adapters.base import Adapter, AdapterConfig, LowRankConfig, count_trainable
from qlexp.adapters.lora import LoRA
from qlexp.config.schema import BackboneConfig, BudgetConfig, Component, Config
from qlexp.errors import UsageError


def with_budget(config: Config) -> Config:
    """`config` with its method sized to `config.budget`.

    Raises:
        UsageError: the method must stay near LoRA's count and does not.
    """
    method = config.method.config
    if method.sized_by is None:
        return config
    if config.budget.rank is not None:
        if config.budget.by == "count":
            method = _nearest(config.method.kind, method, config.backbone, config.budget.rank)
        elif isinstance(method, LowRankConfig):
            method = method.ranked(config.budget.rank)
            method.check(config.backbone)
        config = replace(config, method=Component(config.method.kind, method))
    if config.budget.enforce and config.method.kind.near_lora:
        _enforce(config, config.budget)
    return config


def reference_count(config: Config) -> int | None:
    """LoRA's trainable parameters at the reference rank; None where there is no such rank.

    It is `budget.rank`, and without it the method's own rank where that means what LoRA's does.
    """
    method = config.method.config
    if method.sized_by is None:
        return None
    rank = config.budget.rank or (method.rank if isinstance(method, LowRankConfig) else None)
    return None if rank is None else _lora_count(method, config.backbone, rank)


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


def _lora_count(method: AdapterConfig, backbone: BackboneConfig, rank: int) -> int:
    lora = LowRankConfig(name="lora", targets=method.targets, rank=rank)
    lora.check(backbone)
    return count_trainable(LoRA, lora, backbone)


def _nearest(
    kind: type[Adapter], method: AdapterConfig, backbone: BackboneConfig, reference_rank: int
) -> AdapterConfig:
    """`method` at the size whose count is nearest to LoRA's at `reference_rank`."""
    wanted = _lora_count(method, backbone, reference_rank)
    sizes = method.sizes(backbone)

    def count(size: int) -> int:
        return count_trainable(kind, method.sized(size), backbone)

    enough = bisect_left(sizes, wanted, key=count)
    around = sizes[max(enough - 1, 0) : enough + 1]
    return method.sized(min(around, key=lambda size: abs(count(size) - wanted)))
