"""Whole sweeps in one process: run-steps per second of lanes against one run at a time.

    python -m benchmarks.sweep [--repeats 10] [--eager] [--out results/benchmarks]

First the reference: 9 runs of the small network (width 32, depth 8, 256 rows, rank 4), one by one
under peft's LoRA and in lanes. Then how the cost grows with lanes, depth, width, rank, atoms and
block size; then the paper's scale, where a lane fills the processor by itself. On a CUDA device the
paper's scale with 45 lanes follows, against its floor. The last line is the first item's ratio.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from analysis.render import Grid, Section
from analysis.render.output import Picture
from analysis.render.style import figure_style, method_colour
from analysis.view import Shown
from benchmarks.contenders import COMPILED, REFERENCE, Call, Step
from benchmarks.report import arguments, grid, interval_text, publish, section
from benchmarks.timing import in_turns, median_of
from qlexp.cell import configure
from qlexp.environment import keep_freed_memory
from qlexp.sweep.width import lanes_that_fit

SMALL = Step()
PAPER = Step(width=256, rows=1200, rank=8, lanes=3, atoms=32, key_dim=32)
METHODS = (REFERENCE, "queryable")
GROWTH = {
    "lanes": (1, 2, 4, 8, 16, 32),
    "depth": (2, 4, 8, 16),
    "width": (16, 32, 64, 128),
    "rank": (1, 2, 4, 8, 16),
    "atoms": (4, 8, 16, 32, 64),
    "block_size": (1, 2, 4, 8),
}
PEFT = "peft LoRA, one by one, eager"
_COPIED_BYTES = 2 * 2**30  # read and written


def main() -> None:
    options = arguments(__doc__, repeats=10)
    keep_freed_memory()
    mode = options.modes[-1]
    small = run_steps(SMALL, options.modes, options.repeats, METHODS)
    paper = run_steps(PAPER, options.modes, max(3, options.repeats // 3), METHODS[:1])
    sections = [speeds(f"Small: {SMALL}", small), speeds(f"Paper: {PAPER}", paper)]
    in_lanes = small[f"lora, {SMALL.lanes} lanes, {mode}"]
    slower = median_of(small[f"queryable, {SMALL.lanes} lanes, {mode}"] / in_lanes)
    over_solo = median_of(
        paper[f"lora, solo, {mode}"] / paper[f"lora, {PAPER.lanes} lanes, {mode}"]
    )
    notes = [
        f"queryable / lora step time, small, {mode}: {interval_text(slower)}",
        f"{PAPER.lanes} lanes / solo throughput, paper, {mode}: {interval_text(over_solo)}; lanes "
        f"chosen here: {chosen_width()}",
    ]
    if torch.cuda.is_available():
        found, remark = on_cuda(replace(PAPER, lanes=45, device="cuda"), mode, options.repeats)
        sections.append(found)
        notes.append(remark)
    headers = ["step", "run-steps/s", "ms a run-step", "throughput over peft's"]
    curves = pd.DataFrame(growth(options.repeats))
    tables = [
        grid("sweep", "Sweeps in lanes", headers, *sections, notes=notes),
        growth_grid(curves),
    ]
    with figure_style():
        picture = Picture("growth", "How the cost grows", growth_figure(curves))
    publish(Shown(grids={"sweep": tables}, pictures=[picture]), options.out)
    print(f"ratio: {median_of(small[PEFT] / in_lanes).value:.2f}")


def chosen_width() -> int:
    """What the launcher takes for a group of the paper's scale on this machine."""
    scale = ["backbone=paper", "trainer=paper", "method=lora", "method.rank=8"]
    return lanes_that_fit([configure([*scale, "tracking=none"])], "adapt")


