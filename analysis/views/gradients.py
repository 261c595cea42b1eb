"""The flow of gradients over depth: how large, and how even over the layers, beside LoRA's.

    gradients.{md,csv}              size, evenness over depth, shares of the thirds; size and
                                    evenness beside LoRA's
    gradients_layers.csv            the profile over depth, one row a layer
    gradients_<budget>.svg          heat map, layer by update, a panel a method
    gradients_depth_<budget>.svg    the profile over depth, a line a method

The norms are those of the stored curves: of each layer's trainable tensors together, before
clipping. A raw norm depends on how a method is parametrised and on how many parameters it has, so
each number comes a second time for norms divided by the square root of the layer's trainable
parameters (the root mean square of its gradient). Runs of a method and of LoRA that share function,
seed and frozen network are compared in pairs. What each number is stands under the tables. Diverged
runs are left out and named.
"""

from argparse import Namespace
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.gradients import depth_figure, flow_figure
from analysis.flow.load import load_runs
from analysis.flow.means import CELL, Groups, beside_lora, mean, parts
from analysis.flow.measures import SCALES, THIRDS
from analysis.legend import diverged_note, flags, setting_notes
from analysis.names import ALL, budget_title
from analysis.render import Grid
from analysis.render.output import Picture
from analysis.sections import numbers, sections
from analysis.stats.intervals import Interval
from analysis.stats.pairs import BASELINE
from analysis.study import Study
from analysis.text import interval_text, seed_list
from analysis.view import Shown
from qlexp.errors import UsageError

Measures = Mapping[str, Callable[[Interval], Interval]]  # what each mean's interval becomes

_OWN: Measures = {
    "norm": Interval.above_zero,
    "evenness_norm": Interval.within_unit,
    "rms": Interval.above_zero,
    "evenness_rms": Interval.within_unit,
}
_BESIDE: Measures = {
    "norm_over_lora": Interval.exp,
    "evenness_norm_minus_lora": lambda difference: difference,
    "rms_over_lora": Interval.exp,
    "evenness_rms_minus_lora": lambda difference: difference,
}


def show(study: Study, options: Namespace | None = None) -> Shown:
    """The gradients of a study; a `UsageError` where it has none over depth."""
    runs = load_runs(study.store, study.frame)
    _refuse_what_has_no_depth(runs, study.name)
    methods, layers = method_cells(beside_lora(runs), study.frame), layer_cells(runs)
    names = {"variant": "overrides"}
    return Shown(
        grids={"gradients": [*grids(methods, study, _depths(runs))]},
        frames={
            "gradients": methods.rename(columns=names),
            "gradients_layers": layers.rename(columns=names),
        },
        pictures=pictures(runs, layers, study.name),
    )


def _depths(runs: pd.DataFrame) -> list[int]:
    return sorted(runs["parameters"].map(len).unique())


def _refuse_what_has_no_depth(runs: pd.DataFrame, study: str) -> None:
    if runs.empty:
        raise UsageError(
            f"Study '{study}' has no run with gradients in a layer that did not diverge: it needs "
            "a method that trains."
        )
    if min(_depths(runs)) < 2:
        raise UsageError(
            f"Study '{study}' has networks of one layer, over which nothing can be even: it needs "
            "backbone.depth of at least 2."
        )


