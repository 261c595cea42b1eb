"""What the benchmarks time: forward passes and training steps, and the products inside them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn

from benchmarks.peft_twin import trainable, with_peft_lora
from qlexp.adapters.base import Adapter, LowRankConfig
from qlexp.adapters.stored import build_adapter
from qlexp.cell import configure
from qlexp.config.schema import BackboneConfig, Config
from qlexp.errors import UsageError
from qlexp.model.backbone import COORDINATES, Backbone, linear_shapes
from qlexp.model.evaluate import Samples
from qlexp.model.initial import Draw, Shapes
from qlexp.train.compilation import compiled_apart
from qlexp.train.loop import LossFunction, lane_losses, update_lanes

REFERENCE = "lora"
EAGER, COMPILED = MODES = ("eager", "compiled")
JOLT = 0.02  # deviation of the noise on every trained weight: no adapter is left at its zero start

Call = Callable[[], object]


@cache
def config_of(method: str, rank: int, *overrides: str) -> Config:
    """`conf/method/<method>.yaml`; a method with a rank takes `rank`, whatever its count.

    Raises:
        UsageError: a name is unknown, or the rank does not fit the backbone.
    """
    sized = [f"budget.rank={rank}", "budget.by=rank", "budget.enforce=false"]
    return configure([f"method={method}", *sized, "tracking=none", *overrides])


def build(configs: Sequence[Config], device: torch.device) -> Adapter:
    """The method of `configs`, a lane each, on a fresh backbone."""
    backbone = Backbone(configs[0].backbone, Draw([config.seed for config in configs]))
    return build_adapter(configs, backbone.to(device))


def trained(config: Config, device: torch.device) -> Adapter:
    """One lane as training might leave it: every trained weight moved, none to be trained."""
    adapter = build([config], torch.device("cpu"))
    draw = Draw([config.seed + 1])
    for parameter in adapter.trainable().values():
        parameter.data += draw.normal(*parameter.shape[1:], std=JOLT).data
    return adapter.to(device).requires_grad_(False)


def merged(config: Config, device: torch.device) -> Backbone | None:
    """The same with its change folded into the weights; None where the method cannot be merged."""
    try:
        return trained(config, device).merge()
    except UsageError:  # the only mistake that a built adapter can meet here
        return None


def shapes_of(config: Config, rows: int) -> tuple[Adapter, tuple[Tensor, ...]]:
    """One lane and its inputs on the meta device, where nothing is computed."""
    method = config.method
    model = method.kind(Backbone(config.backbone, Shapes()), method.config, Shapes())
    model = model.to("meta").requires_grad_(False)
    sizes = [COORDINATES, method.config.instruction_size]
    return model, tuple(torch.empty(1, rows, n, device="meta") for n in sizes if n is not None)


def samples(configs: Sequence[Config], rows: int, device: torch.device) -> Samples:
    """Points (L, rows, 2), values (L, rows), and e(z) (L, rows, d_e) where the method reads one."""
    draw = Draw([config.seed for config in configs])
    size = configs[0].method.config.instruction_size
    x, y = draw.uniform(rows, COORDINATES, bound=1.0), draw.normal(rows)
    instruction = None if size is None else draw.normal(rows, size).data.to(device)
    return Samples(x.data.to(device), y.data.to(device), instruction)


def inputs_of(config: Config, rows: int, device: torch.device) -> tuple[Tensor, ...]:
    """What one lane's forward pass takes: the points, and e(z) where the method reads it."""
    batch = samples([config], rows, device)
    return (batch.x,) if batch.instruction is None else (batch.x, batch.instruction)


def forward_pass(
    model: nn.Module, inputs: tuple[Tensor, ...], compiled: bool
) -> Callable[[], Tensor]:
    """A pass of the batch; compiled for this model and this batch alone."""
    run = compiled_apart(model.forward, inputs[0].device) if compiled else model
    return lambda: run(*inputs)


@dataclass(frozen=True)
class Step:
    """The size of a training step.

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

    def __str__(self) -> str:
        return (
            f"width {self.width}, depth {self.depth}, {self.rows} rows of {COORDINATES} tokens, "
            f"rank {self.rank}, {self.lanes} lanes, float32"
        )

    def solo(self) -> "Step":
        return replace(self, lanes=1)

    def configs(self, method: str) -> list[Config]:
        """Those of `method` at this size, a lane each.

        Raises:
            UsageError: there is no such method, or it does not fit the size.
        """
        config = config_of(method, self.rank)
        own = config.method.config
        shared = ("atoms", "key_dim", "block_size")
        own = replace(own, **{key: getattr(self, key) for key in shared if hasattr(own, key)})
        own.check(self.backbone)
        config = replace(config, backbone=self.backbone, method=replace(config.method, config=own))
        return [replace(config, seed=lane) for lane in range(self.lanes)]

    def of(self, method: str, compiled: bool = False) -> Call:
        """Forward, backward, clipping and update by the training loop itself, in lockstep."""
        configs, device = self.configs(method), torch.device(self.device)
        model = build(configs, device)
        batch = samples(configs, self.rows, device)
        parameters = list(model.trainable().values())
        rates = torch.full((self.lanes,), 1e-4, device=device)
        alive = torch.ones(self.lanes, dtype=torch.bool, device=device)
        component = configs[0].optimizer
        optimizer = component.kind(parameters, lr=rates, config=component.config)
        losses: LossFunction = compiled_apart(lane_losses, device) if compiled else lane_losses
        return lambda: update_lanes(model, parameters, batch, rates, alive, 1.0, optimizer, losses)

    def of_peft(self) -> Call:
        """One run, eager, on the same network under peft's LoRA; checked to be the same."""
        configs, device = self.solo().configs(REFERENCE), torch.device(self.device)
        backbone = Backbone(self.backbone, Draw([0])).to(device)
        batch = samples(configs, self.rows, device)
        expected = backbone(batch.x).detach()[0]
        config = LowRankConfig(rank=self.rank, alpha=2.0 * self.rank)
        model: nn.Module = with_peft_lora(backbone, 0, config, dora=False).to(device)
        torch.testing.assert_close(model(batch.x), expected, rtol=1e-3, atol=1e-4)
        parameters = trainable(model)
        optimizer = torch.optim.AdamW(parameters, lr=1e-4)

        def call() -> None:
            optimizer.zero_grad()
            (model(batch.x) - batch.y[0]).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()

        return call

    def of_products(self) -> Call:
        """The forward and input-gradient products of every frozen linear alone."""
        rows = self.rows * COORDINATES
        products = [
            [
                torch.randn(self.lanes, *shape, device=self.device)
                for shape in ((rows, d_in), (rows, d_out), (d_out, d_in))
            ]
            for d_out, d_in in linear_shapes(self.backbone).values()
        ]

        def call() -> None:
            for layer in range(self.depth):
                for index, (h, gradient, weight) in enumerate(products):
                    torch.bmm(h, weight.mT)
                    if layer + index:  # nothing trains before the first linear
                        torch.bmm(gradient, weight)

        return call

    def operations(self) -> tuple[int, int]:
        """Floating-point operations: of the frozen linears, and of LoRA's own products."""
        rows = self.lanes * self.rows * COORDINATES
        shapes = list(linear_shapes(self.backbone).values()) * self.depth
        frozen = sum(4 * rows * d_out * d_in for d_out, d_in in shapes)
        d_out, d_in = shapes[0]
        frozen -= 2 * rows * d_out * d_in  # nothing trains before the first linear
        adapters = sum(6 * rows * self.rank * (d_out + d_in) for d_out, d_in in shapes)
        return frozen, adapters
