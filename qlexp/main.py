"""The `qlexp` command and its Python twin: compose, plan, run, store."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from qlexp.config.identity import run_id
from qlexp.config.messages import one_sentence
from qlexp.config.schema import Config, register_schema
from qlexp.errors import RunError, UsageError
from qlexp.store.files import read_curves
from qlexp.store.store import Store
from qlexp.sweep.execute import execute
from qlexp.sweep.jobs import Job, objective
from qlexp.sweep.plan import plan

_PACKAGE = Path(__file__).parent
CONF = next(f for f in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if f.is_dir())


@dataclass(frozen=True)
class Result:
    """A stored run: its summary, its curves, and the folder that holds both and the weights."""

    summary: dict[str, Any]
    curves: pd.DataFrame
    folder: Path


def run(overrides: Sequence[str] = ()) -> Result:
    """Runs one cell, or reads it back where it is stored.

    Args:
        overrides: as on the command line, such as `["function=matyas", "method=dora", "seed=1"]`.

    Raises:
        UsageError: an override is wrong; the sentence says what would be right.
        RunError: the run raised an error.
    """
    config = configure(overrides)
    summary = execute([config], width=1)[0]
    if summary["status"] == "failed":
        raise RunError.of(summary)
    folder = Store(config.store).run_folder(run_id(config))
    return Result(summary, read_curves(folder), folder)


def configure(overrides: Sequence[str] = ()) -> Config:
    """The checked config of one cell, its method sized to its budget; nothing is computed.

    Raises:
        UsageError: an override is wrong; the sentence says what would be right.
    """
    register_schema()
    with one_sentence(), initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        return plan(compose("config", overrides=list(overrides)))


def choices(group: str) -> list[str]:
    """The names in a group of `conf/`, such as method."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def _run_one(composed: DictConfig) -> float | None:
    """One cell from the command line; returns the validation loss, for sweepers that optimise."""
    with _refusal(), one_sentence():
        hydra_node = HydraConfig.get()
        job = Job.of(plan(composed), hydra_node.runtime.choices, hydra_node.overrides.task)
        summary = execute([job.config], width=1)[0]
        Store(job.config.store).write_study(job.config.study, [job.cell()], goes_on=True)
    if summary["status"] == "failed":
        raise RunError.of(summary)
    print(summary_line(summary))
    return objective(summary)


def summary_line(summary: dict[str, Any]) -> str:
    """A finished run in one line."""
    cell = f"{summary['function']}/{summary['method']}/s{summary['seed']}"
    keys = ("pretrain_r2", "frozen_loss", "post_train_loss", "test_loss")
    values = "  ".join(
        f"{key} {'inf' if summary[key] is None else format(summary[key], '.4g')}" for key in keys
    )
    return f"{cell}  {summary['status']}  {values}  run_id {summary['run_id']}"


def main() -> None:
    """The console script: a mistake of the user's is one sentence on stderr and exit code 2.

    A run that raised an error is one sentence and exit code 1, after all others are stored.
    """
    if sys.argv[1:2] == ["show"]:
        from analysis.__main__ import main as show  # noqa: PLC0415, not before it is asked for

        sys.exit(show(sys.argv[2:], program="qlexp show"))
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # lets Hydra's errors reach us
    sys.argv[1:] = sorted(sys.argv[1:], key=_is_override)  # Hydra wants options first
    register_schema()
    try:
        with _refusal(), one_sentence():
            _run_one()
    except RunError as error:
        print(f"qlexp: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("qlexp: stopped; finished runs are stored and a rerun skips them.", file=sys.stderr)
        sys.exit(130)


def _is_override(argument: str) -> bool:
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


@contextmanager
def _refusal() -> Iterator[None]:
    """Prints a `UsageError` and leaves; inside a Hydra job too, so that Hydra adds no words."""
    try:
        yield
    except UsageError as error:
        print(f"qlexp: {error}", file=sys.stderr)
        sys.exit(2)
