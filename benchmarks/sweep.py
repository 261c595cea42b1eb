"""Whole sweeps in one process: run-steps per second of lanes against one run at a time.

    python -m benchmarks.sweep [--repeats 10] [--eager] [--out results/benchmarks]

First the reference: 9 runs of the small network (width 32, depth 8, 256 rows, rank 4), one by one
under peft's LoRA and in lanes. Then how the cost grows with lanes, depth, width, rank, atoms and
block size; then the paper's scale, where a lane fills the processor by itself. On a CUDA device the
paper's scale with 45 lanes follows, against its floor. The last line is the first item's ratio.
"""

import statistics
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch

from analysis.style import figure_style, method_colour, save_svg
from benchmarks.contenders import Call, Setting, backbone_gemms, lane_step, operations, peft_step
from benchmarks.report import arguments, publish
from benchmarks.timing import interleaved
from qlexp.cell import configure
from qlexp.environment import device_name, keep_freed_memory, versions
from qlexp.sweep.width import lanes_that_fit

SMALL = Setting()
PAPER = Setting(width=256, rows=1200, rank=8, atoms=32, key_dim=32)
GROWTH = {
    "lanes": (1, 2, 4, 8, 16, 32),
    "depth": (2, 4, 8, 16),
    "width": (16, 32, 64, 128),
    "rank": (1, 2, 4, 8, 16),
    "atoms": (4, 8, 16, 32, 64),
    "block_size": (1, 2, 4, 8),
}
PEFT = "peft LoRA, one by one, eager"


