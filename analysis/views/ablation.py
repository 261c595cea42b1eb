"""Losses against the settings that a study sweeps, and the effect of each value.

    ablation.svg            loss and paired ratio against the setting, by function
    ablation.{md,csv,tex}   the same numbers, one row a method, setting and function, and the ratio
                            over all functions
    ablation_effects.*      each value of a setting over its first, of the loss or of its ratio to
                            LoRA's, averaged over the other settings (`analysis.stats.effects`);
                            same formats

`--loss` names another loss than the one that decides; its files then begin with `ablation_<loss>`.

A study that sweeps several settings gets one figure for each, `ablation_<setting>.svg`, with a line
for each value of the others; `--axis` draws one. Methods that do not have the setting, such as LoRA
beside a sweep of atoms, are level lines.

The upper panels show the geometric mean over seeds with a 95 % interval (Student's t on the log
loss), the lower ones that of the ratio to LoRA's run beside it (`analysis.stats.beside`) or,
without LoRA, to the method's own at the first value. A value with a seed that diverged has no mean:
it leaves a gap, marked at the panel's upper edge and counted in its corner.
"""

import math
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from analysis.benchmark import DECIDING, benchmark_of
from analysis.figures.ablation import ablation_figure
from analysis.legend import (
    NOT_LEARNABLE,
    OFF_BUDGET_NOTE,
    STYLE_NOTE,
    deciding_note,
    flags,
    noise_note,
    setting_notes,
    unchecked,
)
from analysis.load import finished
from analysis.names import ALL, loss_title
from analysis.render import NO_CELL, Grid
from analysis.render.output import Picture
from analysis.rows import beside, function_titles, in_order
from analysis.sections import sections
from analysis.settings import swept
from analysis.stats.effects import CHANGE, GAPS, LOSS, RATIO, effects
from analysis.stats.estimates import Sweep, estimates, ratio_label
from analysis.stats.intervals import CONFIDENCE
from analysis.stats.pairs import BASELINE
from analysis.study import Study
from analysis.text import interval_text
from analysis.view import Shown
from qlexp.config.settings import is_shared
from qlexp.errors import UsageError, unknown_name


def add_options(command: ArgumentParser) -> None:
    command.add_argument("--axis", help="the setting to draw, such as method.block_size")
    command.add_argument("--loss", help=f"what is drawn ({DECIDING})")


def show(study: Study, options: Namespace) -> Shown:
    """Raises a `UsageError` for a study that sweeps nothing, or not `options.axis`, has no finished
    run, or runs without the loss that is asked for."""
    benchmark = study.benchmark
    loss = benchmark.chosen(options.loss, (*benchmark.losses, *benchmark.extra_losses))
    axes = swept_axes(study.frame, study.name, options.axis)
    if finished(study.frame).empty:
        raise UsageError(f"Study '{study.name}' has no finished run to draw.")
    wide = [name for name in study.frame if name.startswith(("config.", "versions."))]
    cells = with_loss(study.frame.drop(columns=wide), loss)  # a wide one is slow to group
    points, changes = estimates(cells, axes), effects(cells, list(axes))
    stem = "ablation" if loss == benchmark.deciding else f"ablation_{loss}"
    grids = {stem: [estimates_grid(study, points, axes, loss, stem)]}
    frames = {stem: points}
    if not changes.empty:
        name = f"{stem}_effects"
        grids[name] = [effects_grid(study, changes, axes, loss, name)]
        frames[name] = changes
    shown = [options.axis] if options.axis else list(axes)
    return Shown(grids, frames, pictures(points, axes, loss, shown, stem), list(grids))


