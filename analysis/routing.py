"""Shows how trained adapters route: `python -m analysis.routing --study quick`.

    results/<study>/routing.md               the tables below, for reading
    results/<study>/routing.csv              entropy and effective atoms, one row a run and block
    results/<study>/routing_atoms.csv        usage and selection, one row a run, block and atom
    results/<study>/routing_similarity.csv   how alike blocks, functions, seeds and targets route,
                                             trained and before the first update
    results/<study>/routing_<function>.svg   the atom chosen first, over the inputs, by block

Usage, entropy and the similarity of blocks are over 500 test points of a run, the first of every
target, each with its text where the method reads one; where every token has a route of its own,
over their tokens. Atoms of two runs have no common order: runs are compared, over one
grid of inputs, by usages in descending order and by linear CKA of the weights (`analysis.routes`).
Beside them stands what is alike by chance: the same runs' adapters as drawn, before any training.
Of targets in sequence, runs are compared under the last, which their adapters have just learnt.
The maps show it too, for the first seed of each method of the study's first budget; with
`--function NAME` that function's map alone is drawn, while the tables stay those of the whole
study.

A study without a finished run of a queryable method is refused, and one with missing or failed
cells unless `--allow-missing` is given.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.cli import exit_code, parser, read_study, writing
from analysis.figures.contours import grid
from analysis.figures.routing import SIDE, Map, routing_figure
from analysis.names import budget_title, function_title, row_label
from analysis.notes import flags, number, setting_notes, spread
from analysis.outputs import Picture, write_csv, write_markdown, write_pictures
from analysis.render import NO_CELL, Grid, Section, Text
from analysis.routes import (
    Array,
    agreement,
    block_agreement,
    cka,
    effective_atoms,
    entropy,
    input_dependence,
    rows,
    selection,
    usage,
    usage_agreement,
)
from analysis.style import figure_style
from analysis.trained import (
    POINTS,
    RowKey,
    Trained,
    left_out,
    load_trained,
    queryable_cells,
    rows_in_order,
)
from qlexp.errors import unknown_name
from qlexp.store.store import Store

COMPARED = 25  # points a side of the grid on which runs are compared
_SIMILARITY = [
    *("budget", "method", "overrides", "adapter", "between", "first", "second", "function", "seed"),
    *("agreement", "usage_agreement", "cka", "blocks", "cka_blocks"),
]
TRAINED, UNTRAINED = "trained", "untrained"


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
        squares = [rows(run.weights(square, target)) for target in range(run.targets)]
        latest = min(run.latest, run.targets - 1)  # the same for all where no text is read
        return cls(rows(run.routes(*run.points())), squares, squares[latest], start)


Runs = Mapping[str, Routed]  # by run_id


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    command = parser("analysis.routing", "Show how the trained queryable adapters route.")
    command.add_argument("--function", help="draw the map of this function alone")
    options = command.parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    store, frame = read_study(options)
    cells = queryable_cells(frame, options.study)
    functions = list(cells["function"].unique())
    if options.function is not None:
        if options.function not in functions:
            raise unknown_name(f"function of study {options.study}", options.function, functions)
        functions = [options.function]
    runs = load_runs(store, cells)
    blocks, similar = block_cells(cells, runs), similarity_cells(cells, runs)
    atoms, tables = atom_cells(cells, runs), grids(blocks, similar, frame, options.study)
    with figure_style():
        pictures = [map_picture(store, cells, function) for function in functions]
    with figure_style(), writing(Path(options.out) / options.study) as folder:
        write_csv(folder / "routing.csv", blocks)
        write_csv(folder / "routing_atoms.csv", atoms)
        write_csv(folder / "routing_similarity.csv", similar)
        write_markdown(folder / "routing.md", *tables)
        write_pictures(folder, pictures)
    print(f"{len(runs)} runs -> {folder}")


def load_runs(store: Store, cells: pd.DataFrame) -> Runs:
    """Every run of `cells`, loaded and routed, trained and untrained."""
    found = {}
    for name in cells["run_id"].unique():
        run = load_trained(store, name)
        found[name] = Routed.of(run, Routed.of(run.untrained(store)))
    return found


def grids(
    blocks: pd.DataFrame, similar: pd.DataFrame, frame: pd.DataFrame, study: str
) -> list[Grid]:
    """What `block_cells` and `similarity_cells` of a study found, as tables that are not empty."""
    notes = [*left_out(frame), *flags(frame), *setting_notes(frame)]
    found = [
        block_grid(blocks, notes, study),
        block_similarity_grid(similar, study),
        run_similarity_grid(similar, study),
    ]
    return [own for own in found if own.sections]


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
    first = cells["budget"].iloc[0]
    for (_, method, variant), part in rows_in_order(cells[cells["budget"] == first]):
        cell = part.sort_values("seed").iloc[0]
        run = load_trained(store, cell["run_id"])
        weights = run.weights(points, run.latest)
        weights = weights if weights.ndim == 3 else weights.mean(1)  # over tokens
        label = f"{row_label(method, variant)}, seed {cell['seed']}"
        if run.served > 1:
            label += f", target {run.latest + 1} of {run.served}"
        yield Map(label, run.surface(points, run.latest), weights.argmax(-1).T)


def _row(key: RowKey, **more: Any) -> dict[str, Any]:
    return {**dict(zip(("budget", "method", "overrides"), key, strict=True)), **more}


def block_cells(cells: pd.DataFrame, runs: Runs) -> pd.DataFrame:
    """Numbers of every run and block; blocks count from 1."""
    return pd.DataFrame(
        _row(
            key,
            function=cell.function,
            seed=cell.seed,
            block=block + 1,
            **{name: values[block] for name, values in found.items()},
        )
        for key, part in rows_in_order(cells)
        for cell in part.itertuples()
        for found in [_block_numbers(runs[cell.run_id].tests)]
        for block in range(len(found["entropy"]))
    )


def _block_numbers(weights: Array) -> dict[str, Array]:
    return {
        "entropy": entropy(weights),
        "effective_atoms": effective_atoms(weights),
        "input_dependence": input_dependence(weights),
        "used_atoms": (selection(weights) > 0).sum(-1),
        "largest_usage": usage(weights).max(-1),
    }


def atom_cells(cells: pd.DataFrame, runs: Runs) -> pd.DataFrame:
    """Usage and selection of every run, block (from 1) and atom (from 0)."""
    return pd.DataFrame(
        _row(
            key,
            function=cell.function,
            seed=cell.seed,
            block=block + 1,
            atom=atom,
            usage=used[block, atom],
            selection=chosen[block, atom],
        )
        for key, part in rows_in_order(cells)
        for cell in part.itertuples()
        for weights in [runs[cell.run_id].tests]
        for used, chosen in [(usage(weights), selection(weights))]
        for block, atom in np.ndindex(*used.shape)
    )


def similarity_cells(cells: pd.DataFrame, runs: Runs) -> pd.DataFrame:
    """How alike two things route, one row a pair; `between` says which things.

    `agreement` compares atom by atom, where one bank serves both; `usage_agreement` and `cka`
    compare two runs, means over their `blocks`; of CKA over the `cka_blocks` that have one.
    `adapter` says whether the adapters are trained, or those that the runs began with.
    """
    starts = {name: run.start for name, run in runs.items() if run.start is not None}
    found = [
        {**_row(key, adapter=adapter), **pair}
        for key, part in rows_in_order(cells)
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
        alike = block_agreement(run.tests)
        for a, b in combinations(range(len(alike)), 2):
            yield _pair("blocks", a + 1, b + 1, **where, agreement=alike[a, b])
        for a, b in combinations(range(len(run.squares)), 2):
            value = agreement(run.squares[a], run.squares[b]).mean()
            yield _pair("targets", a + 1, b + 1, **where, agreement=value)


def _between_runs(cells: pd.DataFrame, runs: Runs) -> Iterator[dict[str, Any]]:
    for one, other in combinations(cells.itertuples(), 2):
        if (one.function == other.function) == (one.seed == other.seed):
            continue
        numbers = _alike(*(runs[cell.run_id].compared for cell in (one, other)))
        if one.seed == other.seed:
            yield _pair("functions", one.function, other.function, seed=one.seed, **numbers)
        else:
            yield _pair("seeds", one.seed, other.seed, function=one.function, **numbers)


def _alike(first: Array, second: Array) -> dict[str, Any]:
    aligned = cka(first, second)
    known = aligned[~np.isnan(aligned)]
    return {
        "usage_agreement": usage_agreement(first, second).mean(),
        "cka": known.mean() if len(known) else np.nan,
        "blocks": len(aligned),
        "cka_blocks": len(known),
    }


def _pair(between: str, first: Any, second: Any, **more: Any) -> dict[str, Any]:
    return {"between": between, "first": first, "second": second, **more}


def block_grid(blocks: pd.DataFrame, notes: Sequence[str], study: str) -> Grid:
    """Entropy and atoms in use, by method and block."""
    columns = {
        "entropy": "entropy",
        "effective_atoms": "effective atoms",
        "input_dependence": "input dependence",
        "used_atoms": "atoms used",
        "largest_usage": "largest usage",
    }
    sections = [
        Section(
            budget_title(budget),
            [
                [
                    Text(row_label(method, variant)),
                    Text(str(block)),
                    *(Text(spread(own[name].tolist())) for name in columns),
                ]
                for (method, variant, block), own in part.groupby(
                    ["method", "overrides", "block"], sort=False
                )
            ],
        )
        for budget, part in blocks.groupby("budget", sort=False)
    ]
    explained = [
        f"Mean ± sample standard deviation over runs, each over {POINTS} test points at most, the "
        "first of every target. Entropy: of one example's weights, in nats. Effective atoms: exp "
        "of the entropy of the mean weights. Input dependence: the entropy of the mean weights "
        "minus the mean entropy, the mutual information of input and atom in nats. Atoms used: "
        "those that any example chose. Largest usage: the largest mean weight of an atom.",
    ]
    caption, headers = f"Routing by block, study {study}", ["method", "block", *columns.values()]
    return Grid("routing", caption, headers, sections, [*explained, *notes])


def block_similarity_grid(similar: pd.DataFrame, study: str) -> Grid:
    """Agreement of every pair of blocks, by method."""
    similar = similar[(similar["between"] == "blocks") & (similar["adapter"] == TRAINED)]
    last = max(similar["second"], default=1)
    sections = []
    for budget, part in similar.groupby("budget", sort=False):
        lines = []
        for (method, variant), own in part.groupby(["method", "overrides"], sort=False):
            means = own.groupby(["first", "second"])["agreement"].mean()
            for a in range(1, last):
                values = [means.get((a, b)) for b in range(2, last + 1)]
                texts = [NO_CELL if value is None else number(value) for value in values]
                if any(value is not None for value in values):
                    lines.append([row_label(method, variant), str(a), *texts])
        sections.append(Section(budget_title(budget), [list(map(Text, line)) for line in lines]))
    headers = ["method", "block", *(f"block {b}" for b in range(2, last + 1))]
    notes = [
        "1 minus the Jensen-Shannon distance (base 2) of two blocks' weights at the same point: 1 "
        "where they are the same, 0 where they share no atom; means over points and runs."
    ]
    caption = f"Similarity of blocks, study {study}"
    return Grid("routing_blocks", caption, headers, sections, notes)


_COMPARISONS = {
    ("functions", "usage_agreement"): "functions: usage",
    ("functions", "cka"): "functions: CKA",
    ("seeds", "usage_agreement"): "seeds: usage",
    ("seeds", "cka"): "seeds: CKA",
    ("targets", "agreement"): "targets: weights",
}


def run_similarity_grid(similar: pd.DataFrame, study: str) -> Grid:
    """How alike functions, seeds and targets route, by method, trained and untrained."""
    keys = ["method", "overrides", "adapter"]
    sections = [
        Section(
            budget_title(budget),
            [
                [
                    Text(row_label(method, variant) + f", {UNTRAINED}" * (adapter == UNTRAINED)),
                    *(Text(_similarity(own, *comparison)) for comparison in _COMPARISONS),
                ]
                for (method, variant, adapter), own in part.groupby(keys, sort=False)
            ],
        )
        for budget, part in similar.groupby("budget", sort=False)
    ]
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
    caption = f"Similarity of runs, study {study}"
    return Grid("routing_runs", caption, ["method", *_COMPARISONS.values()], sections, notes)


def _similarity(pairs: pd.DataFrame, between: str, measure: str) -> str:
    """Mean and spread over the pairs that have a value, and over how many blocks of all."""
    pairs = pairs[pairs["between"] == between]
    known = pairs[measure].astype(float).dropna()
    if known.empty:
        return NO_CELL
    blocks, counted = pairs["blocks"].sum(), pairs["cka_blocks"].sum()
    partial = measure == "cka" and bool(counted < blocks)
    return spread(known.tolist()) + f" ({counted}/{blocks} blocks)" * partial


if __name__ == "__main__":
    sys.exit(main())