def run_steps(
    step: Step, modes: Sequence[str], repeats: int, methods: Sequence[str]
) -> pd.DataFrame:
    """Seconds of one run's step, a row a round, a column a contender."""
    calls: dict[str, tuple[Call, int]] = {PEFT: (step.of_peft(), 1)}
    for mode in modes:
        compiled = mode == COMPILED
        for method in methods:
            calls[f"{method}, {step.lanes} lanes, {mode}"] = step.of(method, compiled), step.lanes
        calls[f"lora, solo, {mode}"] = step.solo().of(REFERENCE, compiled), 1
    seconds = in_turns({name: call for name, (call, _) in calls.items()}, PEFT, repeats)
    return seconds / pd.Series({name: lanes for name, (_, lanes) in calls.items()})


def on_cuda(step: Step, mode: str, repeats: int) -> tuple[Section, str]:
    """The speeds on a CUDA device, and their distance from the floor.

    The floor: the adapters' and the backbone's products at the measured matrix rate, and every
    activation once through memory at the measured copy rate.
    """
    seconds = run_steps(step, [mode], repeats, METHODS)
    parts = in_turns({"gemms": step.of_products(), "copy": _copy}, "gemms", repeats).median()
    frozen, adapters = step.operations()
    products = parts["gemms"] * (frozen + adapters) / frozen
    tokens = step.lanes * step.rows * 2 * step.depth
    activations = tokens * step.width * 18 * 4  # residual, norms, qkv, attention, MLP: 18 widths
    floor = products + activations * parts["copy"] / _COPIED_BYTES
    own = seconds[f"lora, {step.lanes} lanes, {mode}"]
    remark = (
        f"CUDA, {mode}: lanes / peft one by one {interval_text(median_of(seconds[PEFT] / own))}; "
        f"step / floor {own.median() * step.lanes / floor:.2f}"
    )
    return speeds(f"CUDA: {step}", seconds), remark


def _copy() -> None:
    torch.empty(2**28, device="cuda").copy_(torch.empty(2**28, device="cuda"))


def speeds(title: str, seconds: pd.DataFrame) -> Section:
    medians = seconds.median()
    rows = [
        [
            name,
            f"{1 / medians[name]:.1f}",
            f"{1e3 * medians[name]:.2f}",
            interval_text(median_of(seconds[PEFT] / own)),
        ]
        for name, own in seconds.items()
    ]
    return section(title, rows)


def growth(repeats: int) -> Iterator[dict[str, Any]]:
    """Run-steps per second of both methods along every axis, the others at `SMALL`."""
    for axis, values in GROWTH.items():
        for value in values:
            changed: dict[str, Any] = {axis: value}
            step = replace(SMALL, **changed)
            calls = {method: step.of(method) for method in METHODS}
            seconds = in_turns(calls, REFERENCE, max(6, repeats // 2))
            ratio = median_of(seconds["queryable"] / seconds["lora"])
            yield {"axis": axis, "value": value, "ratio": ratio, **step.lanes / seconds.median()}


def growth_grid(curves: pd.DataFrame) -> Grid:
    rows = [
        [axis, str(value), f"{lora:.0f}", f"{queryable:.0f}", interval_text(ratio)]
        for axis, value, ratio, lora, queryable in curves.itertuples(index=False)
    ]
    headers = ["axis", "value", *METHODS, "queryable / lora step time"]
    median = curves["ratio"].map(lambda ratio: ratio.value).median()
    notes = [f"queryable / lora step time, median: {median:.2f}"]
    title = "How the cost grows (eager, run-steps per second)"
    return grid("growth", title, headers, section("", rows), notes=notes)


def growth_figure(curves: pd.DataFrame) -> Figure:
    """A panel an axis."""
    figure, panels = plt.subplots(2, 3, figsize=(7.5, 4.2), layout="constrained")
    for panel, (axis, part) in zip(panels.flat, curves.groupby("axis", sort=False), strict=True):
        for method in METHODS:
            colour = method_colour(method)
            panel.loglog(part["value"], part[method], "o-", color=colour, label=method)
        panel.set_xscale("log", base=2)
        panel.set_xlabel(str(axis).replace("_", " "))
        panel.set_ylabel("run-steps per second")
    panels.flat[0].legend()
    return figure


if __name__ == "__main__":
    main()
