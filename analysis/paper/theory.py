"""Trained adapters held against the theory: norm bounds, convexity, and the language prior.

    theory.md             the tables below, for reading
    theory.csv            bound and norm, one row a run, layer and linear
    theory_training.csv   the same through training, of one run a method
    theory_routing.csv    convexity, and the effect of lambda, one row a run
    theory.svg            bound and norm by layer, and through training

The norm bound is ||dW(x)|| <= s ||B|| (1 + |g| max_m ||M_m||) ||A|| of every adapted linear, in
spectral norms; beside it stands the norm of the change itself, s ||B (I + g R_b(x)) A||, over 500
test points of the run, the first of every target. lambda is changed in the adapter as it was
trained, without training again. A run stores its final weights alone, so the view through training
adapts one stored cell a method once more, alone, as it was (the first cell of the study, or of
`--function`), and stores nothing; that takes as long as the run did, and `--skip-training` leaves
it out. Of a method that routes over something other than a bank of operators the routing is shown,
and no norms. A study without a finished run of a method that routes is refused.
"""

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.benchmark import SYNTHETIC
from analysis.curves import load_curves
from analysis.figures.theory import theory_figure
from analysis.inputs import split_inputs
from analysis.names import row_label
from analysis.paper.norms import changes, routes_by_strength
from analysis.paper.trained import (
    CELL,
    POINTS,
    load_trained,
    long_table,
    of_function,
    routed_cells,
    run_notes,
)
from analysis.render import NO_CELL, Grid, Section
from analysis.render.output import Picture
from analysis.sections import numbers, rows, sections
from analysis.study import Study
from analysis.text import number
from analysis.view import Shown
from qlexp.adapters.base import Adapter
from qlexp.adapters.routed import RoutedAdapter
from qlexp.adapters.stored import stored_config
from qlexp.config.schedule import updates
from qlexp.config.schema import Config
from qlexp.problem.targets import problem_of
from qlexp.store.store import Store
from qlexp.train.stages import replay

TOLERANCE = 1e-6  # of a bound: more than rounding
LOOKS = 25  # at an adapter in training, beside its start
SHOWN = 6  # of them in the Markdown table
NORMS = {
    "bound": "bound",
    "smallest": "smallest norm",
    "median": "median norm",
    "largest": "largest norm",
}


def add_options(command: ArgumentParser) -> None:
    command.add_argument("--function", help="the function of the run that is adapted once more")
    command.add_argument("--skip-training", action="store_true", help="no run is adapted once more")


def show(study: Study, options: Namespace) -> Shown:
    """Bounds, routing, and both through the training of one run a method."""
    study.require(SYNTHETIC, "norms over its inputs")
    cells = routed_cells(study.frame, study.name)
    replayed = of_function(cells, options.function, study.name)
    bounds, routes = look(study.store, cells)
    grids = [route_grid(routes, run_notes(study.frame), study.name)]
    frames, training = {"theory_routing": routes}, None
    if len(bounds):
        grids.insert(0, bound_grid(bounds, study.name))
        frames["theory"] = bounds
        replayed = replayed[replayed["method"].isin(bounds["method"])]
        if not options.skip_training and len(replayed):
            training, notes = look_through_training(study.store, replayed)
            grids.append(training_grid(training, notes, study.name))
            frames["theory_training"] = training
    return Shown(
        {"theory": grids},
        {name: own.rename(columns={"variant": "overrides"}) for name, own in frames.items()},
        _pictures(bounds, training),
    )


def _pictures(bounds: pd.DataFrame, training: pd.DataFrame | None) -> Iterator[Picture]:
    if len(bounds):
        caption = "Spectral norms of the changes and their bounds, by layer and through training."
        yield Picture("theory", caption, theory_figure(bounds, training))


