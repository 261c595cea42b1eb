"""Where a forward pass through the decoder begins and ends: the route is made and put away."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from qlexp.adapters.queryable import Router
from qlexp.errors import UsageError
from qlexp.peft.cache import append_sums, past_sums
from qlexp.peft.config import QueryableLoraConfig
from qlexp.peft.state import Route


class Inputs:
    """What a decoder was called with.

    Args:
        names: of its parameters, in their order.

    Attributes:
        values: by name.
        shape: N examples of T new tokens.
        cache: the KV cache it was given, if any.
    """

    def __init__(
        self, names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self.values = dict(zip(names, args, strict=False)) | dict(kwargs)
        tokens = self.values.get("input_ids")
        tokens = self.values["inputs_embeds"] if tokens is None else tokens
        self.shape, self.device = tuple(tokens.shape[:2]), tokens.device
        cache = self.values.get("past_key_values")
        self.cache = cache if isinstance(cache, Cache) else None

    def caching(self, decoder: nn.Module) -> bool:
        """Whether the decoder fills a cache."""
        wanted = self.values.get("use_cache")
        if wanted is None:
            wanted = getattr(getattr(decoder, "config", None), "use_cache", False)
        return bool(wanted) or self.cache is not None

    def kept(self) -> Tensor | None:
        """Which of the new tokens are no padding, (N, T) of bool; None: all."""
        mask, length = self.values.get("attention_mask"), self.shape[1]
        if isinstance(mask, dict):
            mask = next((one for one in mask.values() if one is not None), None)
        if mask is None:
            return None
        if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
            raise UsageError(
                "routing='prefix' reads from the attention mask which tokens are padding, so it "
                "must be a tensor (N, tokens) or (N, 1, T, tokens): choose another "
                "attn_implementation, or routing='token'."
            )
        if mask.ndim == 2:
            return mask[:, -length:].bool()
        past = 0 if self.cache is None else self.cache.get_seq_length()
        own = torch.arange(length, device=mask.device) + past  # a token that sees itself is kept
        seen = mask[:, 0].gather(-1, own.expand(mask.shape[0], -1).unsqueeze(-1)).squeeze(-1)
        return (seen if seen.dtype == torch.bool else seen == 0).expand(self.shape)


def begin(
    config: QueryableLoraConfig, router: Router, adapter: str, inputs: Inputs, recording: bool
) -> Route:
    """The route with which a pass of `adapter` begins."""
    route = Route(router=router, instruction=_instruction(config, router, inputs))
    if config.routing == "token":
        return route
    dtype, length = router.keys.dtype, inputs.shape[1]
    kept, past = inputs.kept(), None
    if kept is None:
        counts = torch.arange(1, length + 1, device=inputs.device, dtype=dtype).unsqueeze(0)
    else:
        counts = kept.to(dtype).cumsum(1)
    if inputs.cache is not None:
        last = past_sums(inputs.cache, adapter)
        if last is not None:
            counts = counts + last[:, :1]
            past = last[:, 1:].unflatten(1, (-1, config.r)).unsqueeze(0)
    return Route(
        mask=None if kept is None else kept.unsqueeze(0),
        instruction=route.instruction,
        router=router,
        share=counts.clamp_min(1.0).reciprocal()[None, :, :, None],
        past=past,
        sums=(counts.expand(inputs.shape)[None, :, :, None],) if recording else (),
    )


def end(route: Route, adapter: str, cache: Cache) -> None:
    """Puts what the next tokens need into the cache of a pass that ends."""
    append_sums(cache, adapter, torch.cat(route.sums, dim=-1)[0])


def _instruction(config: QueryableLoraConfig, router: Router, inputs: Inputs) -> Tensor | None:
    """e(z), (1, N, d_e); zeros, which change nothing, where a model that reads one got none."""
    given, size, N = inputs.values.get("instruction"), config.instruction_dim, inputs.shape[0]
    if size is None:
        if given is not None:
            raise UsageError(
                "This adapter reads no instruction: leave it out, or set instruction_dim to the "
                f"size of the encoded texts, which is {given.shape[-1]}."
            )
        return None
    if given is None:
        given = router.keys.new_zeros(N, size)
    if given.ndim != 2 or given.shape[1] != size or not len(given) or N % len(given):
        raise UsageError(
            f"instruction has shape {tuple(given.shape)}: one encoded text an example is wanted, "
            f"({N}, {size})."
        )
    beams = given.repeat_interleave(N // len(given), dim=0)  # generation repeats its examples
    return beams.to(router.keys).unsqueeze(0)
