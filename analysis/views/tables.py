"""Losses of methods by functions, the frozen backbones, and every run.

    table1.{md,csv,tex}      post-training loss
    table2.{md,csv,tex}      test loss
    table2_clean.{md,csv,tex}  test loss without the noise: what claims go by
    table2_raw.{md,csv,tex}  test loss on each function's own scale
    worst.{md,csv,tex}       how much of the error sits in a hundredth of the points; not of runs
                             of numerics version 1
    backbones.{md,csv,tex}   the frozen networks that all methods share
    runs.csv                 the run summaries behind them, one row a cell

Of language models, with a row of the frozen one:

    accuracy.{md,csv,tex}    share of the generated answers that are right, in percent
    test_loss.{md,csv,tex}   cross-entropy of the right answers
    retention.{md,csv,tex}   loss on neutral text and accuracy on untrained tasks, before and after
    cost.{md,csv,tex}        parameters, size of the adapter, seconds, memory

The Markdown and LaTeX tables are for reading; the CSV ones are long, one row a cell, with the same
numbers in full. A mean over seeds of which one diverged is inf: it prints as `inf (1/3)`, and the
mean of the other seeds stands in a note and in the CSV. The same store gives the same bytes.

Cells that differ in the learning rate alone (or in the settings that `--tune` names) are trials: of
each method and function the tables show the one with the smallest validation loss, and below them
how many trials every method had and what was kept. `runs.csv` holds all trials.
"""

import math
import re
from argparse import Namespace
from collections.abc import Iterator

import pandas as pd

from analysis import models
from analysis.benchmark import LANGUAGE, SYNTHETIC, Benchmark, Table, benchmark_of
from analysis.cells import loss_cells
from analysis.legend import (
    OFF_BUDGET_NOTE,
    STYLE_NOTE,
    backbones,
    column_marks,
    distinct,
    diverged_note,
    flags,
    setting_notes,
    shift_notes,
)
from analysis.load import finished
from analysis.names import FROZEN, REFERENCES, function_order, function_title, row_label
from analysis.render import NO_CELL, Grid, Section, Text
from analysis.rows import beside, function_titles, in_order
from analysis.sections import sections
from analysis.study import Study
from analysis.text import cell_text, number, seed_list, spread
from analysis.tuning import EDGE, UNTUNED, Tuning
from analysis.view import Shown

_NOISY = ("post_train_loss", "test_loss")
_LEFT_OUT = re.compile(r"config\.(store|study|tracking)\b|right\.")


def show(study: Study, options: Namespace | None = None) -> Shown:
    """The tables of a study."""
    frame, tuning = study.kept
    grids, frames = {}, {"runs": _runs(study.frame)}
    for table in MORE[study.benchmark.name]:
        grid, cells = table(frame, study.name)
        grids[grid.label], frames[grid.label] = [grid], cells
    for own in study.benchmark.tables:
        known = _having(_with_frozen(frame, own), own.column)
        if finished(known).empty and len(known) < len(frame):
            continue
        cells = _cells(known, own, study.benchmark)
        caption = f"{own.title}, study {study.name}"
        grids[own.name] = [loss_grid(frame, cells, own.column, caption, own.name, tuning)]
        frames[own.name] = tuning.marked(cells[_COLUMNS].rename(columns={"variant": "overrides"}))
    return Shown(grids, frames, latex=list(grids))


def _cells(frame: pd.DataFrame, table: Table, benchmark: Benchmark) -> pd.DataFrame:
    """The cells of a table, in its unit."""
    if table.is_share:
        frame = frame.assign(**{table.column: 100 * frame[table.column].astype(float)})
    cells = loss_cells(frame, table.column, largest=table.is_share)
    if not table.is_share and table.column not in benchmark.losses:
        cells["best_adapter"] = False  # where an error sits is no merit
    return cells


def _with_frozen(frame: pd.DataFrame, table: Table) -> pd.DataFrame:
    """`frame` with what all runs say of the frozen model, where it has no run of its own."""
    done = finished(frame)
    if not table.frozen or FROZEN in set(done["method"]):
        return frame
    once = done.drop_duplicates(["budget", "function", "seed", "condition"])
    rows = once.assign(
        **{table.column: once[table.frozen]},
        method=FROZEN,
        variant=once["condition"],
        status="done",
        trainable_parameters=0,
        reference_parameters=math.nan,
        is_reference=True,
        off_budget=False,
        reading=False,
    )
    return pd.concat([frame, rows], ignore_index=True)


