"""The flow of gradients over depth: how large, and how even over the layers, beside LoRA's.

    gradients.{md,csv}              size, evenness over depth, shares of the thirds; size and
                                    evenness beside LoRA's
    gradients_layers.csv            the profile over depth, one row a layer
    gradients_<budget>.svg          heat map, layer by update, a panel a method
    gradients_depth_<budget>.svg    the profile over depth, a line a method

The norms are those of the stored curves: of each layer's trainable tensors together, before
clipping. A raw norm depends on how a method is parametrised and on how many parameters it has, so
each number comes a second time for norms divided by the square root of the layer's trainable
parameters (the root mean square of its gradient). What belongs to no layer, such as a shared bank,
is counted apart.

*Evenness* is the normalised entropy of the layers' shares of the squared norm: with
p_l = g_l² / sum_j g_j², it is -sum_l p_l ln p_l / ln depth, 1 where all layers have the same norm
and 0 where one has it all; a run's number is its mean over the recorded updates at which a layer
has a gradient. Runs of a method and of LoRA that share function, seed and frozen network are
compared in pairs: by the ratio of their mean norms and the difference of their evenness.

Means are over functions of the means over seeds. Intervals are Welch's, for new seeds on the same
functions; of norms and their ratios on the logarithm, of evenness and of shares on the logit.
Diverged runs are left out and named.
"""

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.figures.gradients import depth_figure, flow_figure
from analysis.stats.intervals import Interval
from analysis.flow.load import ROW, load_runs
from analysis.flow.means import Groups, beside_lora, mean, parts
from analysis.flow.measures import SCALES, THIRDS, Array
from analysis.names import ALL, budget_title, row_label
from analysis.legend import diverged_note, flags, setting_notes
from analysis.text import interval_text, number, seed_list
from analysis.outputs import Picture
from analysis.render import Grid, Section, Text
from analysis.stats.pairs import BASELINE
from analysis.study import Study
from analysis.view import Shown
from qlexp.errors import UsageError

_SHARES = [f"{third}_share" for third in THIRDS]


