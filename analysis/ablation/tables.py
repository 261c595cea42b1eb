"""An ablation as tables and figures, of the loss that is asked for."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator

import pandas as pd

from analysis.ablation.effects import effects, effects_grid
from analysis.ablation.estimates import estimates, estimates_grid, ratio_label
from analysis.figures.ablation import ablation_figure
from analysis.outputs import Picture
from analysis.render import Grid
from analysis.settings import swept
from analysis.statistics.intervals import CONFIDENCE
from qlexp.errors import UsageError, unknown_name

LOSS = "test_loss"
EXTRA_LOSSES = ("unseen_loss", "paraphrased_loss")  # of studies with several targets


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
    lost = (done & values.isna()) | (frame["status"] == "diverged")  # null in the store: not finite
    return frame.assign(loss=values.mask(having & lost, math.inf))


def stem(loss: str) -> str:
    """What the names of all files of an ablation of `loss` begin with."""
    return "ablation" if loss == LOSS else f"ablation_{loss}"
