"""From configs to stored runs: pretrain what is missing, adapt in lanes, write every run down."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from tqdm import tqdm

from qlexp import environment, tracking
from qlexp.adapters.base import Adapter
from qlexp.backbone import Backbone
from qlexp.budget import reference_count
from qlexp.config import Component, Config, StageConfig, backbone_id, group_id, plain, resolve, run_id
from qlexp.errors import UsageError
from qlexp.functions import FUNCTIONS, samples_per_period
from qlexp.initial import Draw
from qlexp.lanes import batches
from qlexp.precision import arithmetic, dtype_of
from qlexp.seeding import seed_stream
from qlexp.store import Store, read_summary, read_tensors, write_folder
from qlexp.targets import Problem, make_problem
from qlexp.training import (
    Curves,
    Samples,
    batches_per_epoch,
    lane_losses,
    mean_square_error,
    train,
)

log = logging.getLogger(__name__)


def execute(configs: Sequence[Config], width: int) -> list[dict[str, Any]]:
    """Runs what is not stored yet and returns every config's stored summary, in order.

    Args:
        configs: checked configs; one that occurs twice is computed once.
        width: the most lanes in a batch.
    """
    stores = {config.store: Store(config.store) for config in configs}
    todo = {
        run_id(config): config
        for config in configs
        if not stores[config.store].finished(run_id(config))
    }
    if len(todo) < len(configs):
        log.info("%d of %d runs are stored already", len(configs) - len(todo), len(configs))
    pretraining = {
        backbone_id(config): config
        for config in todo.values()
        if not _finished_backbone(stores[config.store], config)
    }
    updates = sum(_steps(c.trainer.pretrain, c.data.pretrain) for c in pretraining.values())
    updates += sum(_adapt_steps(config) for config in todo.values())
    with tqdm(total=updates, unit="update", disable=None, smoothing=0.02) as progress:
        for batch in batches(pretraining.values(), _pretrain_key, width):
            pretrain(batch, stores[batch[0].store], progress)
        for batch in batches(todo.values(), _adapt_key, width):
            _adapt_or_split(batch, stores[batch[0].store], progress)
    summaries = [stores[config.store].summary(run_id(config)) for config in configs]
    return [summary for summary in summaries if summary is not None]


def _pretrain_key(config: Config) -> tuple[Any, ...]:
    return (
        config.store,
        config.device,
        config.precision,
        config.compile,
        repr(config.backbone),
        repr(config.trainer.pretrain),
        repr(config.pretrain_optimizer),
        config.data.pretrain,
    )


def _adapt_key(config: Config) -> tuple[Any, ...]:
    return (config.store, config.device, config.compile, group_id(config))


def _steps(stage: StageConfig, samples: int) -> int:
    return stage.epochs * batches_per_epoch(samples, stage.batch_size)


def _adapt_steps(config: Config) -> int:
    return _steps(config.trainer.adapt, config.data.adapt) if config.method.kind.trains else 0


def _finished_backbone(store: Store, config: Config) -> bool:
    return read_summary(store.backbone_folder(backbone_id(config))) is not None


def problem_of(config: Config) -> Problem:
    """The samples of a config's cell; the same for every method."""
    return make_problem(config.function, config.shift, config.data, config.seed)


def pretrain(configs: Sequence[Config], store: Store, progress: tqdm) -> None:
    """Trains the backbones of `configs` as lanes and stores each."""
    started, first = time.perf_counter(), configs[0]
    device = environment.pick_device(first.device)
    problems = [problem_of(config) for config in configs]
    draw = Draw(_seeds(configs, "backbone"), dtype_of(first.precision))
    model = Backbone(first.backbone, draw).to(device)
    samples = _stack(problems, "pretrain", first.precision, device)
    curves = _train(model, configs, dict(model.named_parameters()), samples, "pretrain", progress)
    validation = _stack(problems, "source_validation", first.precision, device)
    with arithmetic(first.precision, device):
        fit = mean_square_error(model, samples).tolist()
        held_out = mean_square_error(model, validation)
    r2 = _r2(held_out, validation).tolist()
    for lane, config in enumerate(configs):
        summary = {
            "backbone_id": backbone_id(config),
            "function": config.function.name,
            "seed": config.seed,
            "status": "done" if curves.alive[lane] else "diverged",
            "pretrain_loss": fit[lane],
            "pretrain_r2": r2[lane],
            "source_loss": held_out[lane].item(),
            "lanes": len(configs),
            **_provenance(started, len(configs), device),
            "config": plain(config),
        }
        tensors = {name: p.detach()[lane].cpu() for name, p in model.named_parameters()}
        write_folder(
            store.backbone_folder(backbone_id(config)),
            summary,
            _curve_table(curves, lane),
            {"backbone": tensors},
        )