def main() -> None:
    options = arguments(__doc__, repeats=10)
    keep_freed_memory()
    modes = [("eager", False)] if options.eager else [("eager", False), ("compiled", True)]
    small = throughput(SMALL, modes, options.repeats, ("lora", "queryable"))
    mode = modes[-1][0]
    paper = throughput(replace(PAPER, lanes=3), modes, max(3, options.repeats // 3), ("lora",))
    sections = [
        f"{device_name(torch.device('cpu'))}, torch {versions()['torch']}, float32.",
        table(f"Small: {describe(SMALL)}", small),
        f"queryable / lora step time, {mode}: {_step_ratio(small, SMALL, mode):.2f}",
        table(f"Paper: {describe(replace(PAPER, lanes=3))}", paper),
        f"3 lanes / solo throughput, {mode}: {_over_solo(paper, mode):.2f}; lanes chosen here: "
        f"{_chosen_width()}",
    ]
    if torch.cuda.is_available():
        sections.append(cuda_section(modes, options.repeats))
    curves = growth(options.repeats)
    sections += ["## How the cost grows (eager, run-steps per second)", wide(curves)]
    if options.out:
        draw(curves, options.out)
    best = max(value for name, value in small.items() if name.startswith("lora, 9 lanes"))
    sections.append(f"ratio: {best / small[PEFT]:.2f}")
    publish("\n\n".join(sections), options.out, "sweep.md")


def _step_ratio(speeds: dict[str, float], setting: Setting, mode: str) -> float:
    lora, queryable = (
        speeds[f"{method}, {setting.lanes} lanes, {mode}"] for method in ("lora", "queryable")
    )
    return lora / queryable


def _chosen_width() -> int:
    """What the launcher takes for a group of the paper's scale on this machine."""
    scale = ["backbone=paper", "trainer=paper", "method=lora", "method.rank=8"]
    return lanes_that_fit([configure([*scale, "tracking=none"])], "adapt")


def _over_solo(speeds: dict[str, float], mode: str) -> float:
    return speeds[f"lora, 3 lanes, {mode}"] / speeds[f"lora, solo, {mode}"]


def throughput(
    setting: Setting, modes: Iterable[tuple[str, bool]], repeats: int, methods: Iterable[str]
) -> dict[str, float]:
    """Run-steps per second of every contender, measured in turns."""
    calls: dict[str, tuple[Call, int]] = {PEFT: (peft_step(setting), 1)}
    for mode, compiled in modes:
        for method in methods:
            lanes = setting.lanes
            calls[f"{method}, {lanes} lanes, {mode}"] = (
                lane_step(setting, method, compiled),
                lanes,
            )
        calls[f"lora, solo, {mode}"] = (lane_step(setting.solo(), "lora", compiled), 1)
    seconds = interleaved({name: call for name, (call, _) in calls.items()}, repeats)
    return {name: lanes / seconds[name] for name, (_, lanes) in calls.items()}


def cuda_section(modes: Iterable[tuple[str, bool]], repeats: int) -> str:
    """The paper's scale with 45 lanes on a CUDA device, and its distance from the floor.

    The floor: the adapters' and the backbone's products at the measured matrix rate, and every
    activation once through memory at the measured copy rate.
    """
    setting = replace(PAPER, lanes=45, device="cuda")
    speeds = throughput(setting, modes, repeats, ("lora", "queryable"))
    seconds = interleaved({"gemms": backbone_gemms(setting), "copy": _copy}, repeats)
    frozen, adapters = operations(setting)
    products = seconds["gemms"] * (frozen + adapters) / frozen
    tokens = setting.lanes * setting.rows * 2 * setting.depth
    activations = tokens * setting.width * 18 * 4  # residual, norms, qkv, attention, MLP: 18 widths
    floor = products + activations * seconds["copy"] / _COPIED_BYTES
    best = max(value for name, value in speeds.items() if name.startswith("lora, 45 lanes"))
    return "\n".join(
        [
            table(f"CUDA: {describe(setting)}", speeds),
            "",
            f"lanes / peft one by one: {best / speeds[PEFT]:.1f}",
            f"step / floor: {setting.lanes / best / floor:.2f}",
        ]
    )


_COPIED_BYTES = 2 * 2**30  # read and written


def _copy() -> None:
    torch.empty(2**28, device="cuda").copy_(torch.empty(2**28, device="cuda"))


def growth(repeats: int) -> pd.DataFrame:
    """Run-steps per second of LoRA and queryable along every axis, the others at `SMALL`."""
    rows = []
    for axis, values in GROWTH.items():
        for value in values:
            changed: dict[str, Any] = {axis: value}
            setting = replace(SMALL, **changed)
            calls = {
                method: lane_step(setting, method, compiled=False)
                for method in ("lora", "queryable")
            }
            for method, seconds in interleaved(calls, max(3, repeats // 2)).items():
                speed = setting.lanes / seconds
                rows.append({"axis": axis, "value": value, "method": method, "speed": speed})
    return pd.DataFrame(rows)


def draw(curves: pd.DataFrame, out: Path) -> None:
    """`growth.svg`: a panel an axis."""
    out.mkdir(parents=True, exist_ok=True)
    with figure_style():
        figure, panels = plt.subplots(2, 3, figsize=(7.5, 4.2), layout="constrained")
        for panel, (axis, part) in zip(
            panels.flat, curves.groupby("axis", sort=False), strict=True
        ):
            for method, line in part.groupby("method"):
                panel.loglog(
                    line["value"], line["speed"], "o-", color=method_colour(method), label=method
                )
            panel.set_xscale("log", base=2)
            panel.set_xlabel(str(axis).replace("_", " "))
            panel.set_ylabel("run-steps per second")
        panels.flat[0].legend()
        save_svg(figure, out / "growth.svg")


def describe(setting: Setting) -> str:
    return (
        f"width {setting.width}, depth {setting.depth}, {setting.rows} rows, rank {setting.rank}, "
        f"{setting.lanes} lanes"
    )


def table(title: str, speeds: dict[str, float]) -> str:
    rows = [
        f"| {name} | {speed:.1f} | {1e3 / speed:.2f} | {speed / speeds[PEFT]:.2f} |"
        for name, speed in speeds.items()
    ]
    head = ["| step | run-steps/s | ms a run-step | over peft |", "|---|---|---|---|"]
    return "\n".join([f"## {title}", "", *head, *rows])


def wide(curves: pd.DataFrame) -> str:
    lines = ["| axis | value | lora | queryable | queryable / lora |", "|---|---|---|---|---|"]
    ratios = []
    for (axis, value), part in curves.groupby(["axis", "value"], sort=False):
        speeds = part.set_index("method")["speed"]
        ratio = speeds["lora"] / speeds["queryable"]
        ratios.append(ratio)
        lines.append(
            f"| {axis} | {value} | {speeds['lora']:.0f} | {speeds['queryable']:.0f} | {ratio:.2f} |"
        )
    lines += ["", f"queryable / lora step time, median: {statistics.median(ratios):.2f}"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
