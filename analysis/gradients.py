"""Renders the flow of gradients over depth: `python -m analysis.gradients --study quick`.

    results/<study>/gradients.{md,csv}              size, evenness over depth, shares of the thirds
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
and 0 where one has it all; a run's number is its mean over the recorded updates. Intervals are
those of `analysis.statistics.intervals`, for new seeds on the same functions. A study with missing
or failed cells is refused unless `--allow-missing` is given.
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
from analysis.flow import SCALES, THIRDS, Interval, Row, load_rows
from analysis.load import finished, seed_list
from analysis.names import budget_order, budget_title
from analysis.notes import flags, number, setting_notes
from analysis.outputs import Picture, write_csv, write_markdown, write_pictures
from analysis.render import Grid, Section, Text
from analysis.style import figure_style
from qlexp.errors import UsageError
from qlexp.store import Store

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
        write_markdown(folder / "gradients.md", gradient_grid(blocks, frame, options.study))
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
        title = f"{budget_title(budget)}, study {study}"
        yield Picture(
            f"gradients_{budget}",
            f"Gradient norm by layer and update. {budget_title(budget)}. Mean over functions and "
            "seeds; grey where it is 0 or not finite.",
            flow_figure(rows, title),
        )
        yield Picture(
            f"gradients_depth_{budget}",
            f"Gradient norm by layer, mean over updates. {budget_title(budget)}. Right: over the "
            "root of the layer's trainable parameters. Bands: 95 % intervals over seeds.",
            depth_figure(rows, title),
        )


def has_depth(blocks: Blocks) -> bool:
    """Whether there are networks, all of two layers or more."""
    depths = [flow.norms.shape[1] for rows in blocks.values() for row in rows for flow in row.flows]
    return min(depths, default=0) > 1


def _refuse_what_has_no_depth(blocks: Blocks, study: str) -> None:
    if not blocks:
        raise UsageError(
            f"Study '{study}' has no run with gradients in a layer: it needs a method that trains."
        )
    if not has_depth(blocks):
        raise UsageError(
            f"Study '{study}' has networks of one layer, over which nothing can be even: it needs "
            "backbone.depth of at least 2."
        )


def gradient_grid(blocks: Blocks, frame: pd.DataFrame, study: str) -> Grid:
    """Methods by what is said of their gradients, a section a budget."""
    headers = ["method", *SCALES.values(), "evenness", "evenness / √parameters"]
    headers += [f"{third} third" for third in THIRDS] + ["outside layers"]
    sections = [
        Section(budget_title(budget), [_texts(row) for row in rows])
        for budget, rows in blocks.items()
    ]
    caption = f"Gradients over depth, study {study}"
    return Grid("gradients", caption, headers, sections, _notes(blocks, frame))


def _texts(row: Row) -> list[Text]:
    numbers = [row.size(scale) for scale in SCALES] + [row.evenness(scale) for scale in SCALES]
    parts = [number(share) for share in row.thirds().mean]
    texts = [row.label, *(_interval_text(value, row) for value in numbers), *parts]
    return [Text(text) for text in [*texts, number(row.elsewhere_share)]]


def _interval_text(value: Interval, row: Row) -> str:
    mean, low, high = (float(part) for part in (value.mean, value.low, value.high))
    if not np.isfinite(mean):
        return f"not finite ({row.infinite}/{len(row.flows)})"
    return number(mean) + (f" [{number(low)}, {number(high)}]" if np.isfinite(low) else "")


def _notes(blocks: Blocks, frame: pd.DataFrame) -> list[str]:
    notes = [
        f"Means over functions, {seed_list(frame['seed'])} and the recorded updates of a run; in "
        "brackets 95 % intervals (Welch's t) for new seeds on the same functions; none where a "
        "function has one seed.",
        "Gradient norm: of a layer's trainable tensors together, before clipping. It depends on "
        "how a method is parametrised and on its number of parameters; √parameters is the root of "
        "the layer's trainable parameters.",
        "Evenness: -sum p ln p / ln depth, p a layer's share of the squared norm of all layers: 1 "
        "where all are equal, 0 where one has it all. Thirds: the sums of p over the first, middle "
        f"and last layers, {_third_sizes(blocks)} of them. Outside layers: the share of the whole "
        "squared norm that belongs to no layer, such as a shared bank's.",
    ]
    infinite = [
        f"{row.label} ({budget}) {row.infinite} of {len(row.flows)} runs"
        for budget, rows in blocks.items()
        for row in rows
        if row.infinite
    ]
    if infinite:
        notes.append(f"Gradients that are not finite: {'; '.join(infinite)}.")
    return [*notes, *flags(frame), *setting_notes(frame)]


def _third_sizes(blocks: Blocks) -> str:
    depths = {flow.norms.shape[1] for rows in blocks.values() for row in rows for flow in row.flows}
    parts = (np.array_split(np.arange(depth), len(THIRDS)) for depth in sorted(depths))
    return " or ".join("/".join(str(len(third)) for third in sizes) for sizes in parts)


def method_cells(blocks: Blocks) -> pd.DataFrame:
    """One row a method and function, and one over all functions."""
    return pd.DataFrame(
        {
            "budget": budget,
            "method": row.name[0],
            "overrides": row.name[1],
            "function": function,
            "runs": len(part.flows),
            "not_finite": part.infinite,
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
            "outside_layers_share": part.elsewhere_share,
        }
        for budget, row, function, part in _parts(blocks)
    )


def layer_cells(blocks: Blocks) -> pd.DataFrame:
    """One row a method, function (and all of them) and layer."""
    return pd.DataFrame(
        {
            "budget": budget,
            "method": row.name[0],
            "overrides": row.name[1],
            "function": function,
            "layer": layer,
            "parameters": int(part.flows[0].parameters[layer]),
            **{
                f"{scale}{suffix}": value[layer]
                for scale in SCALES
                for suffix, value in _columns(part.profile(scale)).items()
            },
        }
        for budget, row, function, part in _parts(blocks)
        for layer in range(part.flows[0].norms.shape[1])
    )


def _parts(blocks: Blocks) -> Iterator[tuple[str, Row, str, Row]]:
    for budget, rows in blocks.items():
        for row in rows:
            for function in dict.fromkeys(flow.function for flow in row.flows):
                yield budget, row, function, row.only(function)
            yield budget, row, "all", row


def _columns(value: Interval) -> dict[str, np.ndarray]:
    return {"": value.mean, "_low": value.low, "_high": value.high}


if __name__ == "__main__":
    sys.exit(main())