def _adapt_or_split(configs: Sequence[Config], store: Store, progress: tqdm) -> None:
    """Adapts a batch; where it fails its halves are tried, so that one lane fails alone."""
    try:
        adapt(configs, store, progress)
    except UsageError:
        raise
    except Exception as error:  # whatever a method raises is a failed run, not a lost sweep
        if len(configs) > 1:
            log.warning("a batch of %d runs failed (%s): trying its halves", len(configs), error)
            half = len(configs) // 2
            _adapt_or_split(configs[:half], store, progress)
            _adapt_or_split(configs[half:], store, progress)
            return
        log.error("%s failed: %s", _title(configs[0]), error)
        log.debug("the failure in full", exc_info=True)
        write_folder(
            store.run_folder(run_id(configs[0])),
            {
                **_identity(configs[0]),
                "status": "failed",
                "error": f"{type(error).__name__}: {error}",
                "config": plain(configs[0]),
            },
        )


def adapt(configs: Sequence[Config], store: Store, progress: tqdm) -> None:
    """Adapts one batch of lanes and stores every run of it."""
    started, first = time.perf_counter(), configs[0]
    device = environment.pick_device(first.device)
    problems = [problem_of(config) for config in configs]
    sources = [read_summary(store.backbone_folder(backbone_id(config))) for config in configs]
    backbone = _load_backbones(configs, store, device)
    splits = {
        name: _stack(problems, name, first.precision, device)
        for name in ("adapt", "validation", "test", "test_clean")
    }
    with arithmetic(first.precision, device):
        frozen = mean_square_error(backbone, splits["test"])
    adapter = _build_adapter(configs, backbone)
    curves = _train(adapter, configs, adapter.trainable(), splits["adapt"], "adapt", progress)
    with arithmetic(first.precision, device):
        losses = {name: mean_square_error(adapter, split) for name, split in splits.items()}
    r2 = _r2(losses["test"], splits["test"])
    for lane, (config, problem, source) in enumerate(zip(configs, problems, sources, strict=True)):
        assert source is not None
        final = {name: values[lane].item() for name, values in losses.items()}
        ceiling = config.trainer.loss_ceiling
        fine = bool(curves.alive[lane]) and max(final.values()) <= ceiling
        summary = {
            **_identity(config),
            "status": "done" if fine else "diverged",
            **{key: source[key] for key in ("backbone_id", "pretrain_loss", "pretrain_r2")},
            "source_loss": source["source_loss"],
            "frozen_loss": frozen[lane].item(),
            "post_train_loss": final["adapt"],
            "validation_loss": final["validation"],
            "test_loss": final["test"],
            "test_loss_clean": final["test_clean"],
            "test_r2": r2[lane].item(),
            "test_loss_raw": final["test"] * problem.deviation**2,
            "trainable_parameters": sum(p[0].numel() for p in adapter.trainable().values()),
            "reference_parameters": reference_count(config),
            "total_parameters": sum(p[0].numel() for p in adapter.parameters()),
            "rank": getattr(config.method.config, "rank", None),
            "steps": _adapt_steps(config),
            "samples_per_period": samples_per_period(
                FUNCTIONS[config.function.name],
                problem.target_coefficients,
                config.function.domain,
                config.data.adapt,
            ),
            "lanes": len(configs),
            **_provenance(started, len(configs), device),
            "config": plain(config),
        }
        table = _curve_table(curves, lane)
        folder = store.run_folder(run_id(config))
        tensors = {name: p.detach()[lane].cpu() for name, p in adapter.trainable().items()}
        write_folder(folder, summary, table, {"adapter": tensors})
        tracking.mirror(
            config.tracking, run_id(config), config.study, summary["config"], summary, table
        )


def load_run(store: Store, identity: str) -> tuple[Adapter, Problem]:
    """A stored run's adapted model, one lane on the CPU, and its problem.

    Raises:
        UsageError: the run is not stored, or its files are not readable.
    """
    summary = store.summary(identity)
    if summary is None or summary["status"] == "failed":
        raise UsageError(f"The store {store.root} holds no weights of run {identity}.")
    config = resolve(OmegaConf.create(summary["config"]))
    backbone = _load_backbones([config], store, torch.device("cpu"))
    adapter = _build_adapter([config], backbone)
    adapter.load(store.run_folder(identity) / "adapter.safetensors", lane=0)
    return adapter, problem_of(config)


