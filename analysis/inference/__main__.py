"""Times a forward pass under every method: `python -m analysis.inference`.

    results/inference/inference.{md,csv,tex}  latency, throughput, FLOPs and parameters
    results/inference/inference_rounds.csv    seconds of every round
    results/inference/inference.svg           times over LoRA's

After the paper's Table 5: every method at the same backbone, rank, batch and length, as trained and
merged into the backbone where that is possible, eager and compiled, on every device there is.
Latency is the time of a pass over one point, throughput that of a batch. All contenders take turns
within each round, so ratios are of times that were taken side by side. The networks are drawn
anew and every trained weight is moved from its start: the time of a pass does not depend on what
was learned, so no store is read. What the paper says is set beside what was measured.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from analysis.cli import bare_parser, exit_code, writing
from analysis.inference.claims import claims_grid, joint_level, rivals_of
from analysis.inference.figure import ratios_figure
from analysis.inference.measure import MODES, REFERENCE, configs_of, measure
from analysis.inference.memory import check_memory
from analysis.inference.notes import setting_notes
from analysis.inference.report import Measured, cost_grid, long_table, rounds_table
from analysis.names import method_order
from analysis.outputs import write_csv, write_latex, write_markdown
from analysis.ratios import fewest_rounds
from analysis.render import markdown
from analysis.style import figure_style, save_svg
from qlexp.config.schema import Config
from qlexp.environment import keep_freed_memory
from qlexp.errors import UsageError, unknown_name
from qlexp.main import choices
from qlexp.train.compilation import compiler_error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    command = bare_parser(
        "analysis.inference", "Time a forward pass under every method.", "results/inference"
    )
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
    _check(options)
    devices = _devices(options.device)
    methods = _methods(options.methods)
    for kind, names in (("method", methods), ("backbone", options.backbone)):
        for name in names:
            if name not in choices(kind):
                raise unknown_name(kind, name, choices(kind))
    sized = {
        backbone: configs_of(sorted(methods, key=method_order), backbone, options.rank)
        for backbone in dict.fromkeys(options.backbone)
    }
    _check_rounds(options.repeats, next(iter(sized.values())))
    check_memory(sized, options.batch, devices)
    modes = MODES[:1] if options.eager else MODES
    if "compiled" in modes:
        _check_compiler(devices)
    keep_freed_memory()
    with writing(Path(options.out)):
        pass  # refused before minutes of measuring, not after them
    measured = Measured(
        [
            row
            for backbone, configs in sized.items()
            for device in devices
            for row in measure(
                configs, backbone, device, (1, options.batch), modes, options.repeats
            )
        ]
    )
    shapes = {backbone: configs[0].backbone for backbone, configs in sized.items()}
    notes = setting_notes(measured, shapes, devices, options.rank, options.repeats)
    with writing(Path(options.out)) as folder:
        write(measured, notes, folder)
    print(markdown(claims_grid(measured)))
    print(folder)


def _check(options: argparse.Namespace) -> None:
    if options.batch < 2:
        raise UsageError(
            f"--batch {options.batch}: throughput wants at least 2 points; batch 1, the latency, "
            "is always measured."
        )


def _methods(listed: str | None) -> list[str]:
    """Those of a list with commas; all where there is no list."""
    if listed is None:
        return choices("method")
    if not listed.strip():
        raise UsageError(
            "--methods names none: list some of conf/method, such as dora,hyra, or leave the "
            "option out for all."
        )
    return [name.strip() for name in listed.split(",")]


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


def write(measured: Measured, notes: Sequence[str], folder: Path) -> None:
    """Every file of the command."""
    grids = (cost_grid(measured, notes), claims_grid(measured))
    write_markdown(folder / "inference.md", *grids)
    write_latex(folder / "inference.tex", *grids)
    write_csv(folder / "inference.csv", long_table(measured))
    write_csv(folder / "inference_rounds.csv", rounds_table(measured))
    with figure_style():
        save_svg(ratios_figure(measured), folder / "inference.svg")


if __name__ == "__main__":
    sys.exit(main())