def method_cells(runs: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """One row a method and function, and one over all functions; `runs` as of `beside_lora`."""
    diverged = frame.loc[frame["status"] == "diverged", CELL]
    lost = pd.concat([diverged, diverged.assign(function=ALL)]).value_counts()
    return pd.DataFrame(
        {
            **cell,
            "runs": sum(map(len, groups)),
            "diverged": lost.get(tuple(cell.values()), 0),
            **_numbers(groups),
        }
        for cell, groups in parts(runs)
    )


def _numbers(groups: Groups) -> dict[str, float]:
    thirds = _limits(mean(groups, "thirds").within_unit(), "_share")
    pairs = [part[part["paired"]] for part in groups if part["paired"].any()]
    return {
        **_means(groups, _OWN),
        **{f"{third}{name}": thirds[name][i] for name in thirds for i, third in enumerate(THIRDS)},
        "outside_layers_share": float(mean(groups, "outside").value),
        "pairs": sum(map(len, pairs)),
        **_means(pairs, _BESIDE),
    }


def _means(groups: Groups, measures: Measures) -> dict[str, float]:
    return {
        name: float(value)
        for column, bounded in measures.items()
        for name, value in _limits(bounded(mean(groups, column)), column).items()
    }


def _limits(found: Interval, name: str) -> dict[str, np.ndarray]:
    """An interval's value and limits by the names of their columns."""
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def layer_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a method, function (and all of them) and layer."""
    tables = [
        pd.DataFrame(
            {
                **cell,
                "layer": range(len(parameters)),
                "parameters": parameters,
                **_limits(mean(groups, "norm_layers").above_zero(), "norm"),
                **_limits(mean(groups, "rms_layers").above_zero(), "rms"),
            }
        )
        for cell, groups in parts(runs)
        for parameters in groups[0]["parameters"].iloc[:1]
    ]
    return pd.concat(tables, ignore_index=True)


def grids(methods: pd.DataFrame, study: Study, depths: Sequence[int]) -> Iterator[Grid]:
    """Methods by what is said of their gradients, and beside LoRA's where anything is paired."""
    rows = methods[methods["function"] == ALL]
    evenness = ["evenness", "evenness / √parameters"]
    yield Grid(
        "gradients",
        f"Gradients over depth, study {study.name}",
        [
            *("method", "runs", *SCALES.values(), *evenness),
            *(f"{third} third" for third in THIRDS),
            "outside layers",
        ],
        sections(rows, _texts),
        _notes(study.frame, depths),
    )
    if (rows["pairs"] > 0).any():
        ratios = [f"{title}: ratio" for title in SCALES.values()]
        yield Grid(
            "gradients_pairs",
            f"Gradients beside LoRA's, study {study.name}",
            ["method", "pairs", *ratios, *(f"{title}: difference" for title in evenness)],
            sections(rows[rows["pairs"] > 0], _pair_texts),
            [_PAIR_NOTE],
        )


def _texts(label: str, cells: pd.DataFrame) -> Iterator[str]:
    (row,) = cells.to_dict("records")
    yield label
    yield (
        f"{row['runs']} of {row['runs'] + row['diverged']}" if row["diverged"] else str(row["runs"])
    )
    yield from _interval_texts(row, "norm", "rms", "evenness_norm", "evenness_rms")
    yield from numbers([row[f"{third}_share"] for third in THIRDS])
    yield from numbers([row["outside_layers_share"]])


def _pair_texts(label: str, cells: pd.DataFrame) -> Iterator[str]:
    (row,) = cells.to_dict("records")
    yield label
    yield str(row["pairs"])
    yield from _interval_texts(row, "norm_over_lora", "rms_over_lora")
    yield from _interval_texts(row, "evenness_norm_minus_lora", "evenness_rms_minus_lora")


def _interval_texts(row: Mapping[Hashable, Any], *names: str) -> list[str]:
    return [interval_text(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in names]


_PAIR_NOTE = (
    f"Runs of a method and of {BASELINE} on the same function, seed and frozen network, in pairs "
    "without diverged runs. Ratio: the method's mean norm over LoRA's, a geometric mean; 1 is as "
    "large. Difference: its evenness minus LoRA's; above 0 is more even. Means over functions of "
    "the means over seeds; in brackets 95 % intervals (Welch's t over pairs, of ratios on their "
    "logarithm) for new seeds on the same functions; none where a function has one pair."
)


def _notes(frame: pd.DataFrame, depths: Sequence[int]) -> list[str]:
    splits = (np.array_split(np.arange(depth), len(THIRDS)) for depth in depths)
    sizes = " or ".join("/".join(str(len(third)) for third in split) for split in splits)
    return [
        f"Means over functions of the means over {seed_list(frame['seed'])} and the recorded "
        "updates of a run; in brackets 95 % intervals (Welch's t; of norms on their logarithm, of "
        "evenness on its logit) for new seeds on the same functions; none where a function has one "
        "seed.",
        "Gradient norm: of a layer's trainable tensors together, before clipping. It depends on "
        "how a method is parametrised and on its number of parameters; √parameters is the root of "
        "the layer's trainable parameters.",
        "Evenness: -sum p ln p / ln depth, p a layer's share of the squared norm of all layers: 1 "
        "where all are equal, 0 where one has it all. Thirds: the sums of p over the first, middle "
        f"and last layers, {sizes} of them. Updates at which no layer has a gradient have neither. "
        "Outside layers: the share of the whole squared norm that belongs to no layer, such as a "
        "shared bank's.",
        *diverged_note(frame),
        *flags(frame),
        *setting_notes(frame),
    ]


def pictures(runs: pd.DataFrame, layers: pd.DataFrame, study: str) -> Iterator[Picture]:
    """The heat maps and the profiles of every budget; `layers` as of `layer_cells`."""
    for budget, own in runs.groupby("budget", sort=False):
        block, depths = budget_title(budget), " and ".join(map(str, _depths(own)))
        networks = f"networks of {depths} layers" if "and" in depths else ""
        title = f"{block}, study {study}"
        yield Picture(
            f"gradients_{budget}",
            f"Gradient norm by layer and update. {block}. Mean over functions and seeds; grey "
            "where it is 0.",
            flow_figure(own, title),
        )
        yield Picture(
            f"gradients_depth_{budget}",
            f"Gradient norm by layer, mean over updates. {block}. Right: over the root of the "
            "layer's trainable parameters. Bands: 95 % intervals over seeds."
            + f" Layers are counted from the first in {networks} alike."
            * bool(networks),
            depth_figure(
                layers[(layers["budget"] == budget) & (layers["function"] == ALL)],
                ", ".join(filter(None, [title, networks])),
            ),
        )
