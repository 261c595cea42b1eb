"""Renders an ablation: `python -m analysis.ablation --study block_size`.

    results/<study>/ablation.svg            loss and paired ratio against the setting, by function
    results/<study>/ablation.{md,csv,tex}   the same numbers, one row a method, setting and
                                            function, and the ratio over all functions
    results/<study>/ablation_effects.*      each value of a setting over its first, of the loss or
                                            of its ratio to LoRA's, averaged over the other settings
                                            (`analysis.ablation.effects`); same formats

`--loss` names another loss than the test loss; its files then begin with `ablation_<loss>`.

The setting is the one that the study's overrides sweep. A study that sweeps several gets one figure
for each, `ablation_<setting>.svg`, with a line for each value of the others; `--axis` draws one.
Methods that do not have the setting, such as LoRA beside a sweep of atoms, are level lines.

The upper panels show the geometric mean over seeds with a 95 % interval (Student's t on the log
loss); the lower ones the geometric mean of the ratio to the loss of LoRA's run beside it
(`analysis.ablation.beside`), with the interval of the paired log ratios, the last of them over all
functions. In a study without LoRA the ratio is to the method's own loss at the setting's first
value. A value with a seed that diverged has no mean: it leaves a gap, marked at the panel's upper
edge and counted in its corner. A study with missing or failed cells is refused unless
`--allow-missing` is given.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.ablation.tables import EXTRA_LOSSES, LOSS, ablation_tables, pictures, swept_axes
from analysis.cli import exit_code, parser, read_study, writing
from analysis.load import LOSSES, finished
from analysis.outputs import write_csv, write_pictures, write_table
from analysis.style import figure_style
from qlexp.errors import UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    command = parser("analysis.ablation", "Draw a study's loss against the setting that it sweeps.")
    command.add_argument("--axis", help="the setting to draw, such as method.block_size")
    command.add_argument(
        "--loss",
        default=LOSS,
        choices=[*LOSSES, *EXTRA_LOSSES],
        help="what is drawn (%(default)s)",
    )
    options = command.parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    _, frame = read_study(options)
    axes = swept_axes(frame, options.study, options.axis)
    if finished(frame).empty:
        raise UsageError(f"Study '{options.study}' has no finished run to draw.")
    tables = ablation_tables(frame, axes, options.loss, options.study)
    points = tables[0][1]
    with figure_style(), writing(Path(options.out) / options.study) as folder:
        for grid, table in tables:
            write_csv(folder / f"{grid.label}.csv", table)
            write_table(folder, grid)
        shown = [options.axis] if options.axis else list(axes)
        for path in write_pictures(folder, pictures(points, axes, options.loss, shown)):
            print(path)


if __name__ == "__main__":
    sys.exit(main())
