"""Holds trained adapters against the theory: `python -m analysis.theory --study quick`.

    results/<study>/theory.md             the tables below, for reading
    results/<study>/theory.csv            bound and norm, one row a run, layer and linear
    results/<study>/theory_training.csv   the same through training, of one run a method
    results/<study>/theory_routing.csv    convexity, and the effect of lambda, one row a run
    results/<study>/theory.svg            bound and norm by layer, and through training

The norm bound is ||dW(x)|| <= s ||B|| (1 + |g| max_m ||M_m||) ||A|| of every adapted linear, in
spectral norms; beside it stands the norm of the change itself, s ||B (I + g R_b(x)) A||, over 500
test points of the run, the first of every target. lambda is changed in the adapter as it was
trained, without training again. A run stores its final weights alone, so the view through training
adapts one stored cell a method once more, alone, as it was (the first cell of the study, or of
`--function`), and stores nothing; that takes as long as the run did, and `--skip-training` leaves
it out.

A study without a finished run of a queryable method is refused, and one with missing or failed
cells unless `--allow-missing` is given.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.typing import DataFrameGroupBy

from analysis.cli import exit_code, parser, read_study, writing
from analysis.curves import load_curves
from analysis.figures.theory import theory_figure
from analysis.names import budget_title, row_label
from analysis.norms import changes, routes_by_strength
from analysis.notes import flags, number, setting_notes
from analysis.outputs import write_csv, write_markdown
from analysis.render import NO_CELL, Grid, Section, Text
from analysis.style import figure_style, save_svg
from analysis.trained import (
    POINTS,
    left_out,
    load_trained,
    queryable_cells,
    rows_in_order,
    split_inputs,
)
from qlexp.adapters.base import Adapter
from qlexp.adapters.queryable import Queryable
from qlexp.adapters.stored import stored_config
from qlexp.config.schedule import updates
from qlexp.config.schema import Config
from qlexp.errors import unknown_name
from qlexp.problem.targets import problem_of
from qlexp.store.store import Store
from qlexp.train.stages import replay

TOLERANCE = 1e-6  # of a bound: more than rounding
LOOKS = 25  # at an adapter in training, beside its start
SHOWN = 6  # of them in the Markdown table
_CELL = ["budget", "method", "variant", "function", "seed"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    command = parser("analysis.theory", "Hold trained queryable adapters against the theory.")
    command.add_argument("--function", help="the function of the run that is adapted once more")
    command.add_argument("--skip-training", action="store_true", help="no run is adapted once more")
    options = command.parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    store, frame = read_study(options)
    cells = queryable_cells(frame, options.study)
    known = set(cells["function"])
    if options.function is not None and options.function not in known:
        raise unknown_name(f"function of study {options.study}", options.function, known)
    bounds, routes = look(store, cells)
    training, remarks = None, list[str]()
    if not options.skip_training:
        own = cells if options.function is None else cells[cells["function"] == options.function]
        training, remarks = look_through_training(store, own)
    with figure_style(), writing(Path(options.out) / options.study) as folder:
        if training is not None:
            write_csv(folder / "theory_training.csv", _named(training))
        write_csv(folder / "theory.csv", _named(bounds))
        write_csv(folder / "theory_routing.csv", _named(routes))
        grids = [
            bound_grid(bounds, _bound_notes(frame, bounds), options.study),
            route_grid(routes, options.study),
        ]
        if training is not None:
            grids.append(training_grid(training, remarks, options.study))
        write_markdown(folder / "theory.md", *grids)
        save_svg(theory_figure(bounds, training), folder / "theory.svg")
    print(f"{cells['run_id'].nunique()} runs -> {folder}")


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.rename(columns={"variant": "overrides"})


def look(store: Store, cells: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bounds and norms, and what the routing does, of the runs of `cells`."""
    bounds, routes = {}, {}
    for identity in cells["run_id"].unique():
        run = load_trained(store, identity)
        inputs = run.points()
        bounds[identity] = [change.columns() for change in changes(run.adapter, *inputs)]
        routes[identity] = list(routes_by_strength(run.adapter, *inputs))
    return _long(cells, bounds), _long(cells, routes)


def _long(cells: pd.DataFrame, found: dict[str, list]) -> pd.DataFrame:
    return pd.DataFrame(
        {**{name: getattr(cell, name) for name in _CELL}, **columns}
        for _, part in rows_in_order(cells)
        for cell in part.itertuples()
        for columns in found[cell.run_id]
    )


