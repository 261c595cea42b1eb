"""What the router of queryable LoRA does on questions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qlexp.lm.evaluate import inputs
from qlexp.lm.tokens import Encoded, collate
from qlexp.peft import QueryableLoraModel

_ASKED = 32  # questions of a task


@torch.no_grad()
def mean_routes(model: Any, samples: Sequence[Encoded], padding: int) -> Tensor | None:
    """The atoms' weights, a mean over the tokens of each prompt, (n, N_b, K), of at most `_ASKED`
    questions; None where the model has no router."""
    tuner = getattr(model, "base_model", None)
    if not isinstance(tuner, QueryableLoraModel):
        return None
    asked = list(samples[:_ASKED])
    batch = collate(asked, padding, model.device, [[]] * len(asked))
    weights = tuner.routes(**inputs(batch)).float()  # (n, T, N_b, K)
    kept = batch.mask[:, :, None, None].to(weights)
    return ((weights * kept).sum(1) / kept.sum(1)).cpu()


def usage(routes: Tensor) -> list[list[float]]:
    """The mean weight of each atom in each block, of routes (n, N_b, K)."""
    return routes.double().mean(0).tolist()


def drift(before: Tensor, now: Tensor) -> float:
    """How far routes (n, N_b, K) have moved: total variation, a mean over questions and blocks."""
    return (0.5 * (before - now).abs().sum(-1)).mean().item()
