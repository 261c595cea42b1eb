"""How many lanes fit into the free memory."""

import logging
from collections.abc import Sequence

import psutil
import torch

from qlexp.config.schema import Config
from qlexp.environment import pick_device
from qlexp.train.memory import lane_bytes

log = logging.getLogger(__name__)

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
    try:
        needed = lane_bytes(configs[0], stage)
    except Exception as error:  # a method may fail on the meta device, or anywhere
        log.warning("the memory of a run cannot be counted (%s): one run at a time", error)
        return 1
    free = int(_SHARE * free_bytes(device))
    return max(1, (min(free, _CPU_BYTES) if device.type == "cpu" else free) // needed)
