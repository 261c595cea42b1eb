"""Adapters around pretrained backbones: as they begin, and as a run has left them."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

import torch
from omegaconf import OmegaConf

from qlexp.adapters.base import Adapter
from qlexp.config.identity import backbone_id
from qlexp.config.resolve import resolve
from qlexp.config.schema import Config
from qlexp.errors import UsageError
from qlexp.model.backbone import Backbone
from qlexp.model.initial import Draw
from qlexp.model.precision import dtype_of, precision_of
from qlexp.problem.seeding import seed_stream
from qlexp.problem.targets import Problem, problem_of
from qlexp.store.files import read_tensors
from qlexp.store.store import Store

CPU = torch.device("cpu")


def build_adapter(configs: Sequence[Config], backbone: Backbone) -> Adapter:
    """The method of `configs` at its start, a lane each, around `backbone`."""
    draw = Draw(lane_seeds(configs, "adapter"), backbone.head.weight.dtype)
    method = configs[0].method
    adapter: Adapter = method.kind(backbone, method.config, draw)
    if adapter.lane_fields:
        adapter.set_lane_fields(
            {
                name: torch.tensor([getattr(config.method.config, name) for config in configs])
                for name in adapter.lane_fields
            }
        )
    return adapter.to(backbone.head.weight.device)


def load_backbones(configs: Sequence[Config], store: Store, device: torch.device) -> Backbone:
    """The pretrained backbones of `configs`, a lane each.

    Raises:
        UsageError: a file is missing, cut short or holds another network.
    """
    shape, dtype = configs[0].backbone, dtype_of(precision_of(configs[0], "adapt"))
    backbone = Backbone(shape, Draw([0] * len(configs), dtype))
    backbone.recompute = configs[0].recompute
    parameters = dict(backbone.named_parameters())
    for lane, config in enumerate(configs):
        path = store.backbone_folder(backbone_id(config)) / "backbone.safetensors"
        stored = read_tensors(path)
        if {name: t.shape for name, t in stored.items()} != {
            name: p.shape[1:] for name, p in parameters.items()
        }:
            raise UsageError(f"{path} holds another network: delete its folder and run again.")
        for name, parameter in parameters.items():
            parameter.data[lane].copy_(stored[name])
    return backbone.to(device)


def load_run(store: Store, identity: str) -> tuple[Adapter, Problem]:
    """A stored run's adapted model, one lane on the CPU, and its problem.

    Raises:
        UsageError: the run is not stored, or its files are not readable.
    """
    config = stored_config(store, identity)
    adapter = build_adapter([config], load_backbones([config], store, CPU))
    adapter.load(store.run_folder(identity) / "adapter.safetensors", lane=0)
    return adapter, problem_of(config)


def stored_config(store: Store, identity: str) -> Config:
    """The config of a stored run that has weights.

    Raises:
        UsageError: there is no such run.
    """
    summary = store.summary(identity)
    if summary is None or summary["status"] == "failed":
        raise UsageError(f"The store {store.root} holds no weights of run {identity}.")
    return resolve(OmegaConf.create(summary["config"]))


def stored_method(target: object) -> type[Adapter] | None:
    """The class of a stored run's method, by the `_target_` of its config; None if not known.

    A store may come from elsewhere and name anything: only this package's adapters are imported for
    it. Of other modules those count that are imported already.
    """
    module, _, name = str(target).rpartition(".")
    if module.startswith(f"{__package__}."):
        with suppress(ImportError):
            import_module(module)
    kind = getattr(sys.modules.get(module), name, None)
    return kind if isinstance(kind, type) and issubclass(kind, Adapter) else None


def lane_seeds(configs: Sequence[Config], stream: str) -> list[int]:
    """The seed of each lane's own generator for `stream`."""
    return [seed_stream(config.function.name, config.seed, stream) for config in configs]
