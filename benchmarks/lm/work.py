"""The pieces of work that are timed, at which size, and how much over LoRA's they may take."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.contenders import Call
from benchmarks.lm.contenders import Contender, trainable


def training_step(contender: Contender, ids: Tensor) -> Call:
    """Forward, backward and AdamW on the tokens ids (N, T)."""
    model, extra = contender.model, contender.extra(len(ids))
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-4)

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids, use_cache=False, **extra).loss.backward()
        optimizer.step()

    return step


def prefill(contender: Contender, ids: Tensor) -> Call:
    """A pass over the prompts ids (N, T) that fills a KV cache and gives each its next token."""
    model, extra = contender.model, contender.extra(len(ids))

    @torch.no_grad()
    def run() -> object:
        model.eval()
        return model(input_ids=ids, use_cache=True, logits_to_keep=1, **extra).past_key_values

    return run


def decoding(contender: Contender, ids: Tensor) -> Call:
    """One more token behind the cached prompts ids (N, T), which is then taken back."""
    model, extra = contender.model, contender.extra(len(ids))
    cache = prefill(contender, ids)()

    @torch.no_grad()
    def run() -> None:
        model.eval()
        model(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True, **extra)
        cache.crop(-1)  # type: ignore[attr-defined]

    return run


@dataclass(frozen=True)
class Work:
    """A piece of work on `rows` sequences of `length` tokens.

    Attributes:
        limit: how many times LoRA's time queryable LoRA may take; None: not set.
    """

    name: str
    of: Callable[[Contender, Tensor], Call]
    rows: int
    length: int
    limit: float | None = None


STEP = Work("training step, 8 x 64 tokens", training_step, 8, 64, limit=1.2)
INFERENCE = (
    Work("prefill, 1 x 128 tokens", prefill, 1, 128),
    Work("prefill, 8 x 128 tokens", prefill, 8, 128),
    Work("a token, batch 1", decoding, 1, 128, limit=1.3),
    Work("a token, batch 8", decoding, 8, 128, limit=1.3),
)
MEMORY_LIMIT = 1.05
