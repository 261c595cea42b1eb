"""Losses of methods by functions, the frozen backbones, and every run.

    table1.{md,csv,tex}      post-training loss
    table2.{md,csv,tex}      test loss
    table2_clean.{md,csv,tex}  test loss without the noise: what claims go by
    table2_raw.{md,csv,tex}  test loss on each function's own scale
    worst.{md,csv,tex}       how much of the error sits in a hundredth of the points; not of runs
                             of numerics version 1
    backbones.{md,csv,tex}   the frozen networks that all methods share
    runs.csv                 the run summaries behind them, one row a cell

The Markdown and LaTeX tables are for reading; the CSV ones are long, one row a cell, with the same
numbers in full. A mean over seeds of which one diverged is inf: it prints as `inf (1/3)`, and the
mean of the other seeds stands in a note and in the CSV. The same store gives the same bytes.

Cells that differ in the learning rate alone (or in the settings that `--tune` names) are trials: of
each method and function the tables show the one with the smallest validation loss, and below them
how many trials every method had and what was kept. `runs.csv` holds all trials.
"""

import re
from argparse import Namespace
from collections.abc import Iterator

import pandas as pd

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
from analysis.load import LOSSES, finished
from analysis.names import REFERENCES, function_order, function_title, row_label
from analysis.render import NO_CELL, Grid, Section, Text
from analysis.rows import beside, function_titles, in_order
from analysis.sections import sections
from analysis.study import Study
from analysis.text import number, seed_list, spread
from analysis.tuning import EDGE, UNTUNED, Tuning
from analysis.view import Shown

TABLES = (
    ("table1", "post_train_loss", "Post-training loss"),
    ("table2", "test_loss", "Test loss"),
    ("table2_clean", "test_loss_clean", "Test loss without noise"),
    ("table2_raw", "test_loss_raw", "Test loss, raw scale"),
    ("worst", "worst_share", "Share of the error in the worst hundredth of the points"),
)
_STANDARD = "Mean square error on the standardised scale: 1 is the variance of the clean source."
_SCALES = {
    "post_train_loss": f"{_STANDARD} Below the noise floor it is fitted noise, and no merit.",
    "test_loss_clean": f"{_STANDARD} Against the target without its noise: the excess over the "
    "noise floor.",
    "test_loss_raw": "The test loss times the squared deviation of the function's clean source.",
    "worst_share": "What the hundredth of the test points with the largest errors makes up of the "
    "square error, noise left out. Near 1 the losses tell of a few points alone.",
}
_NOISY = ("post_train_loss", "test_loss")
_PLACE = re.compile(r"config\.(store|study|tracking)\b")


def show(study: Study, options: Namespace | None = None) -> Shown:
    """The tables of a study."""
    frame, tuning = study.kept
    networks = backbones(frame)
    grids = {"backbones": [backbone_grid(frame, study.name)]}
    frames = {"runs": _runs(study.frame), "backbones": _backbone_cells(networks)}
    for name, loss, title in TABLES:
        known = _having(frame, loss)
        if finished(known).empty and len(known) < len(frame):
            continue
        cells = loss_cells(known, loss)
        if loss not in LOSSES:
            cells["best_adapter"] = False  # a share is no merit
        caption = f"{title}, study {study.name}"
        grids[name] = [loss_grid(frame, cells, loss, caption, name, tuning)]
        frames[name] = tuning.marked(cells[_COLUMNS].rename(columns={"variant": "overrides"}))
    return Shown(grids, frames, latex=list(grids))


def _having(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """`frame` without the finished runs that have no such value: the error of a diverged one has no
    shares, and runs of numerics version 1 did not note them."""
    return frame.drop(index=finished(frame).index[finished(frame)[value].isna()])


def _runs(frame: pd.DataFrame) -> pd.DataFrame:
    """What is known of the runs, but for empty columns and those that say where a run was kept."""
    places = [name for name in frame if _PLACE.match(name)]
    return frame.drop(columns=["settings", "variant", "task", *places]).dropna(
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


def cell_text(cell: dict) -> str:
    """`0.123 ± 0.004`, `inf (1/3)`, `missing`, `0.123 ± 0.004, 1 failed`."""
    parts = []
    if cell["infinite"]:
        parts = [f"{cell['mean']} ({cell['infinite']}/{cell['seeds']})"]
    elif cell["seeds"]:
        own = number(cell["mean"])
        parts = [own if cell["seeds"] == 1 else f"{own} ± {number(cell['deviation'], 2)}"]
    for word in ("missing", "failed"):
        if cell[word]:
            parts.append(f"{cell[word]} {word}" if cell["seeds"] else word)
    return ", ".join(parts)


def loss_notes(frame: pd.DataFrame, cells: pd.DataFrame, loss: str) -> list[str]:
    """The notes of a table of `loss`."""
    one_setting = ", within the rows of one setting of data, shift, function and backbone"
    note = (
        f"Mean ± sample standard deviation over {seed_list(frame['seed'])}; "
        f"{', '.join(REFERENCES)} are references."
    )
    if frame["seed"].nunique() == 1:
        note += " One seed has no spread: differences between cells may be chance."
    if loss in LOSSES:
        note += (
            " Bold: the smallest mean of an adapter in its block, cells with an inf or a gap left "
            "out" + one_setting * (frame["condition"].nunique() > 1) + "."
        )
    floors = sorted({noise**2 for noise in distinct(frame, "config.data.noise")})
    floor = (
        f"Noise floor: {'/'.join(map(number, floors))}, the variance of the noise in the targets."
    )
    return [
        note,
        _SCALES.get(loss, _STANDARD),
        *_infinite(frame, cells),
        *(diverged_note(frame) if loss not in LOSSES else []),
        *_off_budget(cells),
        *[STYLE_NOTE] * bool(cells["reading"].any()),
        *flags(frame),
        *shift_notes(frame),
        *[floor] * (loss in _NOISY),
        *setting_notes(frame),
    ]


def _infinite(frame: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    lost = cells[cells["infinite"] > 0]
    if lost.empty:
        return []
    ceilings = "/".join(f"{value:g}" for value in distinct(frame, "config.trainer.loss_ceiling"))
    listed = (
        f"{row_label(cell['method'], cell['variant'])} on {function_title(cell['function'])} "
        f"({cell['budget']}) {_finite(cell)}"
        for cell in lost.to_dict("records")
    )
    return [
        f"inf (k/n): k of n seeds diverged (a value not finite, or a loss above {ceilings}), so "
        f"the mean is inf. The finite seeds alone: {'; '.join(listed)}."
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


def backbone_grid(frame: pd.DataFrame, study: str) -> Grid:
    """The frozen networks by function."""
    rows = []
    for function, part in _backbone_cells(backbones(frame)).groupby("function", sort=False):
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
    return Grid("backbones", f"Backbones, study {study}", headers, [Section("", rows)], notes)


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
