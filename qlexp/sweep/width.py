"""How many lanes fit into the free memory."""

import logging
from collections.abc import Sequence

import psutil
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from qlexp.config.schedule import batches_per_epoch
from qlexp.config.schema import Config
from qlexp.environment import pick_device
from qlexp.model.backbone import COORDINATES, Backbone
from qlexp.model.initial import Shapes
from qlexp.model.precision import precision_of
from qlexp.train.loop import lane_losses

log = logging.getLogger(__name__)

_SHARE = 0.6  # of the free memory; the rest is for what the count below leaves out
_CPU_BYTES = 2**29  # beyond it a CPU's throughput falls (benchmarks/sweep.py, paper scale)


def free_bytes(device: torch.device) -> int:
    """Memory that can be taken now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def lane_bytes(config: Config, stage: str) -> int:
    """What one lane of a stage holds at once, counted on the meta device: nothing is computed.

    Weights, gradients, the optimiser's state, and the activations that the backward pass keeps.
    """
    backbone = Backbone(config.backbone, Shapes())
    backbone.recompute = config.recompute
    model: torch.nn.Module = backbone
    samples, settings = config.data.pretrain, config.trainer.pretrain
    if stage == "adapt":
        model = config.method.kind(backbone, config.method.config, Shapes())
        samples, settings = config.data.adapt, config.trainer.adapt
    rows = samples // batches_per_epoch(samples, settings.batch_size)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    model = model.to("meta")
    points = torch.empty(1, rows, COORDINATES, device="meta")
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        values, size = torch.empty(1, rows, device="meta"), config.method.config.instruction_size
        texts = None if size is None else torch.empty(1, rows, size, device="meta")
        losses = lane_losses(model, points, values, texts)
    del losses
    element = 2 if precision_of(config, stage) == "float64" else 1
    optimizer = config.optimizer if stage == "adapt" else config.pretrain_optimizer
    weights = 0
    for p in model.parameters():
        weights += p.nbytes
        if p.requires_grad:
            state = optimizer.kind.state_numel(tuple(p.shape[1:]), optimizer.config)
            weights += p.nbytes + state * p.element_size()
    return element * (sum(kept.values()) + weights)


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
