"""Renders an ablation: `python -m analysis.ablation --study block_size`.

    results/<study>/ablation.svg            loss and paired ratio against the setting, by function
    results/<study>/ablation.{md,csv,tex}   the same numbers, one row a method, setting and
                                            function, and the ratio over all functions
    results/<study>/ablation_effects.*      each value of a setting over its first, of the loss or
                                            of its ratio to LoRA's, averaged over the other settings
                                            (`analysis.effects`); same formats

`--loss` names another loss than the test loss; its files then begin with `ablation_<loss>`.

The setting is the one that the study's overrides sweep. A study that sweeps several gets one figure
for each, `ablation_<setting>.svg`, with a line for each value of the others; `--axis` draws one.
Methods that do not have the setting, such as LoRA beside a sweep of atoms, are level lines.

The upper panels show the geometric mean over seeds with a 95 % interval (Student's t on the log
loss); the lower ones the geometric mean of the ratio to the loss of LoRA's run beside it
(`analysis.beside`), with the interval of the paired log ratios, the last of them over all
functions. In a study without LoRA the ratio is to the method's own loss at the setting's first
value. A value with a seed that diverged has no mean: it leaves a gap, marked at the panel's upper
edge and counted in its corner. A study with missing or failed cells is refused unless
`--allow-missing` is given.
"""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from analysis.cli import exit_code, parser, read_study, writing
from analysis.effects import effects, effects_grid
from analysis.estimates import estimates, estimates_grid, ratio_label
from analysis.figures.ablation import ablation_figure
from analysis.load import LOSSES, finished
from analysis.outputs import Picture, write_csv, write_pictures, write_table
from analysis.overrides import swept
from analysis.render import Grid
from analysis.statistics.intervals import CONFIDENCE
from analysis.style import figure_style
from qlexp.errors import UsageError, unknown_name
from qlexp.store import FINISHED

LOSS = "test_loss"
EXTRA_LOSSES = ("unseen_loss", "paraphrased_loss")  # of studies with several targets


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


def ablation_tables(
    frame: pd.DataFrame, axes: dict[str, list[str]], loss: str, study: str
) -> list[tuple[Grid, pd.DataFrame]]:
    """The losses, and the effects where values can be compared, each as a grid and a long table.

    Raises:
        UsageError: the study's runs do not have that loss.
    """
    wide = [name for name in frame if name.startswith(("config.", "versions."))]
    cells = with_loss(frame.drop(columns=wide), loss)  # a wide table is slow to group
    points, changes = estimates(cells, axes), effects(cells, list(axes))
    tables = [(estimates_grid(frame, points, axes, loss, stem(loss), study), points)]
    if not changes.empty:
        label = f"{stem(loss)}_effects"
        tables.append((effects_grid(frame, changes, list(axes), loss, label, study), changes))
    return tables


def pictures(
    points: pd.DataFrame, axes: dict[str, list[str]], loss: str, shown: Iterable[str]
) -> Iterator[Picture]:
    """A figure for each of the axes that are `shown`; `points` as `estimates` gives them."""
    ratio, ends = ratio_label(points), Counter(axis.rpartition(".")[2] for axis in axes)
    for axis in shown:
        end = axis.rpartition(".")[2]
        end = end if ends[end] == 1 else axis.replace(".", "_")
        name = f"{stem(loss)}_{end}" if len(axes) > 1 else stem(loss)
        caption = (
            f"{loss.replace('_', ' ')} against {axis}: geometric mean over seeds; below, {ratio}. "
            f"Bands: {CONFIDENCE:.0%} intervals."
        )
        yield Picture(name, caption, ablation_figure(points, axis, axes, loss, ratio))


def swept_axes(frame: pd.DataFrame, study: str, asked: str | None = None) -> dict[str, list[str]]:
    """The swept settings with their values.

    Raises:
        UsageError: there is none, or `asked` is none of them.
    """
    axes = swept(frame)
    if not axes:
        raise UsageError(
            f"Study '{study}' sweeps no setting besides function, method, seed and budget: name a "
            "study that does, such as block_size, or render this one with analysis.tables."
        )
    if asked is not None and asked not in axes:
        raise unknown_name(f"setting swept by study {study}", asked, axes)
    return axes


def with_loss(frame: pd.DataFrame, loss: str) -> pd.DataFrame:
    """`frame` with a column `loss`: infinite where it is not finite, NaN without a finished run and
    where the method has no such loss.

    Raises:
        UsageError: the study's runs do not have that loss.
    """
    done = frame["status"] == "done"
    values = frame[loss] if loss in frame else pd.Series(math.nan, index=frame.index)
    values = pd.to_numeric(values)
    if loss not in EXTRA_LOSSES:
        return frame.assign(loss=values.mask(frame["status"] == "diverged", math.inf))
    if values[done].isna().all():
        raise UsageError(
            f"No run of this study has a {loss}: it takes several targets, such as "
            "shift.targets=8, and for paraphrased_loss a method that reads a text."
        )
    having = frame["method"].isin(frame.loc[values.notna(), "method"])
    lost = frame["status"].isin(FINISHED) & values.isna()  # the store's null is not finite
    return frame.assign(loss=values.mask(having & lost, math.inf))


def stem(loss: str) -> str:
    """What the names of all files of an ablation of `loss` begin with."""
    return "ablation" if loss == LOSS else f"ablation_{loss}"


if __name__ == "__main__":
    sys.exit(main())