def look_through_training(store: Store, cells: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Bounds and norms at `LOOKS` moments of one run a method, that of its first cell; notes."""
    rows, notes = [], []
    for method in cells["method"].unique():
        cell = cells[cells["method"] == method].iloc[0]
        config = replace(stored_config(store, cell["run_id"]), device="auto", compile=False)
        own, loss = _replayed(config, store)
        rows += [{**cell[_CELL].to_dict(), **columns} for columns in own]
        stored = load_curves(store, cell["run_id"], ["loss"])["loss"][-1]
        notes.append(
            f"{row_label(method, cell['variant'])} on {cell['function']}, seed {cell['seed']}, "
            f"{cell['budget']}: the last training loss was {number(stored, 6)} and is "
            f"{number(loss, 6)} adapted once more."
        )
    return pd.DataFrame(rows), notes


def _replayed(config: Config, store: Store) -> tuple[list[dict[str, Any]], float]:
    """The changes' columns at every look, and the last recorded training loss."""
    test, total = problem_of(config).test, updates(config, "adapt")
    every = max(total // LOOKS, 1)
    found = []

    def observe(adapter: Adapter, done: int) -> None:
        if done % every and done != total:
            return
        assert isinstance(adapter, Queryable)
        for change in changes(adapter, *split_inputs(config, test, adapter)):
            found.append({"update": done, **change.columns()})

    curves = replay(config, store, observe)
    return found, curves.loss[-1, 0].item()


def bound_grid(bounds: pd.DataFrame, notes: Sequence[str], study: str) -> Grid:
    """Bound and norm of each linear, means over layers and runs."""
    sections = []
    for budget in bounds["budget"].unique():
        part, texts = bounds[bounds["budget"] == budget], []
        for (method, variant), row in _groups(part, ["method", "variant"]):
            for linear, own in _groups(row, "linear"):
                means = own[["bound", "smallest", "median", "largest", "median_ratio"]].mean()
                numbers = [*means, own["largest_ratio"].max()]
                texts.append([row_label(method, variant), linear, *map(number, numbers)])
        sections.append(Section(budget_title(budget), [list(map(Text, row)) for row in texts]))
    headers = ["method", "linear", "bound", "smallest norm", "median norm", "largest norm"]
    headers += ["median norm / bound", "largest norm / bound"]
    return Grid("theory", f"Norm bound and norms, study {study}", headers, sections, notes)


def _groups(frame: pd.DataFrame, keys: str | list[str]) -> DataFrameGroupBy:
    return frame.groupby(keys, sort=False)


def _bound_notes(frame: pd.DataFrame, bounds: pd.DataFrame) -> list[str]:
    beyond = int((bounds["largest_ratio"] > 1 + TOLERANCE).sum())
    return [
        "Bound: s ‖B‖ (1 + |g| max ‖M‖) ‖A‖ of an adapted linear; norm: s ‖B (I + g R(x)) A‖ at a "
        f"point x; spectral norms, over {POINTS} test points of a run at most, the first of every "
        "target. Means over layers and runs of the smallest, median and largest over points; the "
        "last column is the largest of all.",
        f"Linears of all runs whose norm exceeds the bound: {beyond} of {len(bounds)}.",
        *left_out(frame),
        *flags(frame),
        *setting_notes(frame),
    ]


def route_grid(routes: pd.DataFrame, study: str) -> Grid:
    """Convexity of the trained routing, and what another lambda makes of it."""
    prior = [name for name in ("shared_with_prior", "weight_on_likeliest") if name in routes]
    sections = []
    for budget in routes["budget"].unique():
        part, rows = routes[routes["budget"] == budget], []
        for (method, variant), row in _groups(part, ["method", "variant"]):
            for strength, own in row.groupby("strength", dropna=False):
                texts = [
                    row_label(method, variant),
                    _strength_text(strength, own["trained"].all()),
                    number(own["support"].mean()),
                    str(own["largest_support"].max()),
                    f"{own['largest_sum_error'].max():.1e}",
                    number(own["smallest_weight"].min()),
                    number(own["largest_operator_ratio"].max()),
                    number(own["entropy"].mean()),
                ]
                shares = (own[name].mean() for name in prior)
                texts += [NO_CELL if math.isnan(share) else number(share) for share in shares]
                rows.append(list(map(Text, texts)))
        sections.append(Section(budget_title(budget), rows))
    headers = ["method", "λ", "support", "largest support", "largest |Σw − 1|", "smallest weight"]
    headers += ["largest ‖R‖ / max ‖M‖", "entropy"]
    titles = {
        "shared_with_prior": "support in π's top k",
        "weight_on_likeliest": "weight on π's first",
    }
    notes = [
        "Over all blocks and the same points and runs: support is the mean number of atoms with a "
        "weight, entropy the mean of an example's weights in nats. Convexity: weights of at least "
        "0 that sum to 1, so that no ‖R‖ exceeds the largest atom.",
        "λ weighs the language prior π. It is changed in the trained adapter without training "
        "again; a method without the prior has none.",
    ]
    caption = f"Routing and λ, study {study}"
    return Grid("routing", caption, headers + [titles[name] for name in prior], sections, notes)


def _strength_text(strength: float, trained: bool) -> str:
    if math.isnan(strength):
        return NO_CELL
    return f"{strength:g} (trained)" if trained else f"{strength:g}"


def training_grid(training: pd.DataFrame, notes: Sequence[str], study: str) -> Grid:
    """Bound and norm over the updates, means over layers and linears."""
    rows = []
    for (method, variant), part in _groups(training, ["method", "variant"]):
        updates_seen = sorted(part["update"].unique())
        shown = np.linspace(0, len(updates_seen) - 1, SHOWN).round().astype(int)
        for update in dict.fromkeys(updates_seen[index] for index in shown):
            own = part[part["update"] == update]
            numbers = own[["bound", "smallest", "median", "largest"]].mean()
            texts = [row_label(method, variant), str(update), *map(number, numbers)]
            rows.append([Text(text) for text in [*texts, number(own["largest_ratio"].max())]])
    headers = ["method", "update", "bound", "smallest norm", "median norm", "largest norm"]
    caption = f"Through training, study {study}"
    note = "Means over layers and linears of one run a method; the last column is the largest."
    headers.append("largest norm / bound")
    return Grid("training", caption, headers, [Section("", rows)], [note, *notes])


if __name__ == "__main__":
    sys.exit(main())
