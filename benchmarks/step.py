"""One training step at the paper's scale: LoRA and queryable against the GEMM floor and peft.

    python -m benchmarks.step [--repeats 10] [--eager] [--out results/benchmarks]

The floor is the arithmetic that no LoRA step can do without, at the rate at which this machine
multiplies matrices of the backbone's shapes in the same run: forward and input gradients of the
frozen linears, and the adapters' own products. A step is forward, backward and AdamW.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.peft_twin import trainable, with_peft_lora
from benchmarks.timing import interleaved
from qlexp.adapters.base import Adapter, LowRankConfig
from qlexp.adapters.lora import LoRA
from qlexp.adapters.queryable import Queryable, QueryableConfig
from qlexp.backbone import COORDINATES, Backbone, linear_shapes
from qlexp.config import BackboneConfig
from qlexp.environment import device_name, versions
from qlexp.initial import Draw
from qlexp.optim.adamw import AdamW
from qlexp.training import lane_losses

BACKBONE = BackboneConfig()  # depth 8, width 256
SAMPLES = 1200
RANK = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--eager", action="store_true", help="leave the compiled steps out")
    parser.add_argument("--out", type=Path, help="folder for step.md")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    x, y = torch.rand(1, SAMPLES, 2) * 2 - 1, torch.randn(1, SAMPLES)
    contenders: dict[str, Callable[[], object]] = {"GEMMs of the backbone": backbone_gemms()}
    contenders["peft LoRA, eager"] = peft_step(x, y)
    modes = [("eager", False)] if arguments.eager else [("eager", False), ("compiled", True)]
    for mode, compiled in modes:
        contenders[f"LoRA, {mode}"] = step(lora(), x, y, compiled)
        contenders[f"queryable, {mode}"] = step(queryable(), x, y, compiled)
    seconds = interleaved(contenders, arguments.repeats)
    report = render(seconds, modes[-1][0])
    print(report)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "step.md").write_text(report + "\n")


def lora() -> Adapter:
    return LoRA(Backbone(BACKBONE, Draw([0])), LowRankConfig(rank=RANK, alpha=16.0), Draw([1]))


def queryable() -> Adapter:
    config = QueryableConfig(rank=RANK, alpha=16.0, atoms=32, key_dim=32)
    return Queryable(Backbone(BACKBONE, Draw([0])), config, Draw([1]))


def step(adapter: Adapter, x: Tensor, y: Tensor, compiled: bool) -> Callable[[], object]:
    """A training step of one lane."""
    parameters = list(adapter.trainable().values())
    optimizer = AdamW(parameters, lr=1e-4, config=AdamW.Config())
    losses = torch.compile(lane_losses) if compiled else lane_losses

    def call() -> None:
        gradients = torch.autograd.grad(losses(adapter, x, y).sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()

    return call


def peft_step(x: Tensor, y: Tensor) -> Callable[[], object]:
    """The same step of the same backbone under peft's LoRA; checked to be the same network."""
    backbone = Backbone(BACKBONE, Draw([0]))
    expected = backbone(x).detach()
    config = LowRankConfig(rank=RANK, alpha=16.0)
    model: nn.Module = with_peft_lora(backbone, 0, config, dora=False)
    torch.testing.assert_close(model(x), expected[0], rtol=1e-3, atol=1e-4)
    parameters = trainable(model)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def call() -> None:
        optimizer.zero_grad()
        (model(x) - y[0]).square().mean().backward()
        optimizer.step()

    return call


def backbone_gemms() -> Callable[[], object]:
    """Forward and input-gradient products of every frozen linear."""
    rows = SAMPLES * COORDINATES
    products = [
        (torch.randn(rows, d_in), torch.randn(rows, d_out), torch.randn(d_out, d_in))
        for d_out, d_in in linear_shapes(BACKBONE).values()
    ]

    def call() -> None:
        for _ in range(BACKBONE.depth):
            for h, gradient, weight in products:
                torch.mm(h, weight.T)
                torch.mm(gradient, weight)

    return call


def operations() -> tuple[int, int]:
    """Floating-point operations of the backbone's products, and of LoRA's own."""
    rows = SAMPLES * COORDINATES
    shapes = list(linear_shapes(BACKBONE).values()) * BACKBONE.depth
    frozen = sum(4 * rows * d_out * d_in for d_out, d_in in shapes)
    adapters = sum(6 * rows * RANK * (d_out + d_in) for d_out, d_in in shapes)
    return frozen, adapters


def render(seconds: dict[str, float], mode: str) -> str:
    """The figures as Markdown, ratios last."""
    frozen, adapters = operations()
    rate = frozen / seconds["GEMMs of the backbone"]
    floor = (frozen + adapters) / rate
    lines = [
        f"Depth {BACKBONE.depth}, width {BACKBONE.width}, rank {RANK}, {SAMPLES} samples of "
        f"{COORDINATES} tokens, float32; {device_name(torch.device('cpu'))}, torch "
        f"{versions()['torch']}.",
        f"Matrix rate {rate / 1e9:.0f} GFLOP/s; floor {floor * 1e3:.0f} ms.",
        "",
        "| step | ms | over the floor | over peft LoRA |",
        "|---|---|---|---|",
    ]
    peft = seconds["peft LoRA, eager"]
    for name, value in seconds.items():
        if name != "GEMMs of the backbone":
            lines.append(
                f"| {name} | {value * 1e3:.0f} | {value / floor:.2f} | {value / peft:.2f} |"
            )
    lora_step, queryable_step = seconds[f"LoRA, {mode}"], seconds[f"queryable, {mode}"]
    return "\n".join(
        [
            *lines,
            "",
            f"LoRA / floor ({mode}): {lora_step / floor:.2f}",
            f"queryable / LoRA ({mode}): {queryable_step / lora_step:.2f}",
        ]
    )


if __name__ == "__main__":
    main()
