"""One training step at the paper's scale: LoRA and queryable against the GEMM floor and peft.

    python -m benchmarks.step [--repeats 10] [--eager] [--out results/benchmarks]

The floor is the arithmetic that no LoRA step can do without, at the rate at which this machine
multiplies matrices of the backbone's shapes in the same run: forward and input gradients of the
frozen linears, and the adapters' own products. A step is forward, backward and AdamW.
"""

import torch

from benchmarks.contenders import (
    Call,
    Setting,
    backbone_gemms,
    lane_step,
    operations,
    peft_step,
)
from benchmarks.report import arguments, publish
from benchmarks.timing import interleaved
from qlexp.environment import device_name, keep_freed_memory, versions

PAPER = Setting(depth=8, width=256, rows=1200, rank=8, lanes=1, atoms=32, key_dim=32)
GEMMS, PEFT = "GEMMs of the backbone", "peft LoRA, eager"


def main() -> None:
    options = arguments(__doc__, repeats=10)
    keep_freed_memory()
    contenders: dict[str, Call] = {GEMMS: backbone_gemms(PAPER), PEFT: peft_step(PAPER)}
    modes = [("eager", False)] if options.eager else [("eager", False), ("compiled", True)]
    for mode, compiled in modes:
        for method in ("lora", "queryable"):
            contenders[f"{method}, {mode}"] = lane_step(PAPER, method, compiled)
    seconds = interleaved(contenders, options.repeats)
    publish(render(seconds, modes[-1][0]), options.out, "step.md")


def render(seconds: dict[str, float], mode: str) -> str:
    """The figures as Markdown, ratios last."""
    frozen, adapters = operations(PAPER)
    rate = frozen / seconds[GEMMS]
    floor = (frozen + adapters) / rate
    rows = [
        f"| {name} | {value * 1e3:.0f} | {value / floor:.2f} | {value / seconds[PEFT]:.2f} |"
        for name, value in seconds.items()
        if name != GEMMS
    ]
    lora, queryable = seconds[f"lora, {mode}"], seconds[f"queryable, {mode}"]
    return "\n".join(
        [
            f"Depth {PAPER.depth}, width {PAPER.width}, rank {PAPER.rank}, {PAPER.rows} samples of "
            f"2 tokens, float32; {device_name(torch.device('cpu'))}, torch {versions()['torch']}.",
            f"Matrix rate {rate / 1e9:.0f} GFLOP/s; floor {floor * 1e3:.0f} ms.",
            "",
            "| step | ms | over the floor | over peft LoRA |",
            "|---|---|---|---|",
            *rows,
            "",
            f"lora / floor ({mode}): {lora / floor:.2f}",
            f"queryable / lora ({mode}): {queryable / lora:.2f}",
        ]
    )


if __name__ == "__main__":
    main()
