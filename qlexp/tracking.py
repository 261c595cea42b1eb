"""The mirror in Weights & Biases: one W&B run for each stored run.

The store is the truth and is written first; what W&B does with its copy cannot lose a result. The
modes are `offline` (the default: files below `directory/wandb`, for `wandb sync` later; no account,
no prompt, no network), `online` and `none` (`wandb` is never imported).
"""

from __future__ import annotations

import importlib
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from qlexp.config.schema import TrackingConfig
from qlexp.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

_LOG = logging.getLogger(__name__)
_PATIENCE = 30.0  # seconds that W&B may take to open or to close a run before a warning ends it


def check(tracking: TrackingConfig) -> None:
    """Refuses, before any compute, a mirror that cannot work; an API key is not verified online.

    Raises:
        UsageError: the directory is not writable, W&B refuses the project or entity, or `online`
            finds no API key in the environment, netrc or W&B's settings file.
    """
    if tracking.mode == "none":
        return
    directory = _directory(tracking)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UsageError(
            f"The W&B directory {directory} is not writable ({error.strerror}): name another with "
            "tracking.directory=PATH."
        ) from error
    wandb = _import_wandb(tracking)
    try:
        _settings(wandb, tracking)
    except (ValueError, wandb.Error) as error:
        raise UsageError(
            f"W&B refuses tracking.project={tracking.project!r}, "
            f"tracking.entity={tracking.entity!r} ({_sentence(error)}): give plain names."
        ) from error
    if tracking.mode == "online":
        _check_credentials(wandb, tracking)


def _check_credentials(wandb: ModuleType, tracking: TrackingConfig) -> None:
    remedy = "run `wandb login`, set WANDB_API_KEY, or choose tracking=offline"
    wandb.setup(settings=_quiet(wandb, tracking))
    try:
        found = wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        raise UsageError(
            f"W&B cannot use the API key it finds ({_sentence(error)}): {remedy}."
        ) from error
    if not found:
        raise UsageError(f"tracking=online finds no W&B API key: {remedy}.")


def mirror(
    tracking: TrackingConfig,
    run_id: str,
    study: str,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    curves: pd.DataFrame | None,
) -> None:
    """Copies a finished run to W&B; where that fails, one warning is logged and nothing raised.

    An offline run of 50 rows takes about 0.06 s; the first one also starts W&B's service (1 s).

    Args:
        run_id: the W&B run has the same id.
        study: becomes the group.
        config: the resolved config as nested dictionaries (`qlexp.config.plain`).
        summary: becomes the W&B summary, NaN and infinity in W&B's own notation, the texts "NaN"
            and "Infinity".
        curves: columns step (rising), loss, learning_rate and `gradient_norm.<layer>`, which W&B
            gets as `gradient_norm/<layer>`; step becomes W&B's own `_step`.
    """
    if tracking.mode == "none":
        return
    try:
        wandb = _import_wandb(tracking)
        wandb.setup(settings=_quiet(wandb, tracking))
        function, method = summary["function"], summary["method"]
        optimizer = [own["name"] for own in [config.get("optimizer")] if own]
        settings = _settings(
            wandb,
            tracking,
            run_id=run_id,
            run_group=study,
            run_name=f"{function}/{method}/s{summary['seed']}",
            run_job_type="adapt",
            run_tags=(function, method, *optimizer, summary["status"]),
        )
        with wandb.init(config=dict(config), settings=settings) as run:
            run.define_metric("*", summary="none")  # no last values of the curves in the summary
            for step, row in _rows(curves):
                run.log(row, step=step)
            run.summary.update(wandb.util.make_safe_for_json(summary))  # else NaN becomes null
    except Exception as error:  # whatever W&B meets, the store already has the run
        _LOG.warning("W&B lacks all or part of run %s (%s).", run_id, _sentence(error))


def _rows(curves: pd.DataFrame | None) -> list[tuple[int, dict[str, float]]]:
    if curves is None:
        return []
    values = curves.drop(columns="step").rename(
        columns=lambda name: name.replace("gradient_norm.", "gradient_norm/", 1)
    )
    return list(zip(curves["step"].tolist(), values.to_dict("records"), strict=True))


def _settings(
    wandb: ModuleType, tracking: TrackingConfig, **identity: str | tuple[str, ...]
) -> Any:
    """The `wandb.Settings` of a run: who it is, and to collect nothing beside what it is given."""
    return wandb.Settings(
        mode=tracking.mode,
        project=tracking.project,
        entity=tracking.entity,
        root_dir=str(_directory(tracking)),
        reinit="create_new",
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        label_disable=True,
        save_code=False,
        x_save_requirements=False,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        init_timeout=_PATIENCE,
        finish_timeout=_PATIENCE,
        finish_timeout_raises=True,
        **identity,
    )


def _quiet(wandb: ModuleType, tracking: TrackingConfig) -> Any:
    """The `wandb.Settings` of the process: print nothing, and outrank the variable WANDB_MODE."""
    return wandb.Settings(mode=tracking.mode, silent=True)


def _directory(tracking: TrackingConfig) -> Path:
    return Path(tracking.directory).expanduser().resolve()


def _import_wandb(tracking: TrackingConfig) -> ModuleType:
    """W&B, imported on first use; `offline` also keeps its crash reports from the network."""
    if tracking.mode == "offline":
        os.environ["WANDB_ERROR_REPORTING"] = "false"
    return importlib.import_module("wandb")


def _sentence(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
