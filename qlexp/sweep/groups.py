"""Which runs train together, and the plan that lets a stopped batch go on as it was."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from filelock import Timeout
from omegaconf import OmegaConf

from qlexp.config.identity import backbone_id, group_id, plain, run_id
from qlexp.config.resolve import resolve
from qlexp.config.schema import Config
from qlexp.errors import UsageError
from qlexp.store.files import read_json, write_file
from qlexp.store.store import Store
from qlexp.sweep.width import lanes_that_fit

T = TypeVar("T")

log = logging.getLogger(__name__)

IDENTITY: dict[str, Callable[[Config], str]] = {"pretrain": backbone_id, "adapt": run_id}


@dataclass(frozen=True)
class Group:
    """The lanes of one batch, in a fixed order, and the stage that they go through: as a whole, or
    up to 1/`rung` of its updates.

    Its plan is written before the first update. A stopped group is rebuilt from it with the same
    lanes in the same order, those that are stored already as passengers, so that its numbers are
    those of the undisturbed run.
    """

    stage: str  # pretrain or adapt
    configs: tuple[Config, ...]
    rung: int = 1

    @cached_property
    def identities(self) -> list[str]:
        """Run ids, or backbone ids in the pretraining stage, lane by lane."""
        return [IDENTITY[self.stage](config) for config in self.configs]

    @cached_property
    def store(self) -> Store:
        return Store(self.configs[0].store)

    @cached_property
    def identity(self) -> str:
        """The same for the same lanes in the same order."""
        place = [f"1/{self.rung}"] if self.rung > 1 else []
        names = [self.stage, *place, *self.identities]
        return hashlib.sha256("/".join(names).encode()).hexdigest()[:16]

    def folder(self) -> Path:
        """Where the plan and the checkpoint lie while the group trains."""
        return self.store.root / "groups" / self.identity

    def finished(self) -> bool:
        """Whether every lane is stored, or paused where this group would leave it."""
        if self.stage == "pretrain":
            return all(map(self.store.has_backbone, self.identities))
        return all(self.store.rung(identity) <= self.rung for identity in self.identities)

    def payload(self) -> dict[str, Any]:
        """The group as JSON values, with the store's absolute folder: workers start elsewhere."""
        place = str(self.store.root)
        configs = [{**plain(config), "store": place} for config in self.configs]
        return {"stage": self.stage, "rung": self.rung, "configs": configs}

    @classmethod
    def of(cls, payload: dict[str, Any]) -> "Group":
        """From `payload()`."""
        configs = (resolve(OmegaConf.create(values)) for values in payload["configs"])
        return cls(payload["stage"], tuple(configs), payload.get("rung", 1))

    def uncompiled(self) -> "Group":
        """The same lanes, trained eagerly."""
        return replace(
            self, configs=tuple(replace(config, compile=False) for config in self.configs)
        )

    def in_training(self) -> bool:
        """Whether some process trains it now."""
        try:
            with self.store.lock(self.identity).acquire(timeout=0):
                return False
        except Timeout:
            return True

    def as_asked(self, config: Config) -> "Group":
        """The same lanes, trained and mirrored where and how `config` says."""
        names = ("store", "study", "device", "compile", "recompute", "tracking")
        asked = {name: getattr(config, name) for name in names}
        return replace(self, configs=tuple(replace(own, **asked) for own in self.configs))

    def write_plan(self) -> Path:
        """Puts the plan in place and returns its folder."""
        folder = self.folder()
        write_file(folder / "plan.json", json.dumps(self.payload(), indent=1) + "\n")
        return folder

    def discard_plan(self) -> None:
        shutil.rmtree(self.folder(), ignore_errors=True)

    def halves(self) -> tuple["Group", "Group"]:
        half = len(self.configs) // 2
        first, second = self.configs[:half], self.configs[half:]
        return replace(self, configs=first), replace(self, configs=second)


def plan_groups(
    stage: str, configs: Sequence[Config], width: int | None, rung: int = 1
) -> list[Group]:
    """Groups that cover `configs`, which share one store: stopped ones first, as they were.

    Args:
        width: the most lanes in a batch; None: as many as fit into the free memory.
        rung: adaptation goes up to 1/`rung` of the updates.
    """
    if not configs:
        return []
    store = Store(configs[0].store)
    wanted = {IDENTITY[stage](config): config for config in configs}
    groups = []
    for stopped in _stopped(store, stage, rung):
        asked = [wanted[identity] for identity in stopped.identities if identity in wanted]
        if not asked:
            continue
        group = stopped.as_asked(asked[0])
        if width is not None and width < len(group.configs) and not group.in_training():
            log.warning(
                "a stopped batch of %d runs is begun anew in batches of %d, as asked",
                len(group.configs),
                width,
            )
            group.discard_plan()
            continue
        groups.append(group)
        for identity in group.identities:
            wanted.pop(identity, None)

    def key(config: Config) -> Hashable:
        """Of lanes that can share a batch; in the adaptation they go on from one place too."""
        paused = store.paused_at(run_id(config)) if stage == "adapt" else None
        return _KEYS[stage](config), paused

    for alike in _alike(wanted.values(), key):
        for batch in equal_parts(alike, width or lanes_that_fit(alike, stage)):
            groups.append(Group(stage, tuple(batch), rung))
    return groups


def _stopped(store: Store, stage: str, rung: int) -> Iterator[Group]:
    for path in sorted((store.root / "groups").glob("*/plan.json")):
        payload = read_json(path)
        if payload is None or (payload.get("stage"), payload.get("rung", 1)) != (stage, rung):
            continue
        try:
            yield Group.of(payload)
        except (UsageError, KeyError, TypeError) as error:
            log.warning("the plan %s is not usable (%s): its runs are planned anew", path, error)


def _pretrain_key(config: Config) -> Hashable:
    return (
        config.device,
        config.compile,
        config.recompute,
        repr(config.backbone),
        repr(config.trainer.pretrain.shape()),
        repr(config.pretrain_optimizer),
        config.data.pretrain,
        config.data.validation,
        config.trainer.record_every,
    )


def _adapt_key(config: Config) -> Hashable:
    return (config.device, config.compile, config.recompute, group_id(config))


_KEYS: dict[str, Callable[[Config], Hashable]] = {"pretrain": _pretrain_key, "adapt": _adapt_key}


def _alike(configs: Iterable[Config], key: Callable[[Config], Hashable]) -> Iterable[list[Config]]:
    """The configs of one key together, in order of appearance."""
    groups: dict[Hashable, list[Config]] = {}
    for config in configs:
        groups.setdefault(key(config), []).append(config)
    return groups.values()


def equal_parts(items: list[T], width: int) -> list[list[T]]:
    """Cuts `items` into as few parts of at most `width` as can be; larger parts come first."""
    size, larger = divmod(len(items), -(-len(items) // width))
    iterator = iter(items)
    parts: list[list[T]] = []
    while part := list(islice(iterator, size + (len(parts) < larger))):
        parts.append(part)
    return parts
