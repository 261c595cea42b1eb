"""Renders the tables of a study: `python -m analysis.tables --study quick`.

    results/<study>/table1.{md,csv,tex}      post-training loss, methods by functions
    results/<study>/table2.{md,csv,tex}      test loss
    results/<study>/table2_raw.{md,csv,tex}  test loss on each function's own scale
    results/<study>/backbones.{md,csv,tex}   the frozen networks that all methods share
    results/<study>/runs.csv                 the run summaries behind them, one row a cell

The Markdown and LaTeX tables are for reading; the CSV ones are long, one row a cell, with the same
numbers in full. A mean over seeds of which one diverged is inf: it prints as `inf (1/3)`, and the
mean of the other seeds stands in a note and in the CSV. A study with missing or failed cells is
refused unless `--allow-missing` is given. The same store gives the same bytes.

Cells that differ in the learning rate alone (or in the settings that `--tune` names) are trials: of
each method and function the tables show the one with the smallest validation loss, and below them
how many trials every method had and what was kept. `runs.csv` holds all trials.
"""

import argparse
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from analysis.cells import (
    Block,
    Estimate,
    Row,
    backbones,
    build_blocks,
    not_learnable,
    weak_backbones,
)
from analysis.cli import exit_code, parser, read_study, writing
from analysis.load import finished
from analysis.names import budget_title, function_order, function_title
from analysis.notes import (
    column_marks,
    flags,
    loss_notes,
    setting_notes,
    spread,
)
from analysis.outputs import write_csv, write_table
from analysis.render import NO_CELL, Grid, Section, Text
from analysis.tuning import EDGE, UNTUNED, Tuning, add_option, tune

