"""How long a stage trains, and at which learning rates."""

import math

from qlexp.config.schema import Config, StageConfig


def batches_per_epoch(samples: int, batch_size: int | None) -> int:
    """An epoch is cut into equal batches of at most `batch_size`; a remainder sits it out."""
    return 1 if batch_size is None else math.ceil(samples / batch_size)


def schedule_factor(stage: StageConfig, step: int, steps: int) -> float:
    """The learning rate of update `step` over its peak: linear warm-up, then `stage.schedule`."""
    warmup = round(stage.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    if stage.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def updates(config: Config, stage: str) -> int:
    """How many updates a stage of one run takes."""
    if stage == "adapt" and not config.method.kind.trains:
        return 0
    settings: StageConfig = getattr(config.trainer, stage)
    if stage == "pretrain":
        return settings.epochs * batches_per_epoch(config.data.pretrain, settings.batch_size)
    updates = settings.epochs * batches_per_epoch(config.data.adapt, settings.batch_size)
    return config.shift.tasks * updates
