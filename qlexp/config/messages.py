"""What Hydra, OmegaConf and YAML say of bad input, each as one sentence."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from traceback import walk_tb

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from qlexp.errors import UsageError, unknown_name

_SWEEP = re.compile(
    r"(?:Ambiguous value for argument|Sweep parameters) '(?P<override>.*?)'(?: requires|$)", re.M
)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turns a complaint about the input into a `UsageError`."""
    try:
        yield
    except MissingConfigException as error:
        raise _unknown_choice(error) from error
    except OverrideParseException as error:
        raise UsageError(
            f"'{error.override}' is not an override: write KEY=VALUE, such as method=lora, and "
            "put quotes around values with blanks or brackets."
        ) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise _sentence(error) from error
    except YAMLError as error:
        raise UsageError(f"A config file is not valid YAML: {_one_line(error)}.") from error
    except ValueError as error:
        if not _raised_by_hydra(error):
            raise
        raise UsageError(f"{_one_line(error)}.") from error


def unknown_key(key: str, known: Iterable[str]) -> UsageError:
    """The error for a dotted `key` that is none of `known`; names the nearest and its siblings."""
    parent, _, last = key.rpartition(".")
    parts = [name.rpartition(".") for name in sorted(known)]
    beside = {name: _joined(folder, name) for folder, _, name in parts if folder == parent}
    near = [_joined(folder, name) for folder, _, name in parts if name == last]
    near = near or [beside[name] for name in get_close_matches(last, beside, n=1, cutoff=0.6)]
    hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    valid = f" Valid keys: {', '.join(beside.values())}." if beside else ""
    return UsageError(f"Unknown key '{key}'.{hint}{valid}")


def _joined(folder: str, name: str) -> str:
    return f"{folder}.{name}" if folder else name


def keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Dotted names of all that can be set in `config`, Hydra's own node left out."""
    for key in map(str, config):
        if prefix + key == "hydra":
            continue
        yield prefix + key
        node = None if OmegaConf.is_missing(config, key) else config[key]
        if isinstance(node, DictConfig):
            yield from keys(node, f"{prefix}{key}.")


def _unknown_choice(error: MissingConfigException) -> UsageError:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if error.options is None:
        return UsageError(f"{_one_line(error, lines=1)}.")
    return unknown_name(group or "config", name, error.options)


def _sentence(error: Exception) -> UsageError:
    if isinstance(error.__cause__, UsageError):  # raised where Hydra instantiates
        return error.__cause__
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        root = _root(cause.parent_node)
        if root is not None:
            return unknown_key(cause.full_key, keys(root))
    if isinstance(cause, OmegaConfBaseException):
        key = f"{cause.full_key}: " if cause.full_key else ""
        return UsageError(f"{key}{_one_line(cause, lines=1)}.")
    if sweep := _SWEEP.search(str(error)):
        return UsageError(
            f"'{sweep['override']}' names several values: add -m to run them all, or put [] around "
            "them for a list."
        )
    return UsageError(f"{_one_line(error)}.")


def _root(node: object) -> DictConfig | None:
    root = node._get_root() if isinstance(node, Container) else None
    return root if isinstance(root, DictConfig) else None


def _one_line(error: Exception, lines: int | None = None) -> str:
    """The message, or its first `lines`, on one line and without its full stop."""
    kept = str(error).strip().splitlines()[:lines]
    return " ".join(" ".join(kept).split()).rstrip(".")


def _raised_by_hydra(error: Exception) -> bool:
    *_, (frame, _) = walk_tb(error.__traceback__)
    return frame.f_globals["__name__"].startswith("hydra.")
