"""A study as one long table, read from the store."""

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.benchmark import SYNTHETIC, Benchmark, benchmark_named, benchmark_of
from analysis.names import budget_order, function_order, method_order
from analysis.settings import SEPARATOR, different, joined
from analysis.tasks import with_tasks
from analysis.text import seed_list
from qlexp.errors import UsageError
from qlexp.store.files import FINISHED, STOPPED
from qlexp.store.manifest import Cell
from qlexp.store.migrate import setting_in
from qlexp.store.store import Store

_SHARES = ("worst_share", "beyond_head")
_COUNTS = ("trainable_parameters", "reference_parameters")
_COLUMNS = (
    *("budget", "function", "method", "overrides", "settings", "seed", "run_id", "status", "error"),
    *("backbone_id", *SYNTHETIC.frozen_losses, "pretrain_r2", *SYNTHETIC.adapted_losses),
    *("test_r2", "learnt_r2", *_SHARES),
    *("reading", *_COUNTS, "total_parameters", "rank", "steps", "samples_per_period"),
    *("lanes", "seconds", "lane_bytes", "peak_memory_bytes", "device", "commit"),
)
_NUMBERS = (
    *(*SYNTHETIC.frozen_losses, *SYNTHETIC.adapted_losses, *SYNTHETIC.scores, *_SHARES, *_COUNTS),
    *("samples_per_period", "steps", "seconds", "lane_bytes"),
)
_NAME = ("budget", "function", "method", "overrides", "seed")  # what a row and a seed are called
_LISTED = 20  # the most cells that an error names


def open_store(root: str | Path) -> Store:
    """The store at `root`.

    Raises:
        UsageError: there is none.
    """
    if not (Path(root).expanduser() / "studies").is_dir():
        raise UsageError(
            f"There is no store at {root}: run an experiment first, or name its folder by --store."
        )
    return Store(root, writable=False)


def load_study(store: Store, study: str) -> pd.DataFrame:
    """One row a cell of the study's manifest, in a fixed order.

    The columns are those of the run's summary, nested ones flattened (`config.data.noise`,
    `versions.torch`; lists as JSON text), the cell's `budget`, and its `settings` (typed, by their
    names) with their text, `overrides`: those that tell cells of the study apart. `status`
    is "missing" where no run is stored, and `extension` counts the values that a tuned sweep added
    to a row's grid. The store writes null for what is not finite: a loss comes
    back as inf and a score such as R² as -inf, and the losses of the adapted model
    (`analysis.benchmark`) are inf in every diverged run, whatever they are, and where they lie
    above the config's ceiling. The error of a diverged run has no worst share. What a benchmark
    lacks is NaN.

    Raises:
        UsageError: the study is unknown or of several benchmarks, or its manifest or a summary is
            not readable.
    """
    cells = store.study(study)
    if not cells:
        raise UsageError(f"Study '{study}' lists no cells: run `qlexp experiment={study}` again.")
    named = sorted(_named(cells), key=_order)
    _refuse_namesakes(named, study)
    runs = {identity: _read_run(store, identity) for identity in {cell.run_id for cell in cells}}
    rows = [{**runs[cell["run_id"]], **cell} for cell in named]
    found = set().union(*rows)
    names = [*_COLUMNS, *sorted(found.difference(_COLUMNS))]
    columns = {name: pd.Series([row.get(name, math.nan) for row in rows]) for name in names}
    frame = pd.DataFrame(columns)
    numbers = [name for name in (*_NUMBERS, *benchmark_of(frame).numbers) if name in columns]
    return frame.assign(**{name: pd.to_numeric(columns[name]) for name in numbers})


