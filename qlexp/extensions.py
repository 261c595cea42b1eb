"""Methods, functions and studies that live outside of this package.

*A folder*, named by `--config-dir` or `qlexp.extend`: a config folder beside `conf/`, so that
`method=mine` finds its `method/mine.yaml`, from which Python imports as well, so that
`_target_: mine.Mine` finds its `mine.py`. Its `qlexp_plugin.py`, where it has one, is run first:
the place to register functions.

*An installed package* with an entry point in the group `qlexp.plugins`: the module that it names is
imported first, and a folder `conf` beside that module is a config folder.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from qlexp.errors import UsageError

GROUP = "qlexp.plugins"
PLUGIN = "qlexp_plugin.py"
NAMED = "qlexp"  # as what the config folders stand on Hydra's search path

_folders: list[Path] = []  # named ones
_modules: dict[str, Any] = {}  # of installed packages, by what their entry points say


def load(folders: Iterable[str | Path] = ()) -> None:
    """Loads what is installed and what the folders hold; what is loaded already stays as it is.

    Raises:
        UsageError: a folder is none, or a plugin raises an error.
    """
    for entry in entry_points(group=GROUP):
        if entry.value not in _modules:
            with _named(f"The plugin {entry.name} ({entry.value})"):
                _modules[entry.value] = entry.load()
    for name in folders:
        folder = Path(name).expanduser().resolve()
        if folder not in _folders:
            _load_folder(folder)


def extend(folder: str | Path) -> None:
    """Takes methods, functions and studies from a folder, as `--config-dir` does.

    Raises:
        UsageError: it is no folder, or its plugin raises an error.
    """
    load([folder])


def load_named(arguments: Sequence[str]) -> list[str]:
    """Loads what is installed and the folders of every `--config-dir` in `arguments`.

    Returns the other arguments.

    Raises:
        UsageError: as `load` does.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    named, others = parser.parse_known_args(arguments)
    load(named.config_dir)
    return others


def named_folders() -> list[str]:
    """The folders that were named: what a worker in another process has to load."""
    return [str(folder) for folder in _folders]


def config_folders() -> list[Path]:
    """Every config folder besides `conf/`."""
    beside = (Path(module.__file__).parent / "conf" for module in _modules.values())
    return [*_folders, *(folder for folder in beside if folder.is_dir())]


def _load_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"--config-dir={folder} is no folder.")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    plugin = folder / PLUGIN
    if plugin.is_file():
        with _named(str(plugin)):
            spec = spec_from_file_location(plugin.stem, plugin)
            assert spec is not None
            assert spec.loader is not None
            spec.loader.exec_module(module_from_spec(spec))
    _folders.append(folder)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Turns whatever a plugin raises into one sentence."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{what} cannot be loaded: {type(error).__name__}: {error}.") from error
