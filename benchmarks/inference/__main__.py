"""Times a forward pass under every method: `python -m benchmarks.inference`.

    inference.{md,csv,tex}        latency, throughput, FLOPs and parameters
    inference_rounds.{csv,json}   seconds of every round; where they were measured
    inference.svg                 times over LoRA's

After the paper's Table 5: every method at the same backbone, rank, batch and length, as trained and
merged into the backbone where that is possible, eager and compiled, on every device there is.
Latency is the time of a pass over one point, throughput that of a batch. All contenders take turns
within each round, so ratios are of times that were taken side by side. The networks are drawn
anew and every trained weight is moved from its start: the time of a pass does not depend on what
was learned, so no store is read. What the paper says is set beside what was measured.

The committed tables are rendered again from their rounds by
`python -m benchmarks.inference --rounds results/inference --out results/inference`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from analysis.__main__ import RENDERED
from analysis.cli import exit_code, writing
from analysis.names import method_order
from analysis.render import markdown
from analysis.render.output import Picture
from analysis.render.style import figure_style
from analysis.view import Shown
from benchmarks.contenders import COMPILED, EAGER, MODES, REFERENCE
from benchmarks.inference.claims import claims_grid, joint_level, rivals_of
from benchmarks.inference.counts import check_memory
from benchmarks.inference.figure import ratios_figure
from benchmarks.inference.measured import Measured
from benchmarks.inference.notes import setting_notes
from benchmarks.inference.rounds import NAME, Origin, configs_of, measure, read_rounds, write_origin
from benchmarks.inference.tables import cost_grid, long_table
from benchmarks.timing import fewest_rounds
from qlexp.config.schema import Config
from qlexp.environment import keep_freed_memory
from qlexp.errors import UsageError, unknown_name
from qlexp.main import choices
from qlexp.train.compilation import compiler_error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    command = argparse.ArgumentParser(
        prog="python -m benchmarks.inference", description="Time a forward pass under every method."
    )
    command.add_argument(
        "--out", default=f"{RENDERED}/inference", help="folder to render to (%(default)s)"
    )
    command.add_argument("--rounds", help="folder with measured rounds to render; none are timed")
    command.add_argument("--device", choices=("cpu", "cuda"), help="one only (every one there is)")
    command.add_argument(
        "--backbone", nargs="+", default=["small", "paper"], help="of conf/backbone (small paper)"
    )
    command.add_argument("--methods", help="of conf/method, such as dora,hyra; lora joins (all)")
    command.add_argument(
        "--rank", type=int, default=4, help="of methods that have one (%(default)s)"
    )
    command.add_argument("--batch", type=int, default=256, help="points, throughput (%(default)s)")
    command.add_argument("--repeats", type=int, default=30, help="rounds (%(default)s)")
    command.add_argument("--eager", action="store_true", help="leave the compiled passes out")
    options = command.parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    rounds, origin = read_rounds(Path(options.rounds)) if options.rounds else _measured(options)
    measured = Measured.counted(rounds, origin.rank)
    with writing(Path(options.out)) as folder:
        shown(measured, origin).write(folder)
        write_origin(origin, folder)
    print(markdown(claims_grid(measured)))
    print(folder)


def shown(measured: Measured, origin: Origin) -> Shown:
    """Every file of the command but the rounds' origin."""
    with figure_style():
        picture = Picture("inference", "Times over LoRA's", ratios_figure(measured))
    grids = [cost_grid(measured, setting_notes(measured, origin)), claims_grid(measured)]
    return Shown(
        grids={"inference": grids},
        frames={"inference": long_table(measured), NAME: measured.rounds},
        pictures=[picture],
        latex=["inference"],
    )


def _measured(options: argparse.Namespace) -> tuple[pd.DataFrame, Origin]:
    if options.batch < 2:
        raise UsageError(
            f"--batch {options.batch}: throughput wants at least 2 points; batch 1, the latency, "
            "is always measured."
        )
    devices, methods = _devices(options.device), _methods(options.methods)
    backbones = list(dict.fromkeys(options.backbone))
    for kind, names in (("method", methods), ("backbone", backbones)):
        for name in names:
            if name not in choices(kind):
                raise unknown_name(kind, name, choices(kind))
    sized = {backbone: configs_of(methods, backbone, options.rank) for backbone in backbones}
    _check_rounds(options.repeats, next(iter(sized.values())))
    check_memory(sized, options.batch, devices)
    modes = [EAGER] if options.eager else list(MODES)
    if COMPILED in modes:
        _check_compiler(devices)
    keep_freed_memory()
    with writing(Path(options.out)):
        pass  # refused before minutes of measuring, not after them
    rounds = [
        row
        for backbone, configs in sized.items()
        for device in devices
        for row in measure(configs, backbone, device, (1, options.batch), modes, options.repeats)
    ]
    return pd.DataFrame(rounds), Origin.here(options.rank, devices)


def _methods(listed: str | None) -> list[str]:
    """Those of a list with commas; all where there is no list."""
    if listed is None:
        return sorted(choices("method"), key=method_order)
    if not listed.strip():
        raise UsageError(
            "--methods names none: list some of conf/method, such as dora,hyra, or leave the "
            "option out for all."
        )
    return sorted((name.strip() for name in listed.split(",")), key=method_order)


def _check_rounds(repeats: int, configs: Sequence[Config]) -> None:
    """Enough for the widest interval that a claim needs."""
    readings = {config.method.name: config.method.kind.reading for config in configs}
    rivals = len(rivals_of(readings, readings.__getitem__))
    level = joint_level(rivals)
    if repeats < fewest_rounds(level):
        raise UsageError(
            f"--repeats {repeats} is too few for intervals of {level:.2%}, which comparing "
            f"{REFERENCE} with {rivals} others takes: take at least {fewest_rounds(level)}."
        )


def _check_compiler(devices: Sequence[torch.device]) -> None:
    for device in devices:
        if error := compiler_error(device.type):
            raise UsageError(
                f"Nothing can be compiled for the device {device.type} ({error}): install a C++ "
                "compiler such as g++, or leave the compiled passes out with --eager."
            )


def _devices(name: str | None) -> list[torch.device]:
    """The one that is named, or every one there is."""
    there = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if name is not None and name not in there:
        raise UsageError(f"--device {name}, but torch sees no CUDA device: use --device cpu.")
    return [torch.device(device) for device in there if name in (None, device)]


if __name__ == "__main__":
    sys.exit(main())