def _named(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The different ones of `cells`, as columns, each with the settings that tell it from others.

    Those are what the command line gave to any cell. A cell to which it was not given has what its
    config resolved to; a field of the method's own counts where the study gives it to that method.
    What all cells have in common is left out.
    """
    given: dict[str, set[str]] = {}
    for cell in cells:
        given.setdefault(cell.method, set()).update(cell.asked)
    names = list(dict.fromkeys(name for cell in cells for name in cell.asked))
    told = [
        {
            name: cell.settings[name]
            for name in names
            if name in cell.settings
            and (name in given[cell.method] or not name.startswith("method."))
        }
        for cell in cells
    ]
    found = {}
    for cell, own in zip(cells, different(told), strict=True):
        row = _columns(cell, own)
        found[cell.run_id, *(row[key] for key in _NAME)] = row
    return list(found.values())


def _columns(cell: Cell, settings: Mapping[str, Any]) -> dict[str, Any]:
    columns = {**vars(cell), "settings": settings, "overrides": joined(settings)}
    del columns["asked"]
    if cell.reference_parameters is None:
        del columns["reference_parameters"]
    if not cell.extension:
        del columns["extension"]
    return columns


def _refuse_namesakes(cells: Sequence[Mapping[str, Any]], study: str) -> None:
    """Refuses two runs that no row could tell apart."""
    (name, count), *_ = Counter(tuple(cell[key] for key in _NAME) for cell in cells).most_common(1)
    if count > 1:
        cell = dict(zip(_NAME, name, strict=True))
        raise UsageError(
            f"Study '{study}' has {count} different runs called {cell['method']} on "
            f"{cell['function']}, seed {cell['seed']}, {cell['budget']}: give their methods "
            "different names."
        )


def _order(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        budget_order(cell["budget"]),
        function_order(cell["function"]),
        method_order(cell["method"]),
        cell["overrides"].split(SEPARATOR),
        cell["seed"],
        cell["run_id"],
    )


def _read_run(store: Store, identity: str) -> dict[str, Any]:
    summary = store.summary(identity)
    if summary is None:
        return {"status": "missing"}
    benchmark = benchmark_named(summary.get("benchmark"))
    row: dict[str, Any] = {}
    try:
        _flatten(with_tasks(summary), "", row)
        if row.get("status") in FINISHED:
            _complete(row, benchmark)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"The summary of run {identity} has no usable value for {error}: delete "
            f"{store.run_folder(identity)} and run the study again."
        ) from error
    return row


def _complete(row: dict[str, Any], benchmark: Benchmark) -> None:
    """Puts numbers in the columns of a finished run that its benchmark says it has."""
    diverged, adapted = row["status"] == "diverged", benchmark.adapted_losses
    for name, older in benchmark.older.items():
        row.setdefault(name, row[older])
    for name in (*adapted, *benchmark.frozen_losses):
        lost = (diverged and name in adapted) or row[name] is None
        row[name] = math.inf if lost else float(row[name])
    ceiling = row.get("config.trainer.loss_ceiling", math.inf)
    for name in adapted:
        scaled = "test_loss" if name == "test_loss_raw" else name
        row[name] = math.inf if row[scaled] > ceiling else row[name]
    for name in benchmark.scores:
        row[name] = -math.inf if row[name] is None else float(row[name])
    row.update(benchmark.of_diverged if diverged else {})


def _flatten(values: Mapping[str, Any], prefix: str, row: dict[str, Any]) -> None:
    """Adds nested `values` to `row` under their dotted names, which all rows share."""
    for key, value in values.items():
        if isinstance(value, dict):
            _flatten(value, f"{prefix}{key}.", row)
        else:
            name = sys.intern(prefix + key)
            row[name] = json.dumps(value) if isinstance(value, list) else value


def read_runs(path: str | Path) -> pd.DataFrame:
    """The long table that a `runs.csv` of the view `tables` holds, as `load_study` gives it.

    Raises:
        UsageError: it is none.
    """
    texts = dict.fromkeys(("run_id", "backbone_id", "commit", "error", "overrides"), str)
    try:
        runs = pd.read_csv(path, dtype=texts, float_precision="round_trip")
        settings = [_settings_in(text) for text in runs["overrides"].fillna("")]
        runs["overrides"] = list(map(joined, settings))
        known = benchmark_of(runs).older.items()
        older = {name: runs[old] for name, old in known if name not in runs}
        gone = set(_COLUMNS) - {*runs, *older}
        lacking = older | dict.fromkeys(gone, math.nan) | {"settings": settings}
        return pd.concat([runs, pd.DataFrame(lacking)], axis=1).copy()  # in one block
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path} is not the runs.csv of a study ({error}).") from error


def joined_runs(paths: Sequence[str | Path]) -> pd.DataFrame:
    """The table of a study whose parts were run apart, each with a `runs.csv` of its own.

    Of a cell that several files name the first finished run counts, a missing one least.

    Raises:
        UsageError: a file is no `runs.csv`, or two have the same run with different losses, or
            different runs of one cell, or runs of different benchmarks.
    """
    whole = pd.concat([read_runs(path) for path in paths], ignore_index=True)
    _ = benchmark_of(whole)
    done = finished(whole)
    for keys, column in ((list(_NAME), "run_id"), (["run_id"], "test_loss")):
        values = done.groupby(keys)[column].nunique()
        if (values > 1).any():
            place = values.idxmax()
            words = [place] if isinstance(place, str) else filter(None, map(str, place))
            raise UsageError(
                f"The files disagree in {column} of {', '.join(words)}: give those of one version."
            )
    gap = 2 * ~whole["status"].isin(FINISHED) + whole["status"].eq("missing")
    ranked = whole.assign(gap=gap).sort_values("gap", kind="stable")
    kept = ranked.drop_duplicates(list(_NAME)).drop(columns="gap").reset_index(drop=True)
    cells = kept[[*_NAME, "run_id"]].to_dict("records")
    return kept.loc[sorted(kept.index, key=lambda i: _order(cells[i]))].reset_index(drop=True)


def _settings_in(text: str) -> dict[str, Any]:
    """`a=1; b=5e-3` -> {"a": 1, "b": 0.005}."""
    return dict(setting_in(word) for word in text.split(SEPARATOR) if word)


def finished(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells whose run is stored and did not fail; diverged ones are finished."""
    return frame[frame["status"].isin(FINISHED)]


def require_complete(frame: pd.DataFrame, study: str) -> None:
    """Refuses a study with missing or failed cells.

    Raises:
        UsageError: names them.
    """
    lines = incomplete(frame)
    if not lines:
        return
    more = f"; and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
    command = benchmark_of(frame).command
    raise UsageError(
        f"Study '{study}' is incomplete: {'; '.join(lines[:_LISTED])}{more}. Run "
        f"`{command} experiment={study}` again, or pass --allow-missing to print the gaps."
    )


def incomplete(frame: pd.DataFrame) -> list[str]:
    """Missing, failed and paused cells in words, with their errors; the seeds of a cell together.
    A trial that was stopped on its way is no gap."""
    gaps = frame[~frame["status"].isin((*FINISHED, STOPPED))]
    keys = ["status", "budget", "function", "method", "overrides", "error"]
    lines = []
    for values, group in gaps.groupby(keys, sort=False, dropna=False):
        status, budget, function, method, overrides, error = values
        place = f"{status}: {method} on {function} ({budget}{', ' * bool(overrides)}{overrides})"
        reason = f": {' '.join(str(error).split())}" if isinstance(error, str) else ""
        lines.append(f"{place}, {seed_list(group['seed'])}{reason}")
    return lines
