"""Runs on language models as a store would hold them, made up for the tests of the analysis."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from qlexp.config.settings import flat
from qlexp.store.files import write_folder
from qlexp.store.manifest import Cell
from qlexp.store.migrate import meant
from qlexp.store.store import Store

STUDY = "lm_made_up"
TASKS = ("gcd", "chain_sum", "word_sorting")
METHODS = ("lora", "dora", "queryable", "instruction_queryable")
SEEDS = (0, 1, 2)
COUNT = 200  # test examples
BUDGET = "lora_r4"
RATE = "trainer.learning_rate"
TRAINABLE = {"frozen": 0, "lora": 1000, "dora": 1060, "queryable": 1020}
ATOMS, BLOCKS, LAYERS = 4, 2, 6
NORMS = {
    "lora": np.linspace(2.0, 0.5, LAYERS),
    "dora": np.full(LAYERS, 3.0),
}  # of gradients by layer
Accuracy = Callable[[str, str, int], float]  # task, method, seed


def error_of(accuracy: float, count: int = COUNT) -> float:
    """The smoothed share of wrong answers."""
    return (round(count * (1 - accuracy)) + 0.5) / (count + 1)


def summary_of(task: str, method: str, seed: int, accuracy: float, **changes: object) -> dict:
    """What the summary of a run holds: losses fall as the accuracy grows."""
    frozen, loss = 0.1 + 0.01 * seed, 1.5 - accuracy
    trained = method != "frozen"
    summary = {
        "run_id": f"{task}-{method}-{seed}",
        "function": task,
        "method": method,
        "seed": seed,
        "status": "done",
        "benchmark": "language",
        "backbone_id": f"{task}-{seed}",
        "model": "smollm2",
        "model_note": "weights rounded to 4 bits",
        "accuracy": accuracy,
        "frozen_accuracy": frozen,
        "test_error": error_of(accuracy),
        "frozen_error": error_of(frozen),
        "test_count": COUNT,
        "test_loss": loss,
        "validation_loss": 1.1 * loss,
        "learnt_loss": 1.1 * loss,
        "post_train_loss": 0.9 * loss,
        "frozen_loss": 2.0 + 0.1 * seed,
        "frozen_validation_loss": 2.1,
        "train_accuracy": None,
        "retention_loss": 3.2 + 0.02 * seed,
        "frozen_retention_loss": 3.0,
        "retention_accuracy": 0.25,
        "frozen_retention_accuracy": 0.3,
        "task_accuracy": {task: accuracy},
        "frozen_task_accuracy": {task: frozen},
        "atom_usage": {task: [[0.7, 0.3, 0.0, 0.0]] * BLOCKS} if "queryable" in method else None,
        "trainable_parameters": TRAINABLE.get(method, 1020),
        "total_parameters": 90_000,
        "rank": 4 if trained else None,
        "steps": 100 if trained else 0,
        "best_step": 80,
        "seconds": 10.0 + seed,
        "peak_memory_bytes": 3 * 2**20,
        "adapter_bytes": 2**19,
        "path": {"updates": [50.0, 100.0], "validation_loss": [2 * loss, 1.1 * loss]},
        "versions": {"python": "3.12.1", "torch": "2.13.0"},
        "commit": "0123456789ab",
        "device": "CPU",
        "config": {
            "model": {"name": "smollm2"},
            "task": {"name": task, "order": "together"},
            "data": {"train": 100, "validation": 50, "test": COUNT},
            "instruction": {"encoder": "minilm", "text": "user", "control": "matched"},
            "method": {"name": method, "rank": 4},
            "trainer": {"steps": 100, "batch_size": 8, "learning_rate": 1e-3, "keep": "last"},
            "seed": seed,
            "precision": "float32",
        },
    }
    return {**summary, **changes}


def curves_of(summary: dict) -> pd.DataFrame:
    """Losses and gradient norms over three updates, none of the frozen model."""
    steps = [] if summary["method"] == "frozen" else [0, 40, 80]
    norms = NORMS.get(summary["method"], np.linspace(3.2, 2.8, LAYERS))
    jitter = 1 + 0.01 * summary["seed"]
    return pd.DataFrame(
        {
            "step": steps,
            "loss": [summary["test_loss"] * (1 + 4 / (1 + step)) for step in steps],
            "learning_rate": [1e-3] * len(steps),
            **{
                f"gradient_norm.layer_{k}": [norm * jitter] * len(steps)
                for k, norm in enumerate(norms)
            },
        }
    )


def weights_of(method: str) -> dict[str, torch.Tensor]:
    """The tensors of an adapter, named as peft names them; the bank belongs to no layer."""
    own = "queryable_A" if "queryable" in method else "lora_A"
    names = [f"base_model.model.model.layers.{k}.mlp.down_proj.{own}.weight" for k in range(LAYERS)]
    bank = {"base_model.queryable_bank.keys": torch.zeros(ATOMS, 2)}
    return {name: torch.zeros(4, 10) for name in names} | (bank if "queryable" in method else {})


def write_run(store: Store, summary: dict, *overrides: str) -> Cell:
    """Stores a run; returns its cell."""
    tensors = (
        {} if summary["method"] == "frozen" else {"adapter_model": weights_of(summary["method"])}
    )
    write_folder(store.run_folder(summary["run_id"]), summary, curves_of(summary), tensors)
    own, asked = meant(overrides, {})
    names = ("run_id", "function", "method", "seed")
    place = (summary[name] for name in names)
    return Cell(*place, BUDGET, {**flat(summary["config"]), **own}, asked, 1000)


def learnt(task: str, method: str, seed: int) -> float:
    """Accuracies in which queryable LoRA is better than LoRA, and better still with the text."""
    gain = {"queryable": 0.15, "instruction_queryable": 0.3}.get(method, 0.0)
    return 0.4 + 0.05 * TASKS.index(task) + gain + 0.005 * seed * (method != "lora")


def write_study(
    store: Store, accuracy: Accuracy = learnt, methods: Sequence[str] = METHODS, **changes: object
) -> None:
    """The study `lm_made_up`: three tasks, four methods, three seeds."""
    cells = [
        write_run(store, summary_of(*place, accuracy(*place), **changes), "experiment=lm_made_up")
        for place in itertools.product(TASKS, methods, SEEDS)
    ]
    store.write_study(STUDY, cells)


def write_sequence(store: Store, forgets: dict[str, float], drift: float = 0.02) -> None:
    """The study `lm_made_up` of three tasks in sequence, of which each is learnt to 0.8 and loses
    what its method `forgets` with every later one."""
    cells, parts = [], list(TASKS)
    for method, lost in forgets.items():
        for seed in SEEDS:
            step = lost * (1 + 0.05 * seed)
            matrix = [
                [0.8 - step * (after - 1 - i) if i < after else 0.1 for i in range(len(parts))]
                for after in range(len(parts) + 1)
            ]
            routed = "queryable" in method
            moved = [[drift * (j - i) * (1 + 0.1 * seed) for i in range(j + 1)] for j in range(3)]
            usage = {p: np.roll([0.7, 0.3, 0.0, 0.0], i).tolist() for i, p in enumerate(parts)}
            summary = summary_of(
                "arithmetic",
                method,
                seed,
                float(np.mean(matrix[-1])),
                task_accuracy=dict(zip(parts, matrix[-1], strict=True)),
                task_accuracies=matrix,
                route_drift=moved if routed else None,
                atom_usage={p: [own] * BLOCKS for p, own in usage.items()} if routed else None,
                forgetting=math.nan,
            )
            cells.append(write_run(store, summary, "task=arithmetic", "task.order=sequence"))
    store.write_study(STUDY, cells)
