"""Long tables whose truth is planted, and how claims are answered on them."""

import itertools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from made_up import DECIDING, LOSSES, NINE
from random_tables import QUALITY

from analysis.claims import answers as claims_answers
from analysis.claims.evidence import Norms
from analysis.claims.rules import Answer, Claim
from analysis.paper.claims import CLAIMS, QUERYABLE
from analysis.table import with_columns

SMOOTH = ("matyas", "himmelblau", "six_hump_camel")
FLOOR = 0.0025  # the variance of the noise in the samples
METHODS = ("frozen", "lora", "queryable", "instruction_queryable", "hyra", "full")
Gain = Callable[[str, str, float, int], float]  # function, method, depth, seed -> log(LoRA / own)


def study(
    gain: Gain,
    fit: Gain | None = None,
    seeds: int = 4,
    noise: float = 0.01,
    depths: tuple[int, ...] = (8,),
    budgets: tuple[str, ...] = ("lora_r4",),
    targets: int = 1,
) -> pd.DataFrame:
    """A long table in which each method's loss is LoRA's, less what `gain` says, and noise.

    Losses on noisy samples lie `FLOOR` above; the training loss gains what `fit` says, else `gain`.
    """
    draw, rows = np.random.default_rng(0), []
    cells = itertools.product(budgets, depths, NINE, METHODS, range(seeds))
    for budget, depth, function, method, seed in cells:
        base = np.random.default_rng([seed, len(function)]).normal(-3, 0.3)
        place = function, method, depth, seed
        loss, fitted = (
            math.exp(base - of(*place) + noise * draw.normal()) for of in (gain, fit or gain)
        )
        rows.append(
            {
                "budget": budget,
                "function": function,
                "method": method,
                "overrides": f"backbone.depth={depth}",
                "settings": {"backbone.depth": depth},
                "seed": seed,
                "run_id": f"{budget}-{depth}-{function}-{method}-{seed}",
                "status": "done",
                "error": None,
                **QUALITY,
                **dict.fromkeys(("frozen_loss", "frozen_validation_loss"), 100.0 + FLOOR),
                "frozen_loss_clean": 100.0,
                **dict.fromkeys((*LOSSES, "learnt_loss"), loss + FLOOR),
                "post_train_loss": fitted + FLOOR,
                DECIDING: loss,
                "samples_per_period": math.nan if function in SMOOTH else 4.0,
                "trainable_parameters": 1000,
                "reference_parameters": 1000,
                "reading": method == "hyra",
                "config.backbone.depth": depth,
                "config.backbone.width": 32,
                "config.shift.targets": targets,
            }
        )
    return pd.DataFrame(rows)


def nothing(function: str, method: str, depth: float, seed: int) -> float:
    return 0.0


def paper_says(function: str, method: str, depth: float, seed: int) -> float:
    """What the paper says it saw."""
    if method != QUERYABLE:
        return 0.0
    gains = {"drop_wave": 0.5, "griewank": 0.3, "levy": 0.3, "ackley": 0.01}
    return gains.get(function, 0.0) + (0.1 if depth > 8 else 0.0)


def flat_norms(run_id: str) -> np.ndarray:
    """LoRA's norms fade with depth; with an instruction they are larger and nearly even."""
    jitter = np.random.default_rng(sum(map(ord, run_id))).uniform(0.99, 1.01, 6)
    return jitter * (4.0 if "instruction" in run_id else 2.0 - 0.3 * np.arange(6.0))


def answer(
    frame: pd.DataFrame, norms: Norms = flat_norms, claims: Sequence[Claim] = CLAIMS
) -> list[Answer]:
    """The answers of all blocks of a table as `study` makes it."""
    return claims_answers.answer(with_columns(frame), norms, claims)


def answers(
    frame: pd.DataFrame, norms: Norms = flat_norms, budget: str = "lora_r4"
) -> dict[str, Answer]:
    """The answers of one block by claim."""
    found = [own for own in answer(frame, norms) if budget in own.budgets]
    assert len(found) == len(CLAIMS)
    return {own.claim.name: own for own in found}


def of_both(gain: Gain, norms: Norms = flat_norms, **options: Any) -> dict[str, Answer]:
    """Claims on texts from adapters of eight targets, all others from adapters of one."""
    one, many = (answers(study(gain, targets=n, **options), norms) for n in (1, 8))
    return {n: many[n] if n.startswith(("text_", "gradients_")) else one[n] for n in one}


def only(frame: pd.DataFrame, name: str, norms: Norms = flat_norms) -> Answer:
    """The answer of one claim in a study of one block."""
    (own,) = answer(frame, norms, [claim for claim in CLAIMS if claim.name == name])
    return own


def jitter(cell: Any) -> float:
    return 1 + 0.01 * cell.seed * (cell.method == QUERYABLE)


def used(frame: pd.DataFrame, weight: float) -> list[str]:
    """Atom usage of two tasks and one block: two of four atoms with nearly `weight` each."""
    return [
        json.dumps(
            [
                [
                    [weight / jitter(cell), 1 - 2 * (0.5 - weight) - weight / jitter(cell)]
                    + [0.5 - weight] * 2
                ]
            ]
            * 2
        )
        for cell in frame.itertuples()
    ]


def sequence(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with losses of three tasks that hardly grow, and atoms that are used sparsely."""
    losses = json.dumps([[1, 1, 1], [0.05, 1, 1], [0.051, 0.05, 1], [0.051, 0.051, 0.05]])
    usage = json.dumps([[[1.0, 0.0, 0.0, 0.0]]] * 3)
    return frame.assign(task_losses=losses, atom_usage=usage)


def diverged(frame: pd.DataFrame, place: pd.Series) -> pd.DataFrame:
    """`frame` with diverged runs; only the losses of `analysis.load.LOSSES` are inf in them."""
    return frame.assign(
        status=frame["status"].mask(place, "diverged"),
        **{loss: frame[loss].mask(place, math.inf) for loss in LOSSES},
    )
