"""How differently the tasks of one run use its atoms, from what the summary of the run holds.

Atoms of two runs have no common order, so that only tasks which one adapter serves are compared.
"""

import json
import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import entropy

from analysis.legend import diverged_note, flags, setting_notes
from analysis.load import finished
from analysis.names import function_title
from analysis.paper.trained import long_table
from analysis.render import NO_CELL, Grid
from analysis.sections import sections
from analysis.study import Study
from analysis.text import listed, spread
from analysis.view import Shown
from qlexp.errors import UsageError

_NOTE = (
    "Mean ± sample standard deviation over runs. Entropy: of a task's mean atom weights at the "
    "end, in nats, mean over tasks and blocks; ln K where it uses all K atoms alike. Effective "
    "atoms: exp of it. Total variation: half the sum over atoms of how far the mean weights of two "
    "tasks lie apart, mean over pairs of tasks and blocks: 0 where they use the same atoms alike, "
    "1 where they share none."
)


def task_usage(study: Study) -> Shown:
    """Atoms in use by task, and how far tasks lie apart, of a study of language models.

    Raises:
        UsageError: no run holds the usage of its atoms.
    """
    done = finished(study.frame)
    cells = done[(done["status"] == "done") & done["atom_usage"].map(_is_text)]
    if cells.empty:
        raise UsageError(
            f"Study '{study.name}' has no finished run that tells how it uses its atoms: it needs "
            "a method that routes, such as queryable or instruction_queryable."
        )
    runs = cells.drop_duplicates("run_id").to_dict("records")
    used = long_table(cells, {run["run_id"]: list(_used(run)) for run in runs})
    apart = long_table(cells, {run["run_id"]: list(_apart(run)) for run in runs})
    names = {"variant": "overrides"}
    return Shown(
        {"routing": [usage_grid(used, apart, study)]},
        {"routing": used.rename(columns=names), "routing_tasks": apart.rename(columns=names)},
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)  # the long table holds lists as JSON


def _usage(run: dict[str, Any]) -> tuple[list[str], np.ndarray]:
    """The tasks of a run, and their mean weights (T, N_b, K)."""
    return json.loads(run["tasks"]), np.array(json.loads(run["atom_usage"]), dtype=float)


def _used(run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of each task and block (from 1) the entropy of its mean weights, and what it amounts to."""
    for task, weights in zip(*_usage(run), strict=True):
        for block, nats in enumerate(entropy(weights, axis=-1), start=1):
            atoms = {"entropy": nats, "effective_atoms": math.exp(nats), "atoms": weights.shape[-1]}
            yield {"task": task, "block": block, **atoms}


def _apart(run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The total variation of each two tasks, by block (from 1)."""
    for (one, first), (other, second) in combinations(zip(*_usage(run), strict=True), 2):
        for block, distance in enumerate(np.abs(first - second).sum(-1) / 2, start=1):
            yield {"first": one, "second": other, "block": block, "total_variation": distance}


def usage_grid(used: pd.DataFrame, apart: pd.DataFrame, study: Study) -> Grid:
    """Methods and what they are trained on, by how their tasks use atoms."""
    keys = ["budget", "method", "variant", "function"]
    distances = {} if apart.empty else dict(list(apart.groupby(keys)))

    def texts(title: str, own: pd.DataFrame, function: str) -> list[str]:
        pairs = distances.get(tuple(own.iloc[0][keys]))
        return [
            title,
            function_title(function),
            listed(own.groupby("seed")["task"].nunique()),
            listed(own["atoms"]),
            *(_over_runs(own, name) for name in ("entropy", "effective_atoms")),
            NO_CELL if pairs is None else _over_runs(pairs, "total_variation"),
        ]

    headers = ["method", "trained on", "tasks", "K", "entropy", "effective atoms"]
    notes = [_NOTE, *diverged_note(study.frame), *flags(study.frame), *setting_notes(study.frame)]
    return Grid(
        "routing",
        f"Use of atoms by task, study {study.name}",
        [*headers, "total variation"],
        sections(used, texts, ["function"]),
        notes,
    )


def _over_runs(cells: pd.DataFrame, column: str) -> str:
    return spread(cells.groupby("seed")[column].mean().tolist())
