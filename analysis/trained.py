"""Stored adapters of queryable LoRA, loaded to be looked into."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pkgutil import resolve_name

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.cells import cells_of, rows_of, variants
from analysis.load import finished
from analysis.names import budget_order
from analysis.notes import diverged_note
from qlexp.adapters.queryable import Queryable
from qlexp.adapters.stored import CPU, build_adapter, load_backbones, load_run, stored_config
from qlexp.config.schema import Config
from qlexp.errors import UsageError
from qlexp.problem.instructions import encode
from qlexp.problem.targets import Problem, Split
from qlexp.store.store import Store

POINTS = 500  # the test points that a run is looked at on, at most

Array = NDArray[np.float64]
RowKey = tuple[str, str, str]  # budget, method, variant


@dataclass(frozen=True)
class Trained:
    """A stored run: its config, its adapter (one lane, on the CPU) and its problem."""

    config: Config
    adapter: Queryable
    problem: Problem

    def points(self) -> tuple[Tensor, Tensor | None]:
        """`POINTS` test points (1, n, 2), and e(z) (1, n, d_e) where it is read."""
        return split_inputs(self.config, self.problem.test, self.adapter)

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
        assert isinstance(adapter, Queryable)
        return replace(self, adapter=adapter)


def inputs_at(
    config: Config, problem: Problem, model: nn.Module, x: Array, target: int = 0
) -> tuple[Tensor, Tensor | None]:
    """Points x (n, 2) as `model` takes them: (1, n, 2), and e(z) (1, n, d_e) where it reads one.

    The text is a target's first wording.
    """
    like = next(model.parameters())
    points = torch.as_tensor(x[None], dtype=like.dtype, device=like.device)
    texts = encode(config, problem.test)
    if texts is None:
        return points, None
    first = np.flatnonzero(problem.test.target == target)[0]
    return points, torch.as_tensor(texts[first]).to(points).expand(1, len(x), -1)


def split_inputs(config: Config, split: Split, model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """`POINTS` of a split as `model` takes them: x (1, n, 2), e(z) (1, n, d_e).

    They are the first of every target, equally many of each.
    """
    like = next(model.parameters())
    instruction = encode(config, split)
    turn = pd.Series(split.target).groupby(split.target).cumcount()
    chosen = np.argsort(turn.to_numpy(), kind="stable")[:POINTS]

    def tensor(values: Array) -> Tensor:
        return torch.as_tensor(values[None, chosen], dtype=like.dtype, device=like.device)

    return tensor(split.x), None if instruction is None else tensor(instruction)


def done_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """The done cells of queryable methods, with the column `variant`; maybe none."""
    cells = _queryable(frame.assign(variant=variants(frame)))
    return cells[cells["status"] == "done"]


def queryable_cells(frame: pd.DataFrame, study: str) -> pd.DataFrame:
    """`done_cells`, at least one.

    Raises:
        UsageError: the study has none.
    """
    cells = done_cells(frame)
    if cells.empty:
        raise UsageError(
            f"Study '{study}' has no finished run of a queryable method: it needs one such as "
            "queryable or instruction_queryable."
        )
    return cells


def left_out(frame: pd.DataFrame) -> list[str]:
    """A note that names the queryable runs that diverged, or none."""
    return diverged_note(_queryable(frame))


def _queryable(frame: pd.DataFrame) -> pd.DataFrame:
    cells = finished(frame)
    name = "config.method._target_"
    return cells[cells[name].map(_is_queryable)] if name in cells else cells.iloc[:0]


def _is_queryable(target: object) -> bool:
    try:
        kind = resolve_name(str(target))
    except (ImportError, AttributeError, ValueError):
        return False
    return isinstance(kind, type) and issubclass(kind, Queryable)


def load_trained(store: Store, identity: str) -> Trained:
    """A stored run of a queryable method.

    Raises:
        UsageError: its files are not readable.
    """
    adapter, problem = load_run(store, identity)
    assert isinstance(adapter, Queryable)
    return Trained(stored_config(store, identity), adapter, problem)


def rows_in_order(cells: pd.DataFrame) -> Iterator[tuple[RowKey, pd.DataFrame]]:
    """The cells of each row, in the order of the tables."""
    for budget in sorted(cells["budget"].unique(), key=budget_order):
        part = cells[cells["budget"] == budget]
        for name in rows_of(part):
            yield (budget, *name), cells_of(part, name)
