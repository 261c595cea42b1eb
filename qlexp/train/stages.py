"""The two stages of a group of lanes: pretrain backbones, adapt them; every lane is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qlexp import environment, tracking
from qlexp.adapters.base import Adapter
from qlexp.adapters.budget import reference_count
from qlexp.adapters.stored import build_adapter, lane_seeds, load_backbones
from qlexp.config.identity import backbone_id, group_id, plain, run_id
from qlexp.config.schedule import updates
from qlexp.config.schema import Config, StageConfig
from qlexp.model.backbone import Backbone
from qlexp.model.evaluate import Samples, mean_square_error, worst_share
from qlexp.model.initial import Draw
from qlexp.model.precision import arithmetic, dtype_of
from qlexp.problem.functions import FUNCTIONS, samples_per_period
from qlexp.store.files import PAUSED, lane_tensors, read_state, read_summary, write_folder
from qlexp.store.store import Store
from qlexp.train.batch import Batch
from qlexp.train.checkpoint import Checkpoint, Left, Relay
from qlexp.train.compilation import loss_function
from qlexp.train.loop import Curves, train
from qlexp.train.memory import counted_bytes
from qlexp.train.sequence import History, adapt_in_sequence

if TYPE_CHECKING:
    import pandas as pd

Advance = Callable[[int], object]
PATH = {
    "adapt": "post_train_loss",
    "validation": "validation_loss",
    "test_clean": "test_loss_clean",
}  # what is measured on the way: the split, and the loss's name in a summary


def pretrain(
    configs: Sequence[Config], store: Store, checkpoint: Checkpoint, advance: Advance
) -> None:
    """Trains the backbones of `configs` as lanes and stores each.

    Args:
        advance: called with the number of updates just done, all lanes counted.
    """
    batch = _begun(configs, "pretrain")
    draw = Draw(lane_seeds(configs, "backbone"), dtype_of(batch.precision))
    model = Backbone(batch.first.backbone, draw).to(batch.device)
    model.recompute = batch.first.recompute
    parameters = dict(model.named_parameters())
    samples = batch.samples("pretrain")
    curves = _train(model, batch, parameters, samples, checkpoint, advance)
    for parameter in parameters.values():
        parameter.data.copy_(parameter.float())  # as they are stored
    validation = batch.samples("source_validation")
    with arithmetic(batch.precision, batch.device):
        fit = mean_square_error(model, samples).tolist()
        held_out = mean_square_error(model, validation)
    r2 = _r2(held_out, validation).tolist()
    provenance = _provenance(checkpoint.seconds, batch)
    for lane, config in enumerate(configs):
        summary = {
            "backbone_id": backbone_id(config),
            "function": config.function.name,
            "seed": config.seed,
            "status": "done" if curves.alive[lane] else "diverged",
            "pretrain_loss": fit[lane],
            "pretrain_r2": r2[lane],
            "source_loss": held_out[lane].item(),
            "steps": updates(config, "pretrain"),
            **provenance,
            "config": plain(config),
        }
        folder = store.backbone_folder(backbone_id(config))
        tensors = {"backbone": lane_tensors(parameters, lane, torch.float32)}
        write_folder(folder, summary, _curve_table(curves, lane), tensors)


def adapt(
    configs: Sequence[Config], store: Store, checkpoint: Checkpoint, advance: Advance
) -> None:
    """Adapts the stored backbones of `configs` as lanes and stores every run.

    Args:
        advance: called with the number of updates just done, all lanes counted.
    """
    batch = _begun(configs, "adapt")
    first = batch.first
    backbone = load_backbones(configs, store, batch.device)
    splits = {name: batch.samples(name) for name in _evaluated(configs)}
    with arithmetic(batch.precision, batch.device):
        frozen = {
            name: mean_square_error(backbone, splits[name])
            for name in ("validation", "test", "test_clean")
        }
    beyond = _beyond(backbone, splits["test_clean"])
    adapter = build_adapter(configs, backbone)
    parameters = adapter.trainable()
    if lanes := _left(configs, store):
        checkpoint = Relay(checkpoint, lanes)
    tasks, history = first.shift.tasks, None
    if tasks == 1:
        curves = _train(
            adapter,
            batch,
            parameters,
            splits["adapt"],
            checkpoint,
            advance,
            measure=_measured(adapter, splits),
        )
    else:
        with arithmetic(batch.precision, batch.device):
            history = adapt_in_sequence(
                adapter,
                splits["adapt"].chunk(tasks),
                splits["validation"].chunk(tasks),
                splits["test"].chunk(tasks),
                lambda samples, part, alive: _train(
                    adapter, batch, parameters, samples, part, advance, alive
                ),
                checkpoint,
                lambda done: advance(done * len(configs)),
            )
        curves = history.joined_curves()
    with arithmetic(batch.precision, batch.device):
        losses = {name: mean_square_error(adapter, split) for name, split in splits.items()}
        worst = worst_share(adapter, splits["test_clean"])
    r2 = _r2(losses["test"], splits["test"])
    held = counted_bytes(first, "adapt")
    learnt = losses["validation"] if history is None else history.learnt_loss
    learnt_r2 = _r2(learnt, splits["validation"])
    provenance = _provenance(checkpoint.seconds, batch)
    for lane, config in enumerate(configs):
        final = {name: values[lane].item() for name, values in losses.items()}
        seen = (final["adapt"], final["validation"])  # the test samples decide nothing
        ceiling = config.trainer.loss_ceiling
        fine = bool(curves.alive[lane]) and all(loss <= ceiling for loss in seen)
        summary = {
            **identity(config),
            "status": "done" if fine else "diverged",
            **_source(config, store),
            "frozen_loss": frozen["test"][lane].item(),
            "frozen_loss_clean": frozen["test_clean"][lane].item(),
            "frozen_validation_loss": frozen["validation"][lane].item(),
            "post_train_loss": final["adapt"],
            "validation_loss": final["validation"],
            "learnt_loss": learnt[lane].item(),
            "learnt_r2": learnt_r2[lane].item(),
            "test_loss": final["test"],
            "test_loss_clean": final["test_clean"],
            "worst_share": worst[lane].item(),
            "beyond_head": beyond[lane].item(),
            "unseen_loss": final["unseen"] if config.shift.targets > 1 else None,
            "paraphrased_loss": final.get("paraphrased"),
            "test_r2": r2[lane].item(),
            "test_loss_raw": final["test"] * batch.problems[lane].deviation ** 2,
            **(history or History()).summary(lane),
            "path": _path(curves, lane),
            "trainable_parameters": _count(parameters.values()),
            "reference_parameters": reference_count(config),
            "total_parameters": _count(adapter.parameters()),
            "rank": getattr(config.method.config, "rank", None),
            "reading": config.method.kind.reading,
            "steps": updates(config, "adapt"),
            "samples_per_period": samples_per_period(
                FUNCTIONS[config.function.name],
                batch.problems[lane].target_coefficients,
                config.function.domain,
                config.data.adapt,
            ),
            "lane_bytes": held,
            **provenance,
            "config": plain(config),
        }
        folder = store.run_folder(run_id(config))
        table = _curve_table(curves, lane)
        if write_folder(
            folder,
            summary,
            table,
            {"adapter": lane_tensors(parameters, lane, dtype_of(first.precision))},
        ):
            tracking.mirror(
                config.tracking, run_id(config), config.study, summary["config"], summary, table
            )


def adapt_to(
    rung: int, configs: Sequence[Config], store: Store, checkpoint: Checkpoint, advance: Advance
) -> None:
    """Adapts as `adapt` does, up to 1/`rung` of the updates, and leaves every lane where it can go
    on in another batch: of trials that are to be compared on their way.

    Args:
        rung: a power of two; there the losses of the way are measured (`loop.moments`).
    """
    batch = _begun(configs, "adapt")
    splits = {name: batch.samples(name) for name in PATH}
    adapter = build_adapter(configs, load_backbones(configs, store, batch.device))
    parameters = adapter.trainable()
    relay, until = Relay(checkpoint, _left(configs, store)), updates(batch.first, "adapt") // rung
    curves = _train(
        adapter,
        batch,
        parameters,
        splits["adapt"],
        relay,
        advance,
        measure=_measured(adapter, splits),
        until=until,
    )
    provenance = _provenance(relay.seconds, batch)
    for lane, (config, left) in enumerate(zip(configs, relay.left(len(configs)), strict=True)):
        if store.rung(run_id(config)) <= rung:
            continue
        summary = {
            **identity(config),
            "status": PAUSED,
            "rung": rung,
            "steps": until,
            "planned_steps": updates(config, "adapt"),
            "path": _path(curves, lane),
            "trainable_parameters": _count(parameters.values()),
            **provenance,
            "config": plain(config),
        }
        write_folder(store.run_folder(run_id(config)), summary, state=left)


def _left(configs: Sequence[Config], store: Store) -> list[Left]:
    """Where the lanes of a batch were paused, if all were at one place; else none of them."""
    found = [read_state(store.run_folder(run_id(config))) for config in configs]
    lanes = [left for left in found if left is not None]
    alike = len(lanes) == len(configs) and len({left["state"]["step"] for left in lanes}) == 1
    return lanes if alike else []


def _measured(adapter: Adapter, splits: Mapping[str, Samples]) -> Callable[[], dict[str, Tensor]]:
    return lambda: {name: mean_square_error(adapter, splits[name]) for name in PATH}


def _begun(configs: Sequence[Config], stage: str) -> Batch:
    """A batch that is to be stored; its peak memory counts from here."""
    batch = Batch(configs, stage)
    environment.start_peak_memory(batch.device)
    return batch


def replay(config: Config, store: Store, observe: Callable[[Adapter, int], object]) -> Curves:
    """Adapts the stored backbone of `config` once more, alone; nothing is stored.

    The numbers are those of the stored run to rounding; targets in sequence follow on one another
    as they did.

    Args:
        observe: called with the adapter and the updates done, at the start and after each update.
    """
    batch = Batch([config], "adapt")
    adapter = build_adapter([config], load_backbones([config], store, batch.device))
    updates_done, history = count(1), History()
    observe(adapter, 0)
    for task in batch.samples("adapt").chunk(config.shift.tasks):
        history.note(
            _train(
                adapter,
                batch,
                adapter.trainable(),
                task,
                None,
                lambda _: observe(adapter, next(updates_done)),
                history.alive,
            )
        )
    return history.joined_curves()


def _evaluated(configs: Sequence[Config]) -> list[str]:
    """The splits on which a batch is evaluated: those that say something of one of its lanes."""
    names = ["adapt", "validation", "test", "test_clean"]
    if any(config.shift.targets > 1 for config in configs):
        names.append("unseen")
    if configs[0].instruction.encoder != "none":
        names.append("paraphrased")
    return names


def identity(config: Config) -> dict[str, Any]:
    """How a summary begins."""
    return {
        "run_id": run_id(config),
        "function": config.function.name,
        "method": config.method.name,
        "seed": config.seed,
    }


def _train(
    model: nn.Module,
    batch: Batch,
    parameters: dict[str, nn.Parameter],
    samples: Samples,
    checkpoint: Checkpoint | None,
    advance: Advance,
    alive: Tensor | None = None,
    measure: Callable[[], dict[str, Tensor]] | None = None,
    until: int | None = None,
) -> Curves:
    """A batch's stage, or one task of it; a lane not `alive` (L,) does not move."""
    first, stage, device, lanes = batch.first, batch.stage, batch.device, len(batch.configs)
    settings: list[StageConfig] = [getattr(config.trainer, stage) for config in batch.configs]
    if not parameters:
        empty = torch.empty(0, lanes)
        return Curves([], empty, empty, {}, torch.ones(lanes, dtype=torch.bool))
    rates = torch.tensor([s.learning_rate for s in settings], dtype=samples.x.dtype, device=device)
    if alive is not None:
        rates = rates * alive.to(device)
    component = first.optimizer if stage == "adapt" else first.pretrain_optimizer
    optimizer = component.kind(list(parameters.values()), lr=rates, config=component.config)
    with arithmetic(batch.precision, device):
        return train(
            model,
            parameters,
            samples,
            settings[0],
            optimizer,
            rates,
            lane_seeds(batch.configs, f"order of {stage}"),
            first.trainer.record_every,
            loss_function(first.compile, device, (stage, lanes, group_id(first))),
            checkpoint,
            lambda done: advance(done * lanes),
            measure,
            until,
        )