def swept_axes(frame: pd.DataFrame, study: str, asked: str | None = None) -> Sweep:
    """The swept settings with their values.

    Raises:
        UsageError: there is none, or `asked` is none of them.
    """
    axes = swept(frame)
    if not axes:
        raise UsageError(
            f"Study '{study}' sweeps no setting besides function, method, seed and budget: name a "
            f"study that does, such as block_size, or render this one with `qlexp show tables "
            f"{study}`."
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
    done, lost = (frame["status"] == status for status in ("done", "diverged"))
    values = pd.to_numeric(frame[loss]) if loss in frame else pd.Series(math.nan, frame.index)
    if loss in (extra := benchmark_of(frame).extra_losses):
        if values[done].isna().all():
            raise UsageError(f"No run of this study has a {loss}: it takes {extra[loss]}.")
        having = frame["method"].isin(frame.loc[values.notna(), "method"])
        lost = having & (lost | done & values.isna())  # null in the store: not finite
    return frame.assign(loss=values.mask(lost, math.inf))


def pictures(
    points: pd.DataFrame, axes: Sweep, loss: str, shown: Iterable[str], stem: str
) -> Iterator[Picture]:
    """A figure for each of the axes that are `shown`; `points` as `estimates` gives them."""
    ratio, ends = ratio_label(points), Counter(axis.rpartition(".")[2] for axis in axes)
    for axis in shown:
        end = axis.rpartition(".")[2]
        end = end if ends[end] == 1 else axis.replace(".", "_")
        caption = (
            f"{loss_title(loss)} against {axis}: geometric mean over seeds; below, {ratio}. "
            f"Bands: {CONFIDENCE:.0%} intervals."
        )
        figure = ablation_figure(points, axis, axes, loss, ratio)
        yield Picture(f"{stem}_{end}" if len(axes) > 1 else stem, caption, figure)


def estimates_grid(study: Study, points: pd.DataFrame, axes: Sweep, loss: str, label: str) -> Grid:
    """Rows by method and setting, functions beside each other, a section a budget."""
    functions = in_order(points["function"])
    several = len(functions) > 1
    titles = function_titles(study.frame, functions)
    headers = [
        "method",
        *axes,
        "trainable",
        *(word for title in titles for word in (title, "ratio")),
    ]
    headers += ["all functions: ratio"] * several

    def texts(title: str, row: pd.DataFrame, *values: str) -> Iterator[str]:
        counts = set("/".join(row["trainable_parameters"]).split("/")) - {""}
        yield title
        yield from (value or NO_CELL for value in values)
        yield "/".join(sorted(counts, key=int)) or NO_CELL
        for point in beside(row, functions):
            yield from (_loss_text(point), _ratio_text(point)) if point else (NO_CELL, NO_CELL)
        yield from map(_ratio_text, filter(None, beside(row, [ALL])))

    ratio = ratio_label(points)
    told = {
        f"{loss}: geometric mean over seeds [{CONFIDENCE:.0%} interval, Student's t on the log "
        f"loss]; ratio: {ratio}, paired by seed, with the interval of the log ratios; no "
        "correction for the number of intervals. The CSV has the arithmetic means too.": True,
        "All functions: geometric mean of the ratio over functions, with Welch's interval for new "
        f"seeds on the same functions; {NO_CELL} where a function's is unknown or was not asked "
        f"for; without those marked {NOT_LEARNABLE}.": several,
        "inf (k/n): k of n runs diverged or ended above the ceiling of their config, so there is "
        "no mean and no ratio.": points["infinite"].any(),
        OFF_BUDGET_NOTE: points["off_budget"].any(),
    }
    caption = f"{loss_title(loss).capitalize()} by {', '.join(axes)}, study {study.name}"
    found = sections(points, texts, list(axes), lone_title=False)
    return Grid(label, caption, headers, found, _notes(study, points, loss, told))


def _notes(study: Study, cells: pd.DataFrame, loss: str, told: dict[str, Any]) -> list[str]:
    """The texts that hold, and what both tables of an ablation say of the study."""
    return [
        *(text for text, holds in told.items() if holds),
        *[STYLE_NOTE] * bool(cells["reading"].any()),
        *deciding_note(study.frame),
        *noise_note(study.frame, loss),
        *flags(study.frame),
        *unchecked(study.frame),
        *setting_notes(study.frame),
    ]


def _loss_text(point: dict[str, Any]) -> str:
    """`0.123 [0.1, 0.2]`, `inf (1/3)`, `0.123 [0.1, 0.2], 1 failed`."""
    if point["infinite"]:
        text = f"inf ({point['infinite']}/{point['runs']})"
    else:
        text = interval_text(point["geometric_mean"], point["low"], point["high"])
    gaps = [f"{point[word]} {word}" for word in ("missing", "failed") if point[word]]
    return ", ".join([text] * bool(point["runs"]) + gaps) or NO_CELL


def _ratio_text(point: dict[str, Any]) -> str:
    return interval_text(point["ratio"], point["ratio_low"], point["ratio_high"])


def effects_grid(study: Study, table: pd.DataFrame, axes: Sweep, loss: str, label: str) -> Grid:
    """Rows by method, setting and value, functions beside each other, a section a budget.

    Args:
        table: what `effects` makes of the study, not empty.
    """
    functions, kinds = in_order(table["function"]), set(table["of"])
    change = [name for name in CHANGE if len(kinds) > 1 or name != "of"]
    overall = [ALL] * (len(functions) > 1)
    headers = ["method", *("over" if name == "first" else name for name in change)]
    headers += [*function_titles(study.frame, functions), *["all functions"] * len(overall)]

    def texts(title: str, row: pd.DataFrame, *_: str) -> Iterator[str]:
        yield title
        yield from row.iloc[0][change]
        yield from map(_effect_text, beside(row, [*functions, *overall]))

    settings = list(dict.fromkeys(table["setting"]))
    what = loss_title(loss) + f" over {BASELINE}'s" * (kinds == {RATIO})
    caption = f"Effects on the {what} of {', '.join(settings)}, study {study.name}"
    notes = _notes(study, table, loss, _effect_notes(table, axes, loss))
    found = sections(table, texts, CHANGE, lone_title=False)
    return Grid(label, caption, headers, found, notes)


def _effect_text(effect: dict[str, Any] | None) -> str:
    """`0.97 [0.91, 1.02]`, or what the ratio lacks."""
    if effect is None:
        return NO_CELL
    gaps = [f"{effect[name]} {word}" for name, word in GAPS.items() if effect[name]]
    return ", ".join(gaps) or interval_text(effect["ratio"], effect["low"], effect["high"])


def _effect_notes(table: pd.DataFrame, axes: Sweep, loss: str) -> dict[str, Any]:
    kinds, settings = set(table["of"]), set(table["setting"])
    told, untold = (
        [axis for axis in axes if is_shared(axis) and (axis in settings) == known]
        for known in (True, False)
    )
    names = {LOSS: loss, RATIO: f"{loss} over {BASELINE}'s"}
    compared = ", or ".join(name for of, name in names.items() if of in kinds)
    return {
        f"{compared}: at a value over that at the setting's first one, at the same function, seed "
        "and other settings; geometric mean over the other settings, then over seeds "
        f"[{CONFIDENCE:.0%} interval, Student's t on the log ratios of the seeds]; all functions: "
        f"geometric mean over those not marked {NOT_LEARNABLE} [Welch's t]; {NO_CELL}: not asked "
        "for at both values, or unknown on one of all functions; no correction for the number of "
        "intervals.": True,
        "Where losses are compared, below 1 the value has the lower one. Values may differ in "
        "trainable parameters, which stand beside the losses.": LOSS in kinds,
        f"Another value of {', '.join(told)} is another task for all methods, so what is compared "
        f"is the loss over {BASELINE}'s at the same value: below 1 the method stands better beside "
        f"{BASELINE} at the value than at the first one.": told,
        f"No effects of {', '.join(untold)}: another value is another task for all methods, and no "
        f"method has a run of {BASELINE} beside it at two of them.": untold,
        "k diverged, missing, failed or not asked for: of the runs that a ratio wants, which is "
        "therefore unknown.": table[list(GAPS)].any(axis=None),
    }
