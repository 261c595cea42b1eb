"""What the benchmarks time: one training step (forward, backward, clipping, AdamW) in its forms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from benchmarks.peft_twin import trainable, with_peft_lora
from qlexp.adapters.base import Adapter, LowRankConfig
from qlexp.adapters.stored import build_adapter
from qlexp.cell import configure
from qlexp.config.schema import BackboneConfig, Config
from qlexp.model.backbone import COORDINATES, Backbone, linear_shapes
from qlexp.model.evaluate import Samples
from qlexp.model.initial import Draw
from qlexp.train.compilation import compiled_apart
from qlexp.train.loop import LossFunction, lane_losses, update_lanes

Call = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """The size of a step.

    `atoms`, `key_dim` and `block_size` matter to the queryable adapters only.
    """

    depth: int = 8
    width: int = 32
    rows: int = 256
    rank: int = 4
    lanes: int = 9
    atoms: int = 16
    key_dim: int | None = None
    block_size: int = 2
    device: str = "cpu"

    @property
    def backbone(self) -> BackboneConfig:
        return BackboneConfig(depth=self.depth, width=self.width)

    def solo(self) -> "Setting":
        return replace(self, lanes=1)

    def configs(self, method: str) -> list[Config]:
        """`conf/method/<method>.yaml` at this size, a lane each; a method with a rank takes ours.

        Raises:
            UsageError: there is no such method, or it does not fit the size.
        """
        rank = [f"budget.rank={self.rank}", "budget.by=rank", "budget.enforce=false"]
        config = configure([f"method={method}", *rank, "tracking=none"])
        own = config.method.config
        shared = ("atoms", "key_dim", "block_size")
        own = replace(own, **{key: getattr(self, key) for key in shared if hasattr(own, key)})
        own.check(self.backbone)
        config = replace(config, backbone=self.backbone, method=replace(config.method, config=own))
        return [replace(config, seed=lane) for lane in range(self.lanes)]

    def samples(self, instruction_size: int | None = None) -> Samples:
        """Points (L, rows, 2), values (L, rows), and e(z) (L, rows, d_e) where there is a d_e."""
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(self.lanes, self.rows, COORDINATES, generator=generator) * 2 - 1
        y = torch.randn(self.lanes, self.rows, generator=generator)
        instruction = None
        if instruction_size is not None:
            instruction = torch.randn(self.lanes, self.rows, instruction_size, generator=generator)
            instruction = instruction.to(self.device)
        return Samples(x.to(self.device), y.to(self.device), instruction)


def adapter(setting: Setting, configs: Sequence[Config]) -> Adapter:
    """The method of `configs` on a fresh backbone."""
    backbone = Backbone(setting.backbone, Draw(range(setting.lanes)))
    return build_adapter(configs, backbone.to(setting.device))


def lane_step(setting: Setting, method: str, compiled: bool) -> Call:
    """The step of the training loop itself, `setting.lanes` lanes in lockstep."""
    configs = setting.configs(method)
    model = adapter(setting, configs)
    batch = setting.samples(configs[0].method.config.instruction_size)
    parameters = list(model.trainable().values())
    rates = torch.full((setting.lanes,), 1e-4, device=setting.device)
    alive = torch.ones(setting.lanes, dtype=torch.bool, device=setting.device)
    component = configs[0].optimizer
    optimizer = component.kind(parameters, lr=rates, config=component.config)
    losses: LossFunction = lane_losses
    if compiled:
        losses = compiled_apart(lane_losses, batch.x.device)
    return lambda: update_lanes(model, parameters, batch, rates, alive, 1.0, optimizer, losses)


def peft_step(setting: Setting) -> Call:
    """A step of one run, eager, the same network under peft's LoRA; checked to be the same."""
    solo = setting.solo()
    backbone = Backbone(solo.backbone, Draw([0])).to(solo.device)
    batch = solo.samples()
    x, y = batch.x, batch.y
    expected = backbone(x).detach()[0]
    config = LowRankConfig(rank=solo.rank, alpha=2.0 * solo.rank)
    model: nn.Module = with_peft_lora(backbone, 0, config, dora=False).to(solo.device)
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4)
    parameters = trainable(model)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def call() -> None:
        optimizer.zero_grad()
        (model(x) - y[0]).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return call


def backbone_gemms(setting: Setting) -> Call:
    """Forward and input-gradient products of every frozen linear."""
    rows = setting.rows * COORDINATES
    lanes, device = setting.lanes, setting.device
    products = [
        (
            torch.randn(lanes, rows, d_in, device=device),
            torch.randn(lanes, rows, d_out, device=device),
            torch.randn(lanes, d_out, d_in, device=device),
        )
        for d_out, d_in in linear_shapes(setting.backbone).values()
    ]

    def call() -> None:
        for layer in range(setting.depth):
            for index, (h, gradient, weight) in enumerate(products):
                torch.bmm(h, weight.mT)
                if layer + index:  # nothing trains before the first linear
                    torch.bmm(gradient, weight)

    return call


def operations(setting: Setting) -> tuple[int, int]:
    """Floating-point operations a step: of the frozen linears, and of LoRA's own products."""
    rows = setting.lanes * setting.rows * COORDINATES
    shapes = list(linear_shapes(setting.backbone).values()) * setting.depth
    frozen = sum(4 * rows * d_out * d_in for d_out, d_in in shapes)
    d_out, d_in = shapes[0]
    frozen -= 2 * rows * d_out * d_in  # nothing trains before the first linear
    adapters = sum(6 * rows * setting.rank * (d_out + d_in) for d_out, d_in in shapes)
    return frozen, adapters
