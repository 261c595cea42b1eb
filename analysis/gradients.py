"""Renders the flow of gradients over depth: `python -m analysis.gradients --study quick`.

    results/<study>/gradients.{md,csv}              size, evenness over depth, shares of the thirds;
                                                    size and evenness beside LoRA's
    results/<study>/gradients_layers.csv            the profile over depth, one row a layer
    results/<study>/gradients_<budget>.svg          heat map, layer by update, a panel a method
    results/<study>/gradients_depth_<budget>.svg    the profile over depth, a line a method

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

Means are over functions of the means over seeds. Intervals are those of
`analysis.stats.intervals`, for new seeds on the same functions; of norms and their ratios on
the logarithm (`analysis.flow.intervals`), of evenness and of shares on the logit. Diverged runs are
left out and named. A study with missing or failed cells is refused unless `--allow-missing` is
given.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.cells import variants
from analysis.cli import exit_code, parser, read_study, writing
from analysis.figures.gradients import depth_figure, flow_figure
from analysis.flow.intervals import Interval
from analysis.flow.load import load_rows
from analysis.flow.measures import SCALES, THIRDS
from analysis.flow.pairs import Pairs, beside_lora
from analysis.flow.rows import Row
from analysis.load import finished, seed_list
from analysis.names import ALL, budget_order, budget_title
from analysis.notes import diverged_note, flags, interval_text, number, setting_notes
from analysis.outputs import Picture, write_csv, write_markdown, write_pictures
from analysis.render import Grid, Section, Text
from analysis.stats.pairs import BASELINE
from analysis.style import figure_style
from qlexp.errors import UsageError
from qlexp.store.store import Store

Blocks = dict[str, list[Row]]  # by budget


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    command = parser("analysis.gradients", "Render the flow of gradients over depth of a study.")
    options = command.parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    store, frame = read_study(options)
    blocks = load_blocks(store, frame)
    _refuse_what_has_no_depth(blocks, options.study)
    with figure_style(), writing(Path(options.out) / options.study) as folder:
        write_csv(folder / "gradients.csv", method_cells(blocks))
        write_csv(folder / "gradients_layers.csv", layer_cells(blocks))
        grids = [gradient_grid(blocks, frame, options.study), *pair_grids(blocks, options.study)]
        write_markdown(folder / "gradients.md", *grids)
        write_pictures(folder, pictures(blocks, options.study))
    print(f"{sum(map(len, blocks.values()))} rows -> {folder}")


def load_blocks(store: Store, frame: pd.DataFrame) -> Blocks:
    """The rows of every budget that has gradients in a layer."""
    cells = finished(frame.assign(variant=variants(frame)))
    blocks = {
        budget: load_rows(store, cells[cells["budget"] == budget])
        for budget in sorted(cells["budget"].unique(), key=budget_order)
    }
    return {budget: rows for budget, rows in blocks.items() if rows}


def pictures(blocks: Blocks, study: str) -> Iterator[Picture]:
    """The heat maps and the profiles of every budget."""
    for budget, rows in blocks.items():
        title, networks = f"{budget_title(budget)}, study {study}", _networks(rows)
        yield Picture(
            f"gradients_{budget}",
            f"Gradient norm by layer and update. {budget_title(budget)}. Mean over functions and "
            "seeds; grey where it is 0.",
            flow_figure(rows, title),
        )
        yield Picture(
            f"gradients_depth_{budget}",
            f"Gradient norm by layer, mean over updates. {budget_title(budget)}. Right: over the "
            "root of the layer's trainable parameters. Bands: 95 % intervals over seeds."
            + (f" Layers are counted from the first in {networks} alike." if networks else ""),
            depth_figure(rows, f"{title}, {networks}" if networks else title),
        )


def _networks(rows: list[Row]) -> str:
    """`networks of 8 and 32 layers` where the depth is not the same in all."""
    depths = sorted({row.depth for row in rows})
    return f"networks of {' and '.join(map(str, depths))} layers" if len(depths) > 1 else ""


def has_depth(blocks: Blocks) -> bool:
    """Whether there are networks, all of two layers or more."""
    return min(_depths(blocks), default=0) > 1


def _depths(blocks: Blocks) -> list[int]:
    return sorted({row.depth for rows in blocks.values() for row in rows})


def _refuse_what_has_no_depth(blocks: Blocks, study: str) -> None:
    if not blocks:
        raise UsageError(
            f"Study '{study}' has no run with gradients in a layer that did not diverge: it needs "
            "a method that trains."
        )
    if not has_depth(blocks):
        raise UsageError(
            f"Study '{study}' has networks of one layer, over which nothing can be even: it needs "
            "backbone.depth of at least 2."
        )


def gradient_grid(blocks: Blocks, frame: pd.DataFrame, study: str) -> Grid:
    """Methods by what is said of their gradients, a section a budget."""
    headers = ["method", "runs", *SCALES.values(), "evenness", "evenness / √parameters"]
    headers += [f"{third} third" for third in THIRDS] + ["outside layers"]
    sections = [
        Section(budget_title(budget), [_texts(row) for row in rows])
        for budget, rows in blocks.items()
    ]
    caption = f"Gradients over depth, study {study}"
    return Grid("gradients", caption, headers, sections, _notes(blocks, frame))


def _texts(row: Row) -> list[Text]:
    numbers = [row.size(scale) for scale in SCALES] + [row.evenness(scale) for scale in SCALES]
    parts = [number(share) for share in (*row.thirds().mean, row.outside)]
    runs, diverged = len(row.runs), row.diverged.total()
    count = f"{runs} of {runs + diverged}" if diverged else str(runs)
    return [Text(text) for text in [row.label, count, *map(_interval_text, numbers), *parts]]


def _interval_text(value: Interval) -> str:
    return interval_text(float(value.mean), float(value.low), float(value.high))


def pair_grids(blocks: Blocks, study: str) -> list[Grid]:
    """Methods beside LoRA, a section a budget; no grid where nothing can be paired."""
    headers = ["method", "pairs", *(f"{title}: ratio" for title in SCALES.values())]
    headers += ["evenness: difference", "evenness / √parameters: difference"]
    found = {
        budget: [(row, pairs) for row in rows if len((pairs := beside_lora(row, rows)).runs)]
        for budget, rows in blocks.items()
    }
    sections = [
        Section(budget_title(budget), [_pair_texts(*own) for own in rows])
        for budget, rows in found.items()
        if rows
    ]
    notes = [
        f"Runs of a method and of {BASELINE} on the same function, seed and frozen network, in "
        "pairs without diverged runs. Ratio: the method's mean norm over LoRA's, a geometric mean; "
        "1 is as large. Difference: its evenness minus LoRA's; above 0 is more even. Means over "
        "functions of the means over seeds; in brackets 95 % intervals (Welch's t over pairs, of "
        "ratios on their logarithm) for new seeds on the same functions; none where a function has "
        "one pair."
    ]
    caption = f"Gradients beside LoRA's, study {study}"
    return [Grid("gradients_pairs", caption, headers, sections, notes)] if sections else []


def _pair_texts(row: Row, pairs: Pairs) -> list[Text]:
    numbers = [pairs.ratio(scale) for scale in SCALES]
    numbers += [pairs.difference(scale) for scale in SCALES]
    return [Text(text) for text in [row.label, str(len(pairs.runs)), *map(_interval_text, numbers)]]


def _notes(blocks: Blocks, frame: pd.DataFrame) -> list[str]:
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
        f"and last layers, {_third_sizes(blocks)} of them. Updates at which no layer has a "
        "gradient have neither. Outside layers: the share of the whole squared norm that belongs "
        "to no layer, such as a shared bank's.",
    ]
    return [*notes, *diverged_note(frame), *flags(frame), *setting_notes(frame)]


def _third_sizes(blocks: Blocks) -> str:
    parts = (np.array_split(np.arange(depth), len(THIRDS)) for depth in _depths(blocks))
    return " or ".join("/".join(str(len(third)) for third in sizes) for sizes in parts)


def method_cells(blocks: Blocks) -> pd.DataFrame:
    """One row a method and function, and one over all functions."""
    return pd.DataFrame(
        {
            "budget": budget,
            "method": row.name[0],
            "overrides": row.name[1],
            "function": function,
            "runs": len(part.runs),
            "diverged": part.diverged.total(),
            **{
                f"{what}{suffix}": value
                for scale in SCALES
                for what, found in (
                    (scale, part.size(scale)),
                    (f"evenness_{scale}", part.evenness(scale)),
                )
                for suffix, value in _columns(found).items()
            },
            **{
                f"{third}_share{suffix}": value[index]
                for suffix, value in _columns(part.thirds()).items()
                for index, third in enumerate(THIRDS)
            },
            "outside_layers_share": part.outside,
            **_pair_columns(pairs if function == ALL else pairs.on(function)),
        }
        for budget, rows in blocks.items()
        for row in rows
        for pairs in [beside_lora(row, rows)]
        for function, part in _parts(row)
    )


def _pair_columns(pairs: Pairs) -> dict[str, float | np.ndarray]:
    return {
        "pairs": len(pairs.runs),
        **{
            f"{what}{suffix}": value
            for scale in SCALES
            for what, found in (
                (f"{scale}_over_lora", pairs.ratio(scale)),
                (f"evenness_{scale}_minus_lora", pairs.difference(scale)),
            )
            for suffix, value in _columns(found).items()
        },
    }


def layer_cells(blocks: Blocks) -> pd.DataFrame:
    """One row a method, function (and all of them) and layer."""
    return pd.DataFrame(
        {
            "budget": budget,
            "method": row.name[0],
            "overrides": row.name[1],
            "function": function,
            "layer": layer,
            "parameters": int(part.parameters[0, layer]),
            **{name: values[layer] for name, values in profiles.items()},
        }
        for budget, rows in blocks.items()
        for row in rows
        for function, part in _parts(row)
        for profiles in [_profiles(part)]
        for layer in range(part.depth)
    )


def _profiles(row: Row) -> dict[str, np.ndarray]:
    return {
        f"{scale}{suffix}": values
        for scale in SCALES
        for suffix, values in _columns(row.profile(scale)).items()
    }


def _parts(row: Row) -> Iterator[tuple[str, Row]]:
    """The row on each function, and on all of them."""
    yield from ((function, row.on(function)) for function in row.functions)
    yield ALL, row


def _columns(value: Interval) -> dict[str, np.ndarray]:
    return {"": value.mean, "_low": value.low, "_high": value.high}


if __name__ == "__main__":
    sys.exit(main())