def _having(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """`frame` without the finished runs that have no such value: the error of a diverged one has no
    shares, and runs of numerics version 1 did not note them."""
    return frame.drop(index=finished(frame).index[finished(frame)[value].isna()])


def _runs(frame: pd.DataFrame) -> pd.DataFrame:
    """What is known of the runs, but for empty columns, answers one by one, and where a run was
    kept."""
    others = [name for name in frame if _LEFT_OUT.match(name)]
    return frame.drop(columns=["settings", "variant", "task", *others]).dropna(
        axis="columns", how="all"
    )


_COLUMNS = [
    *("budget", "method", "variant", "function"),
    *("mean", "deviation", "seeds", "infinite", "missing", "failed"),
    *("finite_mean", "finite_deviation", "best_adapter"),
    *("trainable_parameters", "reference_parameters", "off_budget"),
    *("not_learnable", "weak_backbone", "beyond_reach"),
]  # of a loss table's CSV


def loss_grid(
    frame: pd.DataFrame,
    cells: pd.DataFrame,
    loss: str,
    caption: str,
    label: str,
    tuning: Tuning = UNTUNED,
) -> Grid:
    """Methods by functions, a section a budget; `cells` are the `loss_cells` of `frame`."""
    functions = in_order(frame["function"])

    def texts(title: str, row: pd.DataFrame) -> Iterator[str | Text]:
        first = row.iloc[0]
        place = first["budget"], row_label(first["method"], first["variant"])
        yield title
        yield _thousands(first["trainable_parameters"]) or NO_CELL
        for function, cell in zip(functions, beside(row, functions), strict=True):
            text = NO_CELL if cell is None else cell_text(cell)
            text += EDGE * tuning.at_edge(*place, function)
            yield Text(text, cell["best_adapter"], cell["mean"]) if cell else Text(text)

    headers = ["method", "trainable", *function_titles(frame, functions)]
    notes = [*tuning.notes(), *loss_notes(frame, cells, loss)]
    return Grid(label, caption, headers, sections(cells, texts), notes)


def _thousands(counts: str) -> str:
    """`1000/20000` -> `1,000/20,000`."""
    return "/".join(f"{int(count):,}" for count in counts.split("/") if count)


def loss_notes(frame: pd.DataFrame, cells: pd.DataFrame, loss: str) -> list[str]:
    """The notes of a table of `loss`."""
    benchmark = benchmark_of(frame)
    ranked = loss in (*benchmark.losses, *benchmark.scores)
    one_setting = ", within the rows of one setting of data, shift, function and backbone"
    references = f"{', '.join(REFERENCES)} are references"
    note = (
        f"Mean ± sample standard deviation over {seed_list(frame['seed'])}; "
        f"{references if benchmark.has_full else f'{FROZEN} is a reference'}."
    )
    if frame["seed"].nunique() == 1:
        note += " One seed has no spread: differences between cells may be chance."
    if ranked:
        best = "largest" if loss in benchmark.scores else "smallest"
        note += (
            f" Bold: the {best} mean of an adapter in its block, cells with an inf or a gap left "
            "out" + one_setting * (frame["condition"].nunique() > 1) + "."
        )
    floors = sorted({noise**2 for noise in distinct(frame, "config.data.noise")})
    floor = (
        f"Noise floor: {'/'.join(map(number, floors))}, the variance of the noise in the targets."
    )
    return [
        note,
        benchmark.scale_of(loss),
        *(models.constant_notes(frame) if loss == "accuracy" else []),
        *_infinite(frame, cells),
        *([] if ranked else diverged_note(frame)),
        *_off_budget(cells),
        *[STYLE_NOTE] * bool(cells["reading"].any()),
        *flags(frame),
        *shift_notes(frame),
        *[floor] * (loss in _NOISY and bool(floors)),
        *setting_notes(frame),
    ]


def _infinite(frame: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    lost = cells[cells["infinite"] > 0]
    if lost.empty:
        return []
    ceilings = "/".join(f"{value:g}" for value in distinct(frame, "config.trainer.loss_ceiling"))
    above = f", or a loss above {ceilings}" * bool(ceilings)
    listed = (
        f"{row_label(cell['method'], cell['variant'])} on {function_title(cell['function'])} "
        f"({cell['budget']}) {_finite(cell)}"
        for cell in lost.to_dict("records")
    )
    return [
        f"inf (k/n): k of n seeds diverged (a value not finite{above}), so the mean is inf. The "
        f"finite seeds alone: {'; '.join(listed)}."
    ]


def _finite(cell: dict) -> str:
    left = cell["seeds"] - cell["infinite"]
    if not left:
        return "none"
    alone = {**cell, "mean": cell["finite_mean"], "deviation": cell["finite_deviation"]}
    gapless = {"infinite": 0, "missing": 0, "failed": 0, "seeds": left}
    return f"{cell_text(alone | gapless)} over {left}"


def _off_budget(cells: pd.DataFrame) -> list[str]:
    rows = cells[cells["off_budget"]].drop_duplicates(["budget", "method", "variant"])
    listed = (
        f"{row_label(row.method, row.variant)} ({row.budget}) "
        f"{_thousands(row.trainable_parameters)} to {_thousands(row.reference_parameters)}"
        for row in rows.itertuples()
    )
    return [f"{OFF_BUDGET_NOTE.removesuffix('.')}: {'; '.join(listed)}."] if len(rows) else []


def backbone_table(frame: pd.DataFrame, study: str) -> tuple[Grid, pd.DataFrame]:
    """The frozen networks by function, and one by one."""
    networks, rows = _backbone_cells(backbones(frame)), []
    for function, part in networks.groupby("function", sort=False):
        spreads = (spread(part[name].tolist()) for name in _BACKBONE_NUMBERS)
        title = function_title(function) + column_marks(frame, function)
        rows.append([Text(text) for text in (title, str(len(part)), *spreads)])
    notes = [
        "Mean ± sample standard deviation over backbones, one a seed and setting. Before the "
        "shift: on held-out samples of the source; after: on the test samples of the target.",
        *flags(finished(frame)),
        *setting_notes(frame),
    ]
    headers = ["function", "backbones", *_BACKBONE_NUMBERS.values()]
    caption = f"Backbones, study {study}"
    return Grid("backbones", caption, headers, [Section("", rows)], notes), networks


_BACKBONE_NUMBERS = {
    "pretrain_r2": "validation R²",
    "source_loss": "loss before shift",
    "frozen_loss": "loss after shift",
}


def _backbone_cells(networks: pd.DataFrame) -> pd.DataFrame:
    order = sorted(networks.index, key=lambda i: (function_order(networks.at[i, "function"]), i))
    names = ["function", "seed", "backbone_id", "pretrain_loss", "pretrain_r2", "source_loss"]
    shift = [name for name in networks if name.startswith("config.shift.")]
    return networks.loc[order, [*names, "frozen_loss", *shift]]


MORE = {SYNTHETIC.name: (backbone_table,), LANGUAGE.name: (models.retention, models.cost)}
