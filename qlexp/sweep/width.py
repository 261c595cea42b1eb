"""How many lanes fit into the free memory."""

from collections.abc import Sequence

import psutil
import torch

from qlexp.config.schema import Config
from qlexp.environment import pick_device
from qlexp.train.memory import counted_bytes

_SHARE = 0.6  # of the free memory; the rest is for what the count below leaves out
_CPU_BYTES = 2**29  # beyond it a CPU's throughput falls (benchmarks/sweep.py, paper scale)


def free_bytes(device: torch.device) -> int:
    """Memory that can be taken now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def lanes_that_fit(configs: Sequence[Config], stage: str) -> int:
    """The width of a batch of `configs`, which have one shape: at least 1."""
    device = pick_device(configs[0].device)
    needed = counted_bytes(configs[0], stage)
    if needed is None:
        return 1
    free = int(_SHARE * free_bytes(device))
    return max(1, (min(free, _CPU_BYTES) if device.type == "cpu" else free) // needed)
