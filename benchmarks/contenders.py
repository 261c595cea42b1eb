"""What the benchmarks time: one training step (forward, backward, clipping, AdamW) in its forms."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmarks.peft_twin import trainable, with_peft_lora
from qlexp.adapters.base import Adapter, LowRankConfig
from qlexp.adapters.lora import LoRA
from qlexp.adapters.queryable import Queryable, QueryableConfig
from qlexp.backbone import COORDINATES, Backbone, linear_shapes
from qlexp.config import BackboneConfig
from qlexp.initial import Draw
from qlexp.optim.adamw import AdamW
from qlexp.training import LossFunction, Samples, lane_losses, update_lanes

Call = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """The size of a step.

    `atoms`, `key_dim` and `block_size` matter to the queryable adapter only.
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

    def samples(self) -> tuple[Tensor, Tensor]:
        """Points (L, rows, 2) and values (L, rows)."""
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(self.lanes, self.rows, COORDINATES, generator=generator) * 2 - 1
        y = torch.randn(self.lanes, self.rows, generator=generator)
        return x.to(self.device), y.to(self.device)


def adapter(setting: Setting, method: str) -> Adapter:
    """`lora` or `queryable` on a fresh backbone."""
    backbone = Backbone(setting.backbone, Draw(range(setting.lanes)))
    draw = Draw(range(setting.lanes))
    alpha = 2.0 * setting.rank
    if method == "lora":
        model: Adapter = LoRA(backbone, LowRankConfig(rank=setting.rank, alpha=alpha), draw)
    else:
        config = QueryableConfig(
            rank=setting.rank,
            alpha=alpha,
            atoms=setting.atoms,
            key_dim=setting.key_dim,
            block_size=setting.block_size,
        )
        model = Queryable(backbone, config, draw)
    return model.to(setting.device)


def lane_step(setting: Setting, method: str, compiled: bool) -> Call:
    """The step of the training loop itself, `setting.lanes` lanes in lockstep."""
    model = adapter(setting, method)
    batch = Samples(*setting.samples())
    parameters = list(model.trainable().values())
    rates = torch.full((setting.lanes,), 1e-4, device=setting.device)
    alive = torch.ones(setting.lanes, dtype=torch.bool, device=setting.device)
    optimizer = AdamW(parameters, lr=rates, config=AdamW.Config())
    losses: LossFunction = lane_losses
    if compiled:
        mode = "reduce-overhead" if setting.device == "cuda" else None
        losses = torch.compile(lane_losses, mode=mode, dynamic=False)
    return lambda: update_lanes(model, parameters, batch, rates, alive, 1.0, optimizer, losses)


def peft_step(setting: Setting) -> Call:
    """A step of one run, eager, the same network under peft's LoRA; checked to be the same."""
    solo = setting.solo()
    backbone = Backbone(solo.backbone, Draw([0])).to(solo.device)
    x, y = solo.samples()
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