def _beyond(backbone: Backbone, samples: Samples) -> Tensor:
    """The share of the values that the frozen head cannot say, (L,)."""
    low, high = (end.unsqueeze(1) for end in backbone.reach())
    return ((samples.y < low) | (samples.y > high)).double().mean(1).cpu()


def _r2(loss: Tensor, samples: Samples) -> Tensor:
    """1 - loss / variance, (L,)."""
    return 1 - loss / samples.y.double().cpu().var(1, correction=0)


def _count(parameters: Any) -> int:
    """Parameters of one lane."""
    return sum(parameter[0].numel() for parameter in parameters)


def _curve_table(curves: Curves, lane: int) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415, a third of a second that a stored study does not need

    columns = {
        "step": curves.steps,
        "loss": curves.loss[:, lane].numpy(),
        "learning_rate": curves.learning_rate[:, lane].numpy(),
    }
    for layer, norms in curves.gradient_norms.items():
        columns[f"gradient_norm.{layer}"] = norms[:, lane].numpy()
    return pd.DataFrame(columns)


def _path(curves: Curves, lane: int) -> dict[str, list[float]] | None:
    """The losses of one lane on its way, by the names that they have at its end."""
    if not curves.path:
        return None
    losses = {
        name: [losses[split][lane].item() for _, losses in curves.path]
        for split, name in PATH.items()
    }
    return {"updates": [updates for updates, _ in curves.path], **losses}


def _source(config: Config, store: Store) -> dict[str, Any]:
    """What a run's summary repeats of its backbone's."""
    summary = read_summary(store.backbone_folder(backbone_id(config)))
    assert summary is not None
    keys = ("backbone_id", "pretrain_loss", "pretrain_r2", "source_loss")
    return {key: summary[key] for key in keys}


def _provenance(seconds: float, batch: Batch) -> dict[str, Any]:
    """Where and how fast; `seconds` is the batch's wall time over its lanes."""
    lanes, device = len(batch.configs), batch.device
    return {
        "lanes": lanes,
        "seconds": seconds / lanes,
        "peak_memory_bytes": environment.peak_memory_bytes(device),
        "versions": environment.versions(),
        "commit": environment.commit(),
        "device": environment.device_name(device),
    }
