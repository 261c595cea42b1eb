"""One cell, from the command line or from Python: compose, plan, run, store."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from qlexp import extensions
from qlexp.command import refusal
from qlexp.config.identity import run_id
from qlexp.config.messages import one_sentence
from qlexp.config.schema import Config, register_schema
from qlexp.errors import RunError
from qlexp.main import CONF
from qlexp.store.files import read_curves
from qlexp.store.store import Store
from qlexp.sweep.execute import check_places, execute
from qlexp.sweep.jobs import Job, objective
from qlexp.sweep.plan import plan

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

# Hydra 1.3 warns where it is left out, 1.4 where it is not.
warnings.filterwarnings("ignore", "(?s).*version_base parameter")


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
    extensions.load()
    register_schema()
    with one_sentence(), initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        return plan(compose("config", overrides=list(overrides)))


def run_from_command_line() -> None:
    """Runs what `sys.argv` asks for, a cell or a sweep.

    Raises:
        UsageError: nothing has been computed.
        RunError: a run raised an error; all others are stored.
    """
    register_schema()
    command = hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(_run_one)
    with one_sentence():
        command()


def _run_one(composed: DictConfig) -> float | None:
    """A job of Hydra's; returns the validation loss, for sweepers that optimise."""
    with refusal("qlexp"), one_sentence():
        hydra_node = HydraConfig.get()
        sources = hydra_node.runtime.config_sources
        extensions.load(source.path for source in sources if source.provider == extensions.NAMED)
        job = Job.of(composed, hydra_node)
        check_places([job.config])
        Store(job.config.store).write_study(job.config.study, [job.cell()], goes_on=True)
        summary = execute([job.config], width=1)[0]
    if summary["status"] == "failed":
        raise RunError.of(summary)
    print(_line(summary))
    return objective(summary)


def _line(summary: dict[str, Any]) -> str:
    """A finished run in one line."""
    cell = f"{summary['function']}/{summary['method']}/s{summary['seed']}"
    keys = ("pretrain_r2", "frozen_loss", "post_train_loss", "test_loss")
    values = "  ".join(
        f"{key} {'inf' if summary[key] is None else format(summary[key], '.4g')}" for key in keys
    )
    return f"{cell}  {summary['status']}  {values}  run_id {summary['run_id']}"
