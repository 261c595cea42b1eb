"""What a run holds in memory, counted without running it."""

import logging

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from qlexp.config.schedule import batches_per_epoch
from qlexp.config.schema import Config
from qlexp.model.backbone import COORDINATES, Backbone
from qlexp.model.initial import Shapes
from qlexp.model.precision import precision_of
from qlexp.train.loop import lane_losses

log = logging.getLogger(__name__)


def counted_bytes(config: Config, stage: str) -> int | None:
    """`lane_bytes`; None, and a warning, for a method that cannot be counted."""
    try:
        return lane_bytes(config, stage)
    except Exception as error:  # a method may fail on the meta device, or anywhere
        log.warning("the memory of a run cannot be counted (%s): one run at a time", error)
        return None


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