def look(store: Store, cells: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bounds and norms, and what the routing does, of the runs of `cells`."""
    bounds, routes = {}, {}
    for identity in cells["run_id"].unique():
        run = load_trained(store, identity)
        inputs = run.points()
        bounds[identity] = [change.columns() for change in changes(run.adapter, *inputs)]
        routes[identity] = list(routes_by_strength(run.adapter, *inputs))
    return long_table(cells, bounds), long_table(cells, routes)


def look_through_training(store: Store, cells: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Bounds and norms at `LOOKS` moments of one run a method, that of its first cell; notes."""
    found, notes = [], []
    for cell in cells.drop_duplicates("method").to_dict("records"):
        config = replace(stored_config(store, cell["run_id"]), device="auto", compile=False)
        own, loss = _replayed(config, store)
        found += [{**{name: cell[name] for name in CELL}, **columns} for columns in own]
        stored = load_curves(store, cell["run_id"], ["loss"])["loss"][-1]
        notes.append(
            f"{row_label(cell['method'], cell['variant'])} on {cell['function']}, seed "
            f"{cell['seed']}, {cell['budget']}: the last training loss was {number(stored, 6)} and "
            f"is {number(loss, 6)} adapted once more."
        )
    return pd.DataFrame(found), notes


def _replayed(config: Config, store: Store) -> tuple[list[dict[str, Any]], float]:
    """The changes' columns at every look, and the last recorded training loss."""
    test, total = problem_of(config).test, updates(config, "adapt")
    every = max(total // LOOKS, 1)
    found = []

    def observe(adapter: Adapter, done: int) -> None:
        if done % every and done != total:
            return
        assert isinstance(adapter, RoutedAdapter)
        for change in changes(adapter, *split_inputs(config, test, adapter, POINTS)):
            found.append({"update": done, **change.columns()})

    curves = replay(config, store, observe)
    return found, curves.loss[-1, 0].item()


def bound_grid(bounds: pd.DataFrame, study: str) -> Grid:
    """Bound and norm of each linear, means over layers and runs."""
    beyond = int((bounds["largest_ratio"] > 1 + TOLERANCE).sum())
    notes = [
        "Bound: s ‖B‖ (1 + |g| max ‖M‖) ‖A‖ of an adapted linear; norm: s ‖B (I + g R(x)) A‖ at a "
        f"point x; spectral norms, over {POINTS} test points of a run at most, the first of every "
        "target. Means over layers and runs of the smallest, median and largest over points; the "
        "last column is the largest of all.",
        f"Linears of all runs whose norm exceeds the bound: {beyond} of {len(bounds)}.",
    ]

    def texts(label: str, own: pd.DataFrame, linear: str) -> list[str]:
        means = own[[*NORMS, "median_ratio"]].mean()
        return [label, linear, *numbers([*means, own["largest_ratio"].max()])]

    headers = ["method", "linear", *NORMS.values(), "median norm / bound", "largest norm / bound"]
    caption = f"Norm bound and norms, study {study}"
    return Grid("theory", caption, headers, sections(bounds, texts, ["linear"]), notes)


_PRIOR = {
    "shared_with_prior": "support in π's top k",
    "weight_on_likeliest": "weight on π's first",
}


def route_grid(routes: pd.DataFrame, notes: Sequence[str], study: str) -> Grid:
    """Convexity of the trained routing, and what another lambda makes of it."""
    prior = [name for name in _PRIOR if name in routes]

    def texts(label: str, own: pd.DataFrame, strength: float) -> list[str]:
        trained = " (trained)" if own["trained"].all() else ""
        return [
            label,
            NO_CELL if math.isnan(strength) else f"{strength:g}{trained}",
            number(own["support"].mean()),
            str(own["largest_support"].max()),
            f"{own['largest_sum_error'].max():.1e}",
            number(own["smallest_weight"].min()),
            *numbers([own["largest_operator_ratio"].max(), own["entropy"].mean()]),
            *numbers(own[name].mean() for name in prior),
        ]

    headers = ["method", "λ", "support", "largest support", "largest |Σw − 1|", "smallest weight"]
    headers += ["largest ‖R‖ / max ‖M‖", "entropy", *(_PRIOR[name] for name in prior)]
    explained = [
        "Over all blocks and the same points and runs: support is the mean number of atoms with a "
        "weight, entropy the mean of an example's weights in nats. Convexity: weights of at least "
        "0 that sum to 1, so that no ‖R‖ exceeds the largest atom.",
        "λ weighs the language prior π. It is changed in the trained adapter without training "
        "again; a method without the prior has none.",
    ]
    caption = f"Routing and λ, study {study}"
    return Grid(
        "routing", caption, headers, sections(routes, texts, ["strength"]), [*explained, *notes]
    )


def training_grid(training: pd.DataFrame, notes: Sequence[str], study: str) -> Grid:
    """Bound and norm over the updates, means over layers and linears."""

    def texts(label: str, own: pd.DataFrame, update: int) -> list[str]:
        return [label, str(update), *numbers([*own[[*NORMS]].mean(), own["largest_ratio"].max()])]

    headers = ["method", "update", *NORMS.values(), "largest norm / bound"]
    note = "Means over layers and linears of one run a method; the last column is the largest."
    shown = pd.concat(_spread_out(part) for _, part in training.groupby("method", sort=False))
    found = [Section("", rows(shown, texts, ["update"]))]
    return Grid("training", f"Through training, study {study}", headers, found, [note, *notes])


def _spread_out(training: pd.DataFrame) -> pd.DataFrame:
    """What was seen at `SHOWN` of the looks at one run, the first and the last among them."""
    seen = np.sort(training["update"].unique())
    chosen = seen[np.linspace(0, len(seen) - 1, SHOWN).round().astype(int)]
    return training[training["update"].isin(chosen)]