def _build_adapter(configs: Sequence[Config], backbone: Backbone) -> Adapter:
    method: Component = configs[0].method
    draw = Draw(_seeds(configs, "adapter"), dtype_of(configs[0].precision))
    return method.kind(backbone, method.config, draw).to(backbone.head.weight.device)


def _load_backbones(configs: Sequence[Config], store: Store, device: torch.device) -> Backbone:
    backbone = Backbone(configs[0].backbone, Draw([0] * len(configs), dtype_of(configs[0].precision)))
    parameters = dict(backbone.named_parameters())
    for lane, config in enumerate(configs):
        path = store.backbone_folder(backbone_id(config)) / "backbone.safetensors"
        stored = read_tensors(path)
        if stored.keys() != parameters.keys():
            raise UsageError(f"{path} holds another network: delete its folder and run again.")
        for name, parameter in parameters.items():
            parameter.data[lane].copy_(stored[name])
    return backbone.to(device)


def _train(
    model: nn.Module,
    configs: Sequence[Config],
    parameters: dict[str, nn.Parameter],
    samples: Samples,
    stage_name: str,
    progress: tqdm,
) -> Curves:
    """One stage of a batch of lanes, with what Hydra's config says of it."""
    first, device = configs[0], samples.x.device
    stages: list[StageConfig] = [getattr(config.trainer, stage_name) for config in configs]
    rates = torch.tensor(
        [stage.learning_rate for stage in stages], dtype=samples.x.dtype, device=device
    )
    if not parameters:
        empty = torch.empty(0, len(configs))
        return Curves([], empty, empty, {}, torch.ones(len(configs), dtype=torch.bool))
    component = first.optimizer if stage_name == "adapt" else first.pretrain_optimizer
    optimizer = component.kind(list(parameters.values()), lr=rates, config=component.config)
    with arithmetic(first.precision, device):
        return train(
            model,
            parameters,
            samples,
            stages[0],
            optimizer,
            rates,
            _seeds(configs, f"order of {stage_name}"),
            first.trainer.record_every,
            torch.compile(lane_losses) if first.compile else lane_losses,
            lambda: progress.update(len(configs)),
        )


def _seeds(configs: Sequence[Config], stream: str) -> list[int]:
    return [seed_stream(config.function.name, config.seed, stream) for config in configs]


def _stack(
    problems: Sequence[Problem], name: str, precision: str, device: torch.device
) -> Samples:
    """One split of every lane; `test_clean` is the test split without its noise."""
    clean = name.endswith("_clean")
    splits = [getattr(problem, name.removesuffix("_clean")) for problem in problems]

    def tensor(arrays: list[np.ndarray]) -> Tensor:
        return torch.as_tensor(np.stack(arrays), dtype=dtype_of(precision), device=device)

    return Samples(
        tensor([split.x for split in splits]),
        tensor([split.clean if clean else split.y for split in splits]),
    )


def _r2(loss: Tensor, samples: Samples) -> Tensor:
    """1 - loss / variance, (L,)."""
    return 1 - loss / samples.y.double().cpu().var(1, correction=0)


def _curve_table(curves: Curves, lane: int) -> pd.DataFrame:
    columns = {
        "step": curves.steps,
        "loss": curves.loss[:, lane].numpy(),
        "learning_rate": curves.learning_rate[:, lane].numpy(),
    }
    for layer, norms in curves.gradient_norms.items():
        columns[f"gradient_norm.{layer}"] = norms[:, lane].numpy()
    return pd.DataFrame(columns)


def _title(config: Config) -> str:
    return f"{config.function.name}/{config.method.name}/s{config.seed}"


def _identity(config: Config) -> dict[str, Any]:
    return {
        "run_id": run_id(config),
        "function": config.function.name,
        "method": config.method.name,
        "seed": config.seed,
    }


def _provenance(started: float, lanes: int, device: torch.device) -> dict[str, Any]:
    """Seconds are the batch's wall time over its lanes."""
    return {
        "seconds": (time.perf_counter() - started) / lanes,
        "peak_memory_bytes": environment.peak_memory_bytes(device),
        "versions": environment.versions(),
        "commit": environment.commit(),
        "device": environment.device_name(device),
    }
