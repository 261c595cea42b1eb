"""How trained adapters route: which atoms they use, and how alike two routings are.

    routing.md               the tables below, for reading
    routing.csv              entropy and effective atoms, one row a run and block
    routing_atoms.csv        usage and selection, one row a run, block and atom
    routing_similarity.csv   how alike blocks, functions, seeds and targets route, trained and
                             before the first update
    routing_<function>.svg   the atom chosen first, over the inputs, by block

Usage, entropy and the similarity of blocks are over 500 test points of a run, the first of every
target, each with its text where the method reads one; where every token has a route of its own,
over their tokens. Atoms of two runs have no common order: runs are compared, over one grid of
inputs, by usages in descending order and by linear CKA of the weights (`analysis.paper.routes`).
Beside them stands what is alike by chance: the same runs' adapters as drawn, before any training.
Of targets in sequence, runs are compared under the last, which their adapters have just learnt.
The maps show it too, for the first seed of each method of the study's first budget; with
`--function NAME` that function's map alone is drawn, while the tables stay those of the whole
study. A study without a finished run of a method that routes is refused.

Of language models, from the summaries alone: how the tasks of a run use its atoms, and how far they
lie apart (`routing.{md,csv}`, `routing_tasks.csv`).
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.benchmark import LANGUAGE
from analysis.figures.contours import grid
from analysis.figures.routing import SIDE, Map, routing_figure
from analysis.inputs import Array
from analysis.names import function_title, row_label
from analysis.paper import routes
from analysis.paper.task_usage import task_usage
from analysis.paper.trained import (
    POINTS,
    Trained,
    load_trained,
    long_table,
    of_function,
    routed_cells,
    run_notes,
)
from analysis.render import NO_CELL, Grid
from analysis.render.output import Picture
from analysis.rows import by_row
from analysis.sections import numbers, sections
from analysis.study import Study
from analysis.text import spread
from analysis.view import Shown
from qlexp.store.store import Store

COMPARED = 25  # points a side of the grid on which runs are compared
TRAINED, UNTRAINED = "trained", "untrained"
BLOCK_NUMBERS = {
    "entropy": ("entropy", routes.entropy),
    "effective_atoms": ("effective atoms", routes.effective_atoms),
    "input_dependence": ("input dependence", routes.input_dependence),
    "used_atoms": ("atoms used", routes.used_atoms),
    "largest_usage": ("largest usage", routes.largest_usage),
}


@dataclass(frozen=True)
class Routed:
    """One run's weights, (n, N_b, K).

    Attributes:
        tests: at its test points.
        squares: by target, on the grid that all runs are compared on.
        compared: the one of `squares` under which runs are compared.
        start: the same run before its first update; None of that itself.
    """

    tests: Array
    squares: list[Array]
    compared: Array
    start: "Routed | None" = None

    @classmethod
    def of(cls, run: Trained, start: "Routed | None" = None) -> "Routed":
        square = grid(COMPARED)
        squares = [routes.token_rows(run.weights(square, target)) for target in range(run.targets)]
        latest = min(run.latest, run.targets - 1)  # the same for all where no text is read
        return cls(routes.token_rows(run.routes(*run.points())), squares, squares[latest], start)


Runs = Mapping[str, Routed]  # by run_id


def add_options(command: ArgumentParser) -> None:
    command.add_argument("--function", help="draw the map of this function alone")


def show(study: Study, options: Namespace) -> Shown:
    """All runs that route, and the maps of all functions or of one; of language models
    `analysis.paper.task_usage`."""
    if study.benchmark is LANGUAGE:
        return task_usage(study)
    cells = routed_cells(study.frame, study.name)
    drawn = of_function(cells, options.function, study.name)["function"].unique()
    runs = load_runs(study.store, cells)
    blocks = long_table(cells, {name: _by_block(run.tests) for name, run in runs.items()})
    atoms = long_table(cells, {name: _by_atom(run.tests) for name, run in runs.items()})
    similar = similarity_cells(cells, runs)
    grids = [
        block_grid(blocks, run_notes(study.frame), study.name),
        block_similarity_grid(similar, study.name),
        run_similarity_grid(similar, study.name),
    ]
    frames = {"routing": blocks, "routing_atoms": atoms, "routing_similarity": similar}
    return Shown(
        {"routing": [own for own in grids if own.sections]},
        {name: own.rename(columns={"variant": "overrides"}) for name, own in frames.items()},
        (map_picture(study.store, cells, function) for function in drawn),
    )


def load_runs(store: Store, cells: pd.DataFrame) -> Runs:
    """Every run of `cells`, loaded and routed, trained and untrained."""
    found = {}
    for name in cells["run_id"].unique():
        run = load_trained(store, name)
        found[name] = Routed.of(run, Routed.of(run.untrained(store)))
    return found


def map_picture(store: Store, cells: pd.DataFrame, function: str) -> Picture:
    """The map of one function."""
    maps = list(_maps(store, cells[cells["function"] == function]))
    caption = (
        f"The atom with the largest weight over the inputs of {function_title(function)}, by "
        "block. The first seed of each method of the first budget; colours hold within a row. Of "
        "several targets in sequence the last is drawn, else the first."
    )
    return Picture(f"routing_{function}", caption, routing_figure(function, maps))


def _maps(store: Store, cells: pd.DataFrame) -> Iterator[Map]:
    """The first seed of every row of the first budget."""
    points = grid(SIDE)
    for _, part in by_row(cells[cells["budget"] == cells["budget"].iloc[0]]):
        cell = part.sort_values("seed").iloc[0]
        run = load_trained(store, cell["run_id"])
        weights = run.weights(points, run.latest)
        weights = weights if weights.ndim == 3 else weights.mean(1)  # over tokens
        label = f"{row_label(cell['method'], cell['variant'])}, seed {cell['seed']}"
        if run.served > 1:
            label += f", target {run.latest + 1} of {run.served}"
        yield Map(label, run.surface(points, run.latest), weights.argmax(-1).T)


def _by_block(weights: Array) -> list[dict[str, Any]]:
    """The numbers of every block; blocks count from 1."""
    found = {name: of(weights) for name, (_, of) in BLOCK_NUMBERS.items()}
    blocks = range(1, weights.shape[1] + 1)
    return pd.DataFrame({"block": blocks, **found}).to_dict("records")


def _by_atom(weights: Array) -> list[dict[str, Any]]:
    """Usage and selection of every block (from 1) and atom (from 0)."""
    used, chosen = routes.usage(weights), routes.selection(weights)
    return [
        {"block": b + 1, "atom": m, "usage": used[b, m], "selection": chosen[b, m]}
        for b, m in np.ndindex(*used.shape)
    ]


_SIMILARITY = [
    *("budget", "method", "variant", "adapter", "between", "first", "second", "function", "seed"),
    *("agreement", "usage_agreement", "cka", "blocks", "cka_blocks"),
]


def similarity_cells(cells: pd.DataFrame, runs: Runs) -> pd.DataFrame:
    """How alike two things route, one row a pair; `between` says which things.

    `agreement` compares atom by atom, where one bank serves both; `usage_agreement` and `cka`
    compare two runs, means over their `blocks`; of CKA over the `cka_blocks` that have one.
    `adapter` says whether the adapters are trained, or those that the runs began with.
    """
    starts = {name: run.start for name, run in runs.items() if run.start is not None}
    found = [
        {**row, "adapter": adapter, **pair}
        for row, part in by_row(cells)
        for adapter, own in ((TRAINED, runs), (UNTRAINED, starts))
        if own
        for pair in [*_within_runs(part, own), *_between_runs(part, own)]
    ]
    whole = dict.fromkeys(("seed", "blocks", "cka_blocks"), "Int64")
    return pd.DataFrame(found, columns=_SIMILARITY).astype(whole)


def _within_runs(cells: pd.DataFrame, runs: Runs) -> Iterator[dict[str, Any]]:
    for cell in cells.itertuples():
        run = runs[cell.run_id]
        where = {"function": cell.function, "seed": cell.seed}
        alike = routes.block_agreement(run.tests)
        for a, b in combinations(range(len(alike)), 2):
            yield _pair("blocks", a + 1, b + 1, **where, agreement=alike[a, b])
        for a, b in combinations(range(len(run.squares)), 2):
            value = routes.agreement(run.squares[a], run.squares[b]).mean()
            yield _pair("targets", a + 1, b + 1, **where, agreement=value)


def _between_runs(cells: pd.DataFrame, runs: Runs) -> Iterator[dict[str, Any]]:
    for one, other in combinations(cells.itertuples(), 2):
        if (one.function == other.function) == (one.seed == other.seed):
            continue
        alike = _alike(*(runs[cell.run_id].compared for cell in (one, other)))
        if one.seed == other.seed:
            yield _pair("functions", one.function, other.function, seed=one.seed, **alike)
        else:
            yield _pair("seeds", one.seed, other.seed, function=one.function, **alike)


def _alike(first: Array, second: Array) -> dict[str, Any]:
    aligned = routes.cka(first, second)
    known = aligned[~np.isnan(aligned)]
    return {
        "usage_agreement": routes.usage_agreement(first, second).mean(),
        "cka": known.mean() if len(known) else np.nan,
        "blocks": len(aligned),
        "cka_blocks": len(known),
    }


def _pair(between: str, first: Any, second: Any, **more: Any) -> dict[str, Any]:
    return {"between": between, "first": first, "second": second, **more}


def block_grid(blocks: pd.DataFrame, notes: Sequence[str], study: str) -> Grid:
    """Entropy and atoms in use, by method and block."""
    explained = (
        f"Mean ± sample standard deviation over runs, each over {POINTS} test points at most, the "
        "first of every target. Entropy: of one example's weights, in nats. Effective atoms: exp "
        "of the entropy of the mean weights. Input dependence: the entropy of the mean weights "
        "minus the mean entropy, the mutual information of input and atom in nats. Atoms used: "
        "those that any example chose. Largest usage: the largest mean weight of an atom."
    )

    def texts(label: str, own: pd.DataFrame, block: int) -> list[str]:
        return [label, str(block), *(spread(own[name].tolist()) for name in BLOCK_NUMBERS)]

    headers = ["method", "block", *(title for title, _ in BLOCK_NUMBERS.values())]
    caption = f"Routing by block, study {study}"
    return Grid(
        "routing", caption, headers, sections(blocks, texts, ["block"]), [explained, *notes]
    )


def block_similarity_grid(similar: pd.DataFrame, study: str) -> Grid:
    """Agreement of every pair of blocks, by method."""
    similar = similar[(similar["between"] == "blocks") & (similar["adapter"] == TRAINED)]
    later = range(2, max(similar["second"], default=1) + 1)

    def texts(label: str, own: pd.DataFrame, block: int) -> list[str]:
        means = own.groupby("second")["agreement"].mean()
        return [label, str(block), *numbers(means.reindex(later))]

    headers = ["method", "block", *(f"block {block}" for block in later)]
    note = (
        "1 minus the Jensen-Shannon distance (base 2) of two blocks' weights at the same point: 1 "
        "where they are the same, 0 where they share no atom; means over points and runs."
    )
    caption = f"Similarity of blocks, study {study}"
    return Grid("routing_blocks", caption, headers, sections(similar, texts, ["first"]), [note])


_COMPARISONS = {
    ("functions", "usage_agreement"): "functions: usage",
    ("functions", "cka"): "functions: CKA",
    ("seeds", "usage_agreement"): "seeds: usage",
    ("seeds", "cka"): "seeds: CKA",
    ("targets", "agreement"): "targets: weights",
}


def run_similarity_grid(similar: pd.DataFrame, study: str) -> Grid:
    """How alike functions, seeds and targets route, by method, trained and untrained."""
    notes = [
        "Mean ± sample standard deviation over pairs of runs: two functions with one seed, or two "
        f"seeds of one function, over the same {COMPARED} x {COMPARED} inputs, means over blocks. "
        "A run is in several pairs, so that ± is no standard error. Atoms of two runs have no "
        "common order, so that only what no reordering changes is compared: usage, 1 minus the "
        "Jensen-Shannon distance of the usages in descending order; CKA, the linear centred kernel "
        "alignment of the weights, 1 where inputs are told apart in the same way. A block whose "
        "routing is the same for all inputs has no CKA; (k/n blocks): so many of all pairs' blocks "
        "have one.",
        f"{UNTRAINED}: what is alike by chance, in the adapters that the same runs began with, on "
        "the same backbones. A value close to it says nothing of what was learnt.",
        "Targets: one adapter under two of its targets' texts, atom by atom, at the same inputs. "
        "Of targets in sequence, runs are compared under the last one's text.",
    ]

    def texts(label: str, own: pd.DataFrame, adapter: str) -> list[str]:
        label += f", {UNTRAINED}" * (adapter == UNTRAINED)
        return [label, *(_similarity(own, *comparison) for comparison in _COMPARISONS)]

    headers, caption = ["method", *_COMPARISONS.values()], f"Similarity of runs, study {study}"
    return Grid("routing_runs", caption, headers, sections(similar, texts, ["adapter"]), notes)


def _similarity(pairs: pd.DataFrame, between: str, measure: str) -> str:
    """Mean and spread over the pairs that have a value, and over how many blocks of all."""
    pairs = pairs[pairs["between"] == between]
    known = pairs[measure].astype(float).dropna()
    if known.empty:
        return NO_CELL
    blocks, counted = pairs["blocks"].sum(), pairs["cka_blocks"].sum()
    partial = measure == "cka" and bool(counted < blocks)
    return spread(known.tolist()) + f" ({counted}/{blocks} blocks)" * partial
