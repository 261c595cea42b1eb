"""`qlexp migrate STORE`: brings the manifests of a store to the schema of today.

The older form is a list of cells with the words of their command lines. What they mean is taken
from the config of the stored run, and where there is none, from the words alone.
"""

import json
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from qlexp.config.settings import key_of, told
from qlexp.errors import UsageError
from qlexp.store.files import write_file
from qlexp.store.manifest import Cell, ManifestError, OlderManifestError, dump, parse
from qlexp.store.store import Store

_JSON = bool | int | float | str | list | dict


def main(arguments: Sequence[str], program: str = "qlexp migrate") -> int:
    """The command; returns its exit code.

    Raises:
        UsageError: there is no such store, or a manifest of it is not readable; nothing is changed.
    """
    parser = ArgumentParser(prog=program, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store", type=Path, help="folder of the runs")
    parser.add_argument("--dry-run", action="store_true", help="count, and change nothing")
    options = parser.parse_args(arguments)
    if not (options.store / "studies").is_dir():
        raise UsageError(f"There is no store at {options.store}.")
    store = Store(options.store)
    counts = migrate(store, options.dry_run)
    for study, count in counts.items():
        print(f"{study}: {count} cells")
    print(f"{len(counts)} studies {'would be ' * options.dry_run}migrated in {store.root}")
    return 0


def migrate(store: Store, dry_run: bool = False) -> dict[str, int]:
    """Rewrites the manifests of the older form; returns how many cells each of them lists.

    Raises:
        UsageError: a manifest is not readable; nothing is changed.
    """
    found = {path: _migrated(path, store) for path in sorted(store.root.glob("studies/*.json"))}
    older = {path: cells for path, cells in found.items() if cells is not None}
    for path, cells in older.items():
        if not dry_run:
            with store.lock(f"study-{path.stem}"):
                write_file(path, dump(cells))
    return {path.stem: len(cells) for path, cells in older.items()}


def _migrated(path: Path, store: Store) -> list[Cell] | None:
    """The cells of a manifest of the older form; None for one of today's."""
    text = path.read_text()
    try:
        parse(text)
        return None
    except OlderManifestError:
        pass
    except ManifestError as error:
        raise UsageError(f"The manifest {path} is not readable ({error}): move it away.") from error
    try:
        return [_cell(entry, store) for entry in json.loads(text)]
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"The manifest {path} is not readable ({type(error).__name__}: {error}): move it away."
        ) from error


def _cell(entry: Mapping[str, Any], store: Store) -> Cell:
    summary = store.summary(entry["run_id"]) or {}
    values = {key: value for key, value in entry.items() if key != "overrides"}
    settings, asked = meant(entry["overrides"], summary.get("config", {}))
    return Cell(**values, settings=settings, asked=asked)


def meant(
    overrides: Iterable[str], config: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings of a run and the names of those that `overrides` gave.

    Args:
        config: of the run, nested; empty where it is not known.
    """
    words = list(overrides)
    return told(config, dict(map(setting_in, words)), words)


def setting_in(override: str) -> tuple[str, Any]:
    """The name and the typed value that an override gives."""
    return key_of(override), _value(override)


@cache
def _value(override: str) -> Any:
    """The typed value that an override such as `+data.noise=5e-2` gives."""
    try:
        value = OverridesParser.create().parse_override(override).value()
    except HydraException:
        return override.partition("=")[2]
    return value if value is None or isinstance(value, _JSON) else str(value)
