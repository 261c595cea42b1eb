"""One run: the frozen model's exam, training, the adapted model's exam, the store."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pandas as pd

from qlexp import environment, tracking
from qlexp.config.identity import plain
from qlexp.errors import UsageError
from qlexp.lm.data import Data, prepare
from qlexp.lm.exam import Exam, constant_accuracy, examine, mean, shares
from qlexp.lm.identity import backbone_id, run_id
from qlexp.lm.methods import attach
from qlexp.lm.plan import model_of
from qlexp.lm.routes import mean_routes, usage
from qlexp.lm.schema import LmConfig
from qlexp.lm.stages import History, adapt
from qlexp.store.failure import record_failure
from qlexp.store.files import read_summary, write_folder
from qlexp.store.store import Store
from qlexp.train.checkpoint import Checkpoint

CHECKPOINT_SECONDS = 60.0  # at most this much work is lost when a run is stopped
_CURVES = ("step", "loss", "learning_rate")
_PACKAGES = ("transformers", "peft", "reasoning-gym")


def execute(config: LmConfig, advance: Callable[[int], object] = lambda n: None) -> dict[str, Any]:
    """Runs what is not stored yet; the stored summary.

    Args:
        advance: called with the number of updates just done.

    Raises:
        UsageError: the task's source or the store cannot work.
    """
    store, identity = Store(config.store), run_id(config)
    with store.lock(identity):
        if not store.finished(identity):
            try:
                _run(config, store, advance)
            except UsageError:
                raise
            except Exception as error:  # whatever a model raises is a failed run, not a lost sweep
                folder = store.run_folder(identity)
                record_failure(folder, _identity(config), plain(config), error)
    return stored(config)


def stored(config: LmConfig) -> dict[str, Any]:
    """The summary of a run that was executed, failed ones included."""
    summary = Store(config.store).summary(run_id(config))
    assert summary is not None
    return summary


def check_data(configs: Iterable[LmConfig]) -> None:
    """Reads the samples of every run once, so that one that cannot be had stops none halfway.

    Raises:
        UsageError: a source is not to be had, or does not have what is wanted of it.
    """
    seen = set()
    for config in configs:
        key = (backbone_id(config), repr(config.instruction), config.data.longest)
        if key not in seen:
            seen.add(key)
            prepare(config, model_of(config)[1])


def updates(config: LmConfig) -> int:
    """How many updates a run makes."""
    tasks = len(config.task.parts) if config.task.order == "sequence" else 1
    return 0 if config.method.target is None else tasks * config.trainer.steps


def _run(config: LmConfig, store: Store, advance: Callable[[int], object]) -> None:
    model, tokenizer = model_of(config)
    environment.start_peak_memory(model.device)
    data = prepare(config, tokenizer)
    frozen = _frozen(config, store, data)
    began = time.monotonic()
    if config.method.target is None:
        outcome = _outcome(Exam(**frozen["exam"]), History(), frozen, data)
        _store(config, store, outcome, _curves(History()))
        return
    folder = store.root / "groups" / run_id(config)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(folder / "checkpoint.pt", CHECKPOINT_SECONDS)
    adapted = attach(model, config)
    history = adapt(adapted, config, data, tokenizer, checkpoint, advance)
    exam = examine(adapted, data, tokenizer)
    routes = {
        name: mean_routes(adapted, own, tokenizer.pad_token_id) for name, own in data.test.items()
    }
    outcome = {
        **_outcome(exam, history, frozen, data),
        **_size(config, adapted),
        "atom_usage": {name: usage(own) for name, own in routes.items() if own is not None} or None,
        "seconds": max(checkpoint.seconds, time.monotonic() - began),
    }
    _store(config, store, outcome, _curves(history), adapted)
    for path in folder.iterdir():
        path.unlink(missing_ok=True)
    folder.rmdir()


def _frozen(config: LmConfig, store: Store, data: Data) -> dict[str, Any]:
    """The exam of the frozen model, which all methods of a cell share."""
    identity = backbone_id(config)
    with store.lock(identity):
        found = read_summary(store.backbone_folder(identity))
        if found is None:
            model, tokenizer = model_of(config)
            exam = examine(model, data.without_texts(), tokenizer)
            found = {"backbone_id": identity, "exam": asdict(exam)}
            write_folder(store.backbone_folder(identity), found)
    return found


def _outcome(exam: Exam, history: History, frozen: Mapping[str, Any], data: Data) -> dict[str, Any]:
    """What a summary says of both exams."""
    before = Exam(**frozen["exam"])
    alive = history.alive and math.isfinite(exam.test_loss)
    path = [row for one in history.trained for row in one["path"]]
    found: dict[str, Any] = {
        "status": "done" if alive else "diverged",
        "backbone_id": frozen["backbone_id"],
        "accuracy": exam.accuracy,
        "frozen_accuracy": before.accuracy,
        "constant_accuracy": constant_accuracy(data),
        "test_error": exam.error,
        "frozen_error": before.error,
        "test_count": len(exam.every),
        "test_loss": exam.test_loss,
        "validation_loss": exam.validation_loss,
        "post_train_loss": exam.train_loss,
        "frozen_loss": before.test_loss,
        "frozen_validation_loss": before.validation_loss,
        "learnt_loss": _learnt(history, exam),
        "retention_loss": exam.neutral_loss,
        "frozen_retention_loss": before.neutral_loss,
        "retention_accuracy": _mean_of(exam.untrained),
        "frozen_retention_accuracy": _mean_of(before.untrained),
        "task_accuracy": shares(exam.right),
        "frozen_task_accuracy": shares(before.right),
        "right": {name: [int(one) for one in own] for name, own in exam.right.items()},
        "steps": sum(one["step"] for one in history.trained),
        "best_step": history.trained[-1]["best_step"] if history.trained else 0,
        "path": {
            "updates": [updates for updates, _, _ in path],
            "validation_loss": [loss for _, loss, _ in path],
            "training_accuracy": [share for _, _, share in path],
        },
    }
    if history.accuracies:
        table = [list(shares(before.right).values()), *history.accuracies]
        found |= {
            "task_accuracies": table,
            "forgetting": forgetting(table),
            "route_drift": history.drift or None,
        }
    return found


def _learnt(history: History, exam: Exam) -> float:
    """The validation loss of the kept state, of tasks in sequence when each was learnt."""
    if not history.accuracies:
        return exam.validation_loss
    kept = [
        next((loss for step, loss, _ in one["path"] if step == one["best_step"]), math.inf)
        for one in history.trained
    ]
    return sum(kept) / len(kept)


def forgetting(accuracies: Sequence[Sequence[float]]) -> float:
    """How much accuracy the tasks but the last have lost since each was learnt, on average.

    Args:
        accuracies: [j][i] of task i after j tasks; row 0 is the frozen model's.
    """
    last = accuracies[-1]
    lost = [accuracies[i + 1][i] - last[i] for i in range(len(accuracies) - 2)]
    return sum(lost) / len(lost) if lost else 0.0


def _mean_of(right: Mapping[str, Sequence[bool]]) -> float | None:
    """The mean accuracy over tasks; None without any."""
    return sum(map(mean, right.values())) / len(right) if right else None


def _size(config: LmConfig, adapted: Any) -> dict[str, Any]:
    trained = [one for one in adapted.parameters() if one.requires_grad]
    return {
        "trainable_parameters": sum(one.numel() for one in trained),
        "total_parameters": sum(one.numel() for one in adapted.parameters()),
        "rank": config.method.fields.get("r"),
        "adapter_bytes": sum(one.numel() * one.element_size() for one in trained),
    }


def _curves(history: History) -> pd.DataFrame:
    """The recorded updates of all trainings, none of the frozen model."""
    rows, before = [], 0
    for one in history.trained:
        rows += [{**row, "step": int(row["step"]) + before} for row in one["rows"]]
        before += one["step"]
    return pd.DataFrame(rows or dict.fromkeys(_CURVES, pd.Series(dtype=float)))


def _store(
    config: LmConfig,
    store: Store,
    outcome: Mapping[str, Any],
    curves: pd.DataFrame,
    adapted: Any = None,
) -> None:
    device = environment.pick_device(config.device)
    summary = {
        **_identity(config),
        "model": config.model.name,
        "model_note": config.model.note,
        "reading": config.method.reading,
        "trainable_parameters": 0,
        "seconds": 0.0,
        "adapter_bytes": 0,
        **outcome,
        "peak_memory_bytes": environment.peak_memory_bytes(device),
        "versions": environment.versions(_PACKAGES),
        "commit": environment.commit(),
        "device": environment.device_name(device),
        "config": plain(config),
    }
    folder = store.run_folder(run_id(config))
    save = None
    if adapted is not None:  # as peft saves, so that PeftModel.from_pretrained reads the folder
        save = partial(adapted.save_pretrained, save_embedding_layers=False)
    if write_folder(folder, summary, curves, save=save):
        tracking.mirror(
            config.tracking, run_id(config), config.study, summary["config"], summary, curves
        )


def _identity(config: LmConfig) -> dict[str, Any]:
    return {
        "run_id": run_id(config),
        "benchmark": "language",
        "function": config.task.name,
        "method": config.method.name,
        "seed": config.seed,
    }
