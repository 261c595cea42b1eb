"""The running sums of `routing="prefix"`, as one more layer of the KV cache.

A transformers cache reorders (beam search), crops, repeats, selects and resets all of its layers;
as a layer, the sums go wherever keys and values go.
"""

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DummyLayer
from transformers.utils import is_torchdynamo_compiling

from qlexp.errors import UsageError


class RunningSums(DummyLayer):
    """Sums over the tokens so far, one row a token in the cache, so that cropping takes rows off.

    In a cache of static shape, which cannot be cropped, the last row only, written in place.

    Attributes:
        adapter: whose sums; None: nobody's yet.
        sums: (N, tokens, 1 + D r): how many tokens there are, padding left out, and the sum of
            their A h in each of D adapted layers.
    """

    def __init__(self, cache: Cache) -> None:
        super().__init__()
        self.is_compileable = cache.is_compileable
        self.is_croppable = not cache.is_compileable
        self.is_sliding = all(cache.is_sliding)  # masks are made for the first layer of a kind
        self.adapter: str | None = None
        self.sums: Tensor | None = None

    def last(self, adapter: str) -> Tensor | None:
        """The sums of `adapter` over all cached tokens, (N, 1 + D r); None: there are none."""
        if self.sums is None or not self.sums.shape[1] or self.adapter is None:
            return None
        if self.adapter != adapter:
            raise UsageError(
                f"This cache was filled by adapter '{self.adapter}' and cannot be continued by "
                f"'{adapter}': begin a new cache."
            )
        return self.sums[:, -1]

    def append(self, adapter: str, sums: Tensor) -> None:
        """Takes the rows (N, T, 1 + D r) of the T tokens that the cache has taken."""
        past, self.adapter = self.sums, adapter
        if not self.is_compileable:
            self.sums = sums if past is None else torch.cat([past, sums], dim=1)
        elif past is not None and past.shape == sums[:, -1:].shape:
            past.copy_(sums[:, -1:])
        else:
            self.sums = sums[:, -1:].clone()
            if not is_torchdynamo_compiling():
                torch._dynamo.mark_static_address(self.sums)

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove and self.sums is not None:
            self.sums = self.sums[:, : -abs(tokens_to_remove)]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.sums is None:
            return
        chosen = self.sums[indices.to(self.sums.device)]
        if self.is_compileable and chosen.shape == self.sums.shape:
            self.sums.copy_(chosen)
        else:
            self.sums = chosen

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.sums is not None:
            self.sums = self.sums.repeat_interleave(repeats, dim=0)

    def reset(self) -> None:
        self.adapter = None
        if not self.is_compileable:
            self.sums = None


def find_sums(cache: Cache) -> RunningSums | None:
    """The running sums in a cache, where it has them."""
    last = cache.layers[-1] if cache.layers else None
    return last if isinstance(last, RunningSums) else None


def past_sums(cache: Cache, adapter: str) -> Tensor | None:
    """What `adapter` has summed over the tokens of the cache, (N, 1 + D r); None: an empty cache.

    Raises:
        UsageError: the cache holds tokens that the adapter has not seen.
    """
    sums = find_sums(cache)
    last = None if sums is None else sums.last(adapter)
    if last is None and not cache.is_compileable and cache.get_seq_length() > 0:
        raise UsageError(
            f"This cache holds tokens that adapter '{adapter}' has not seen (it was filled "
            "without it): begin a new cache."
        )
    return last


def append_sums(cache: Cache, adapter: str, rows: Tensor) -> None:
    """Adds the rows (N, T, 1 + D r) of the tokens that the cache has just taken."""
    sums = find_sums(cache)
    if sums is None:
        sums = RunningSums(cache)
        cache.layers.append(sums)
    sums.append(adapter, rows)
