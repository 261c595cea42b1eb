"""From configs to stored runs: skip what is stored, pretrain what is missing, adapt in groups."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from qlexp import environment, extensions, tracking
from qlexp.config.identity import backbone_id, plain, run_id
from qlexp.config.schedule import updates
from qlexp.config.schema import Config
from qlexp.errors import StoreError
from qlexp.store.failure import record_failure
from qlexp.store.store import Store
from qlexp.sweep.backends import Backend, run_elsewhere
from qlexp.sweep.groups import Group, plan_groups
from qlexp.train import stages
from qlexp.train.checkpoint import Checkpoint
from qlexp.train.compilation import from_compiler

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
CHECKPOINT_SECONDS = 60.0  # at most this much work is lost when a batch is stopped


def execute(
    configs: Sequence[Config],
    width: int | None = None,
    backend: Backend | None = None,
    rung: int = 1,
) -> list[dict[str, Any]]:
    """Runs what is not stored yet and returns every config's stored summary, in order.

    Args:
        configs: checked configs; one that occurs twice is computed once.
        width: the most lanes in a batch; None: as many as fit into the free memory.
        backend: where the batches run; None: in this process.
        rung: runs that adapt are paused after 1/`rung` of their updates; 1: none is.

    Raises:
        UsageError: the mirror or the store cannot work; nothing has been computed.
    """
    environment.keep_freed_memory()
    check_places(configs)
    stores = {config.store: Store(config.store) for config in configs}
    cells = {(config.store, run_id(config)): config for config in configs}
    todo = [c for (place, identity), c in cells.items() if stores[place].rung(identity) > rung]
    if len(todo) < len(cells):
        log.info("%d of %d runs are stored already", len(cells) - len(todo), len(cells))
    for place, store in stores.items():
        part = [config for config in todo if config.store == place]
        _complete(part, store, width, backend or Backend(), rung)
    return [stored(config) for config in configs]


def stored(config: Config) -> dict[str, Any]:
    """The summary of a run, whatever came of it; empty where there is none."""
    return Store(config.store, writable=False).summary(run_id(config)) or {}


def check_places(configs: Sequence[Config]) -> None:
    """Raises `UsageError` where a mirror or a store of `configs` cannot work."""
    for settings in {repr(config.tracking): config.tracking for config in configs}.values():
        tracking.check(settings)
    for place in {config.store for config in configs}:
        Store(place)


def _complete(
    configs: Sequence[Config], store: Store, width: int | None, backend: Backend, rung: int
) -> None:
    """Both stages of `configs`, none of which is stored as far as `rung`."""
    missing = [config for config in configs if not store.has_backbone(backbone_id(config))]
    total = sum(updates(config, "adapt") // rung for config in configs)
    total += sum({backbone_id(c): updates(c, "pretrain") for c in missing}.values())
    with tqdm(total=total, unit="update", disable=None, smoothing=0.02) as progress:
        _run(plan_groups("pretrain", missing, width), width, backend, store, progress)
        ready = [config for config in configs if store.has_backbone(backbone_id(config))]
        _run(plan_groups("adapt", ready, width, rung), width, backend, store, progress)
    reasons = {
        backbone_id(config): f"its backbone failed: {error}"
        for config in missing
        if (error := _stored_error(config, store))
    }
    for config in configs:
        if store.rung(run_id(config)) > rung and not _stored_error(config, store):
            lost = "its worker" if store.has_backbone(backbone_id(config)) else "its backbone"
            reason = reasons.get(backbone_id(config), f"{lost} was lost: run the sweep again")
            _record_failure(config, RuntimeError(reason))


def _stored_error(config: Config, store: Store) -> str | None:
    """With what a run failed, as its summary says; None for a run that did not."""
    summary = store.summary(run_id(config))
    return summary["error"] if summary and summary["status"] == "failed" else None


def _run(
    groups: Sequence[Group], width: int | None, backend: Backend, store: Store, progress: tqdm
) -> None:
    if backend.name == "local":
        for group in groups:
            run_group(group, progress.update)
        return
    if not groups:
        return
    if backend.name in ("ray", "submitit_slurm") and width is None:
        log.warning(
            "the width of a batch is judged by this machine's memory: where the workers differ, "
            "set hydra.launcher.width"
        )
    outside = {"extensions": extensions.named_folders()}
    payloads = [{**group.payload(), **outside} for group in groups]
    try:
        for done in run_elsewhere(backend, run_payload, payloads, store.root):
            progress.update(done)
    except StoreError:
        raise
    except Exception as error:  # an engine's own: what its workers did not store counts as failed
        log.error("the backend %s stopped: %s", backend.name, error)


def run_payload(payload: dict[str, Any]) -> int:
    """A worker's task: the group of `payload`; returns how many updates it made."""
    extensions.load(payload.get("extensions", ()))
    group = Group.of(payload)
    run_group(group, lambda updates: None)
    return sum(updates(config, group.stage) // group.rung for config in group.configs)


def run_group(group: Group, advance: Callable[[int], object]) -> None:
    """Trains a group; where it fails its halves are tried, so that one lane fails alone.

    Another process that trains the same group is waited for, and its results are taken.
    """
    with group.store.lock(group.identity):
        failure = None if group.finished() else _attempt(group, advance)
    if failure is None:
        return
    if len(group.configs) == 1:
        _record_failure(group.configs[0], failure)
        return
    log.warning("a batch of %d runs failed (%s): trying its halves", len(group.configs), failure)
    for half in group.halves():
        run_group(half, advance)


def _attempt(group: Group, advance: Callable[[int], object]) -> Exception | None:
    """Trains a group from its checkpoint or its start; returns what it failed with."""
    failure = _failure(group, advance)
    if failure is not None:
        environment.release_memory(failure)
        if group.configs[0].compile and from_compiler(failure):
            reason = str(failure).strip().splitlines()[0]
            log.warning("the step cannot be compiled (%s): it is trained uncompiled", reason)
            return _attempt(group.uncompiled(), advance)
    group.discard_plan()
    return failure


def _failure(group: Group, advance: Callable[[int], object]) -> Exception | None:
    work = stages.pretrain if group.stage == "pretrain" else stages.adapt
    if group.rung > 1:
        work = partial(stages.adapt_to, group.rung)
    checkpoint = Checkpoint(group.write_plan() / "checkpoint.pt", CHECKPOINT_SECONDS)
    try:
        work(group.configs, group.store, checkpoint, advance)
    except StoreError:
        raise
    except Exception as error:  # whatever a method raises is a failed run, not a lost sweep
        return error
    return None


def _record_failure(config: Config, error: Exception) -> None:
    folder = Store(config.store).run_folder(run_id(config))
    record_failure(folder, stages.identity(config), plain(config), error)