_PLACE = re.compile(r"config\.(store|study|tracking)\b")
TABLES = (
    ("table1", "post_train_loss", "Post-training loss"),
    ("table2", "test_loss", "Test loss"),
    ("table2_raw", "test_loss_raw", "Test loss, raw scale"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    command = parser("analysis.tables", "Render the tables of a study from the store.")
    add_option(command)
    options = command.parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    _, frame = read_study(options)
    folder = render(frame, options.study, Path(options.out), options.tune)
    print(f"{len(frame)} cells -> {folder}")


def render(frame: pd.DataFrame, study: str, out: Path, tuned: Sequence[str] | None = None) -> Path:
    """Writes every table of a loaded study to `out/study`, which is returned.

    Args:
        tuned: see `analysis.tuning.tune`, which raises errors.
    """
    trials, (frame, tuning) = frame, tune(frame, tuned)
    with writing(out / study) as folder:
        write_csv(folder / "runs.csv", _run_columns(trials))
        for grid, cells in loss_tables(frame, study, tuning):
            write_csv(folder / f"{grid.label}.csv", cells)
            write_table(folder, grid)
        write_csv(folder / "backbones.csv", _backbone_cells(frame))
        write_table(folder, backbone_grid(frame, study))
    return folder


def loss_tables(
    frame: pd.DataFrame, study: str, tuning: Tuning
) -> Iterator[tuple[Grid, pd.DataFrame]]:
    """The grid and the long table of each loss; `frame` and `tuning` as `tune` gives them."""
    for name, loss, title in TABLES:
        blocks = build_blocks(frame, loss)
        grid = loss_grid(frame, blocks, loss, f"{title}, study {study}", name, tuning)
        yield grid, tuning.marked(loss_cells(frame, blocks))


def _run_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """What is known of the runs, but for empty columns and those that say where a run was kept."""
    places = [name for name in frame if _PLACE.match(name)]
    return frame.drop(columns=["settings", *places]).dropna(axis="columns", how="all")


def loss_grid(
    frame: pd.DataFrame,
    blocks: list[Block],
    loss: str,
    caption: str,
    label: str,
    tuning: Tuning = UNTUNED,
) -> Grid:
    """Methods by functions, a section a budget."""
    functions = sorted(frame["function"].unique(), key=function_order)
    headers = ["method", "trainable"]
    headers += [function_title(name) + column_marks(frame, name) for name in functions]
    sections = [
        Section(
            budget_title(block.budget),
            [_row_texts(block, index, functions, tuning) for index in range(len(block.rows))],
        )
        for block in blocks
    ]
    notes = [*tuning.notes(), *loss_notes(frame, blocks, loss)]
    return Grid(label, caption, headers, sections, notes)


def _row_texts(block: Block, index: int, functions: list[str], tuning: Tuning) -> list[Text]:
    row = block.rows[index]
    texts = [Text(row.title), Text(_trainable(row))]
    for function in functions:
        estimate = row.estimates.get(function)
        text = NO_CELL if estimate is None else estimate_text(estimate)
        text += EDGE * tuning.at_edge(block.budget, row.label, function)
        mean = None if estimate is None else estimate.mean
        texts.append(Text(text, index in block.best.get(function, ()), mean))
    return texts


def _trainable(row: Row) -> str:
    return "/".join(f"{count:,}" for count in row.trainable) or NO_CELL


def estimate_text(estimate: Estimate) -> str:
    """`0.123 ± 0.004`, `inf (1/3)`, `missing`, `0.123 ± 0.004, 1 failed`."""
    parts = [spread(list(estimate.values.values()))] if estimate.values else []
    for word, seeds in (("missing", estimate.missing), ("failed", estimate.failed)):
        if seeds:
            parts.append(f"{len(seeds)} {word}" if estimate.values else word)
    return ", ".join(parts)


def loss_cells(frame: pd.DataFrame, blocks: list[Block]) -> pd.DataFrame:
    """The numbers of a loss table, one row a cell."""
    unlearnable, weak = not_learnable(frame), weak_backbones(frame)
    return pd.DataFrame(
        {
            "budget": block.budget,
            "method": row.method,
            "overrides": row.variant,
            "function": function,
            "mean": estimate.mean,
            "deviation": math.nan if estimate.infinite else estimate.finite_deviation,
            "seeds": len(estimate.values),
            "infinite": estimate.infinite,
            "missing": len(estimate.missing),
            "failed": len(estimate.failed),
            "finite_mean": estimate.finite_mean,
            "finite_deviation": estimate.finite_deviation,
            "best_adapter": index in block.best[function],
            "trainable_parameters": _trainable(row).replace(",", ""),
            "reference_parameters": "/".join(map(str, row.reference)),
            "off_budget": row.off_budget,
            "not_learnable": function in unlearnable,
            "weak_backbone": function in weak,
        }
        for block in blocks
        for index, row in enumerate(block.rows)
        for function, estimate in sorted(
            row.estimates.items(), key=lambda item: function_order(item[0])
        )
    )


def backbone_grid(frame: pd.DataFrame, study: str) -> Grid:
    """The frozen networks by function."""
    cells = _backbone_cells(frame)
    rows = []
    for function, part in cells.groupby("function", sort=False):
        scores = part["pretrain_r2"].tolist()
        losses = [spread(part[name].tolist()) for name in ("source_loss", "frozen_loss")]
        texts = [function_title(function) + column_marks(frame, function), str(len(part))]
        rows.append([Text(text) for text in (*texts, spread(scores), *losses)])
    headers = ["function", "backbones", "validation R²", "loss before shift", "loss after shift"]
    notes = [
        "Mean ± sample standard deviation over backbones, one a seed and setting. Before the "
        "shift: on held-out samples of the source; after: on the test samples of the target.",
        *flags(finished(frame)),
        *setting_notes(frame),
    ]
    return Grid("backbones", f"Backbones, study {study}", headers, [Section("", rows)], notes)


def _backbone_cells(frame: pd.DataFrame) -> pd.DataFrame:
    cells = backbones(frame)
    order = sorted(cells.index, key=lambda i: (function_order(cells.at[i, "function"]), i))
    names = ["function", "seed", "backbone_id", "pretrain_loss", "pretrain_r2", "source_loss"]
    shift = [name for name in cells if name.startswith("config.shift.")]
    return cells.loc[order, [*names, "frozen_loss", *shift]]


if __name__ == "__main__":
    sys.exit(main())
