"""What `precision` means: the parameters' type, and how products are taken."""

from contextlib import AbstractContextManager, nullcontext

import torch

from qlexp.config.schema import Config


def precision_of(config: Config, stage: str) -> str:
    """The precision in which a stage computes: `config.precision`, or float64 where less would let
    a run's numbers depend on the batch that it shares.

    Backbones are pretrained in float64 and stored in float32: the order of a sum moves their
    weights by some 1e-13, which rounding removes but where a weight lies that near to the middle of
    two float32 numbers, about once in a million. So all runs of a cell start from the same weights,
    whatever their precision, batch and number of threads. An optimiser may ask for it too
    (`LaneOptimizer.needs_float64`).
    """
    if stage == "pretrain" or config.optimizer.kind.needs_float64:
        return "float64"
    return config.precision


def dtype_of(precision: str) -> torch.dtype:
    """The type that parameters and losses are kept in."""
    return torch.float64 if precision == "float64" else torch.float32


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager:
    """The context in which a model runs: bfloat16 takes its products in that type.

    `tf32` allows float32 products to round their inputs to 10 bits where the hardware offers it;
    every other precision forbids it.
    """
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    if precision == "bfloat16":
        # A cast that is kept would outlive the update that changes its weight.
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
    return nullcontext()
