"""Stored adapters of the methods that route, loaded to be looked into."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from analysis.cells import ROW
from analysis.inputs import Array, Inputs, inputs_at, split_inputs
from analysis.legend import diverged_note, flags, setting_notes
from analysis.load import finished
from analysis.rows import by_row
from qlexp.adapters.routed import RoutedAdapter
from qlexp.adapters.stored import (
    CPU,
    build_adapter,
    load_backbones,
    load_run,
    stored_config,
    stored_method,
)
from qlexp.config.schema import Config
from qlexp.errors import UsageError, unknown_name
from qlexp.problem.targets import Problem
from qlexp.store.store import Store

POINTS = 500  # the test points that a run is looked at on, at most
CELL = [*ROW, "function", "seed"]


@dataclass(frozen=True)
class Trained:
    """A stored run: its config, its adapter (one lane, on the CPU) and its problem."""

    config: Config
    adapter: RoutedAdapter
    problem: Problem

    def points(self) -> Inputs:
        """`POINTS` test points, the first of every target."""
        return split_inputs(self.config, self.problem.test, self.adapter, POINTS)

    def weights(self, x: Array, target: int) -> Array:
        """Atom weights (n, ..., N_b, K) at points x (n, 2) under one target's first wording."""
        return self.routes(*inputs_at(self.config, self.problem, self.adapter, x, target))

    @torch.no_grad()
    def routes(self, x: Tensor, instruction: Tensor | None) -> Array:
        """Atom weights (n, ..., N_b, K) at points x (1, n, 2)."""
        weights: Array = self.adapter.routes(x, instruction)[0].double().numpy()
        return weights

    @property
    def served(self) -> int:
        """How many targets the adapter serves."""
        return len(self.problem.adapt.shifts)

    @property
    def latest(self) -> int:
        """The target that the adapter was trained on last: the first where they took turns."""
        return self.config.shift.tasks - 1

    @property
    def targets(self) -> int:
        """How many targets' texts tell the routing apart: 1 where it reads none."""
        split = self.problem.test
        reads = self.config.instruction.encoder != "none"
        return min(len(split.shifts), len(split.y)) if reads else 1

    def surface(self, x: Array, target: int) -> Array:
        """A target's clean standardised values (n,) at points x (n, 2)."""
        return self.problem.target(x, target)

    def untrained(self, store: Store) -> "Trained":
        """The same run before its first update: the stored backbone, and the adapter as drawn.

        Raises:
            UsageError: the backbone is not readable.
        """
        adapter = build_adapter([self.config], load_backbones([self.config], store, CPU))
        assert isinstance(adapter, RoutedAdapter)
        return replace(self, adapter=adapter)


def load_trained(store: Store, identity: str) -> Trained:
    """A stored run of a method that routes.

    Raises:
        UsageError: its files are not readable.
    """
    adapter, problem = load_run(store, identity)
    assert isinstance(adapter, RoutedAdapter)
    return Trained(stored_config(store, identity), adapter, problem)


def done_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """The done cells of methods that route, maybe none."""
    cells = _routed(frame)
    return cells[cells["status"] == "done"]


def routed_cells(frame: pd.DataFrame, study: str) -> pd.DataFrame:
    """`done_cells`, at least one.

    Raises:
        UsageError: the study has none.
    """
    cells = done_cells(frame)
    if cells.empty:
        raise UsageError(
            f"Study '{study}' has no finished run of a method that routes: it needs one such as "
            "queryable or instruction_queryable."
        )
    return cells


def of_function(cells: pd.DataFrame, function: str | None, study: str) -> pd.DataFrame:
    """The cells of one function; None: all.

    Raises:
        UsageError: the study has no such function.
    """
    known = list(cells["function"].unique())
    if function is not None and function not in known:
        raise unknown_name(f"function of study {study}", function, known)
    return cells if function is None else cells[cells["function"] == function]


def run_notes(frame: pd.DataFrame) -> list[str]:
    """What diverged and is left out, what to distrust, and how the runs were made."""
    return [*diverged_note(_routed(frame)), *flags(frame), *setting_notes(frame)]


def _routed(frame: pd.DataFrame) -> pd.DataFrame:
    cells, name = finished(frame), "config.method._target_"
    return cells[cells[name].map(_routes)] if name in cells else cells[:0]


def _routes(target: object) -> bool:
    kind = stored_method(target)
    return kind is not None and issubclass(kind, RoutedAdapter)


def long_table(
    cells: pd.DataFrame, found: Mapping[str, Iterable[Mapping[str, Any]]]
) -> pd.DataFrame:
    """What was found of each run, by run_id, beside the name of its cell."""
    return pd.DataFrame(
        {**{name: cell[name] for name in CELL}, **columns}
        for _, part in by_row(cells)
        for cell in part.to_dict("records")
        for columns in found[cell["run_id"]]
    )