def show(study: Study, options: Namespace) -> Shown:
    """Raises a `UsageError` where there are no gradients over depth."""
    runs = load_runs(study.store, study.frame)
    _refuse_what_has_no_depth(runs, study.name)
    methods, layers = method_cells(beside_lora(runs), study.frame), layer_cells(runs)
    return Shown(
        grids={"gradients": grids(methods, study, _depths(runs))},
        frames={"gradients": methods, "gradients_layers": layers},
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
    diverged = frame[frame["status"] == "diverged"]
    lost = pd.concat([diverged, diverged.assign(function=ALL)]).value_counts([*ROW, "function"])
    return pd.DataFrame(
        {
            **_place(row, function),
            "runs": sum(map(len, groups)),
            "diverged": lost.get((*row, function), 0),
            **_means(groups),
            **_pair_means([part[part["paired"]] for part in groups if part["paired"].any()]),
        }
        for row, own in runs.groupby(ROW, sort=False)
        for function, groups in parts(own)
    )


def layer_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a method, function (and all of them) and layer."""
    tables = [
        pd.DataFrame(
            {
                **_place(row, function),
                "layer": range(len(parameters)),
                "parameters": parameters,
                **{
                    f"{scale}{suffix}": values
                    for scale in SCALES
                    for suffix, values in _limits(mean(groups, f"{scale}_layers").above_zero())
                },
            }
        )
        for row, own in runs.groupby(ROW, sort=False)
        for function, groups in parts(own)
        for parameters in groups[0]["parameters"].iloc[:1]
    ]
    return pd.concat(tables, ignore_index=True)


def _place(row: Sequence[str], function: str) -> dict[str, str]:
    return dict(zip(("budget", "method", "overrides", "function"), (*row, function), strict=True))


def _means(groups: Groups) -> dict[str, float]:
    found: dict[str, float] = {}
    for scale in SCALES:
        found |= _columns([scale], mean(groups, scale).above_zero())
        found |= _columns([f"evenness_{scale}"], mean(groups, f"evenness_{scale}").within_unit())
    found |= _columns(_SHARES, mean(groups, "thirds").within_unit())
    return found | {"outside_layers_share": float(mean(groups, "outside").value)}


def _pair_means(groups: Groups) -> dict[str, float]:
    """Of pairs alone; the ratio is the geometric mean, its interval that of the logarithm."""
    found: dict[str, float] = {"pairs": sum(map(len, groups))}
    for scale in SCALES:
        ratio, difference = f"{scale}_over_lora", f"evenness_{scale}_minus_lora"
        logs = _columns([ratio], mean(groups, ratio))
        with np.errstate(over="ignore"):
            found |= {name: float(np.exp(value)) for name, value in logs.items()}
        found |= _columns([difference], mean(groups, difference))
    return found


def _columns(names: Sequence[str], found: Interval) -> dict[str, float]:
    """An interval's value and limits, each of one number a name."""
    return {
        f"{name}{suffix}": float(value)
        for suffix, values in _limits(found)
        for name, value in zip(names, np.atleast_1d(values), strict=True)
    }


def _limits(found: Interval) -> list[tuple[str, Array]]:
    return [("", found.value), ("_low", found.low), ("_high", found.high)]


def grids(methods: pd.DataFrame, study: Study, depths: Sequence[int]) -> list[Grid]:
    """Methods by what is said of their gradients, and beside LoRA's where anything is paired."""
    rows = methods[methods["function"] == ALL]
    runs, known = rows["runs"].astype(str), (rows["runs"] + rows["diverged"]).astype(str)
    evenness = {"evenness": "evenness_norm", "evenness / √parameters": "evenness_rms"}
    sizes = {title: scale for scale, title in SCALES.items()}
    shares = {f"{third} third": f"{third}_share" for third in THIRDS}
    shares["outside layers"] = "outside_layers_share"
    own = _grid(
        rows,
        {"runs": runs.where(rows["diverged"] == 0, runs + " of " + known)}
        | {title: _interval_texts(rows, name) for title, name in (sizes | evenness).items()}
        | {title: rows[name].map(number) for title, name in shares.items()},
        "gradients",
        f"Gradients over depth, study {study.name}",
        _notes(study.frame, depths),
    )
    rows = rows[rows["pairs"] > 0]
    if rows.empty:
        return [own]
    ratios = {f"{title}: ratio": f"{name}_over_lora" for title, name in sizes.items()}
    differences = {f"{title}: difference": f"{name}_minus_lora" for title, name in evenness.items()}
    beside = _grid(
        rows,
        {"pairs": rows["pairs"].astype(str)}
        | {title: _interval_texts(rows, name) for title, name in (ratios | differences).items()},
        "gradients_pairs",
        f"Gradients beside LoRA's, study {study.name}",
        _PAIR_NOTES,
    )
    return [own, beside]


def _grid(
    rows: pd.DataFrame,
    texts: Mapping[str, Sequence[str]],
    label: str,
    caption: str,
    notes: Sequence[str],
) -> Grid:
    """A section a budget, its rows after their methods the columns of `texts`."""
    methods = map(row_label, rows["method"], rows["overrides"])
    table = pd.DataFrame({"method": list(methods), **texts}, index=rows.index)
    sections = [
        Section(budget_title(budget), [list(map(Text, row)) for row in part.to_numpy()])
        for budget, part in table.groupby(rows["budget"], sort=False)
    ]
    return Grid(label, caption, list(table), sections, notes)


def _interval_texts(rows: pd.DataFrame, name: str) -> list[str]:
    limits = rows[[name, f"{name}_low", f"{name}_high"]].to_numpy()
    return [interval_text(*values) for values in limits]


_PAIR_NOTES = (
    f"Runs of a method and of {BASELINE} on the same function, seed and frozen network, in "
    "pairs without diverged runs. Ratio: the method's mean norm over LoRA's, a geometric mean; "
    "1 is as large. Difference: its evenness minus LoRA's; above 0 is more even. Means over "
    "functions of the means over seeds; in brackets 95 % intervals (Welch's t over pairs, of "
    "ratios on their logarithm) for new seeds on the same functions; none where a function has "
    "one pair.",
)


def _notes(frame: pd.DataFrame, depths: Sequence[int]) -> list[str]:
    splits = (np.array_split(np.arange(depth), len(THIRDS)) for depth in depths)
    sizes = " or ".join("/".join(str(len(third)) for third in split) for split in splits)
    notes = [
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
    ]
    return [*notes, *diverged_note(frame), *flags(frame), *setting_notes(frame)]


def pictures(runs: pd.DataFrame, layers: pd.DataFrame, study: str) -> Iterator[Picture]:
    """The heat maps and the profiles of every budget; `layers` as of `layer_cells`."""
    layers = layers[layers["function"] == ALL].rename(columns={"overrides": "variant"})
    for budget, own in runs.groupby("budget", sort=False):
        block = budget_title(budget)
        title, depths = f"{block}, study {study}", " and ".join(map(str, _depths(own)))
        networks = f"networks of {depths} layers" if "and" in depths else ""
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
            + (f" Layers are counted from the first in {networks} alike." if networks else ""),
            depth_figure(
                layers[layers["budget"] == budget], f"{title}, {networks}" if networks else title
            ),
        )
