"""Generation with the KV cache: what the full forward pass says, whatever happens to the cache."""

import copy
import warnings
from collections.abc import Iterator

import pytest
import torch
from models import CLOSE, FAMILIES, ROUTINGS, adapted, config, jolt, padded, tokens
from peft import PeftModel
from torch import Tensor
from torch.testing import assert_close
from transformers import DynamicCache, StaticCache

from qlexp import UsageError
from qlexp.peft.cache import find_sums

NEW = 5

both_routings = pytest.mark.parametrize("routing", ROUTINGS)
each_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*right-padding.*")
        yield


def greedy(model: PeftModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Greedy continuation by full forward passes alone, NEW tokens after left padding."""
    for _ in range(NEW):
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        logits = model(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return ids


@each_family
@both_routings
def test_a_cache_changes_nothing(family: str, routing: str) -> None:
    """Chunks of one, several and one token again."""
    model, ids = adapted(family, routing=routing), tokens(2, 9)
    logits, cache = model(ids).logits, None
    for start, stop in ((0, 4), (4, 5), (5, 8), (8, 9)):
        output = model(ids[:, start:stop], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        assert_close(output.logits, logits[:, start:stop], **CLOSE)


@each_family
@both_routings
@pytest.mark.parametrize("side", ["left", "right"])
def test_greedy(family: str, routing: str, side: str) -> None:
    model = adapted(family, routing=routing)
    ids, mask = padded(side)
    options = {"attention_mask": mask, "max_new_tokens": NEW, "do_sample": False}
    found = model.generate(input_ids=ids, **options)
    assert torch.equal(found, model.generate(input_ids=ids, use_cache=False, **options))
    if side == "left":  # after right padding, generation counts positions in its own way
        assert torch.equal(found, greedy(model, ids, mask))


@each_family
@both_routings
@pytest.mark.parametrize("side", ["left", "right"])
def test_beams(family: str, routing: str, side: str) -> None:
    """The beams' own scores are those of a full pass over what was generated."""
    model = adapted(family, routing=routing)
    ids, mask = padded(side)
    beams = {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": NEW, "do_sample": False}
    cached, full = (
        model.generate(
            input_ids=ids,
            attention_mask=mask,
            use_cache=use_cache,
            return_dict_in_generate=True,
            output_scores=True,
            **beams,
        )
        for use_cache in (True, False)
    )
    assert torch.equal(cached.sequences, full.sequences)
    assert_close(cached.sequences_scores, full.sequences_scores, rtol=0, atol=1e-6)


@both_routings
def test_embeddings_begin_a_generation(routing: str) -> None:
    model, ids = adapted(routing=routing), tokens()
    embedded = model.get_input_embeddings()(ids)
    options = {"max_new_tokens": NEW, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    wanted = model.generate(input_ids=ids, **options)[:, ids.shape[1] :]
    assert torch.equal(model.generate(inputs_embeds=embedded, **options), wanted)


@both_routings
def test_prompt_lookup_crops_the_cache(routing: str) -> None:
    """Guessed tokens that turn out wrong are taken off the cache again."""
    model = adapted(routing=routing)
    ids = tokens(1, 4).repeat(1, 3)
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": NEW, "do_sample": False}
    guessed = model.generate(input_ids=ids, prompt_lookup_num_tokens=3, **options)
    assert torch.equal(guessed, model.generate(input_ids=ids, **options))


@both_routings
def test_a_static_cache(routing: str) -> None:
    model = adapted(routing=routing)
    ids, mask = padded("left")
    options = {"attention_mask": mask, "max_new_tokens": NEW, "do_sample": False}
    static = model.generate(
        input_ids=ids, cache_implementation="static", disable_compile=True, **options
    )
    assert torch.equal(static, model.generate(input_ids=ids, **options))
    again = model.generate(
        input_ids=ids, cache_implementation="static", disable_compile=True, **options
    )
    assert torch.equal(static, again)


def test_a_static_cache_keeps_its_memory() -> None:
    """Compiled decoding wants the same tensors at every step."""
    model, ids = adapted(), tokens(2, 6)
    cache = StaticCache(model.config, max_cache_len=8)
    places = set()
    for start, stop in ((0, 4), (4, 5), (5, 6)):
        output = model(ids[:, start:stop], past_key_values=cache)
        places.add(find_sums(cache).sums.data_ptr())
    assert len(places) == 1
    assert_close(output.logits, model(ids).logits[:, -1:], **CLOSE)
    cache.reset()
    assert_close(model(ids, past_key_values=cache).logits, model(ids).logits, **CLOSE)


def continued(model: PeftModel, cache: DynamicCache, ids: Tensor, whole: Tensor) -> None:
    """Continuing `cache` by `ids` says what a full pass over `whole` says."""
    logits = model(ids, past_key_values=cache).logits
    assert_close(logits, model(whole).logits[:, -ids.shape[1] :], **CLOSE)


@pytest.mark.parametrize("family", ["llama", "qwen3", "granite"])
def test_what_is_done_to_a_cache_is_done_to_the_sums(family: str) -> None:
    model, ids, more = adapted(family), tokens(3, 6), tokens(3, 2, seed=7)

    def filled() -> DynamicCache:
        cache = DynamicCache(config=model.config)
        model(ids, past_key_values=cache)
        return cache

    cache = filled()
    cache.crop(-2)
    continued(model, cache, more, torch.cat([ids[:, :-2], more], 1))
    cache = filled()
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    continued(model, cache, more, torch.cat([ids[[2, 0, 0]], more], 1))
    cache = filled()
    cache.batch_select_indices(torch.tensor([1]))
    continued(model, cache, more[:1], torch.cat([ids[[1]], more[:1]], 1))
    cache = filled()
    cache.batch_repeat_interleave(2)
    twice = more.repeat_interleave(2, 0)
    continued(model, cache, twice, torch.cat([ids.repeat_interleave(2, 0), twice], 1))
    cache = filled()
    prompt = copy.deepcopy(cache)
    continued(model, cache, more, torch.cat([ids, more], 1))
    continued(model, prompt, more, torch.cat([ids, more], 1))
    cache.crop(-8)
    continued(model, cache, ids, ids)
    cache.reset()
    continued(model, cache, ids, ids)


def test_a_cache_without_a_config_grows_as_it_is_filled() -> None:
    model, ids = adapted(), tokens(2, 6)
    cache = DynamicCache()
    model(ids[:, :4], past_key_values=cache)
    continued(model, cache, ids[:, 4:], ids)


def test_a_cache_of_another_adapter_or_of_none_is_refused() -> None:
    model, ids = adapted(), tokens()
    model.add_adapter("second", config(r=2))
    jolt(model, seed=3)
    mine, bare = DynamicCache(config=model.config), DynamicCache(config=model.config)
    model(ids, past_key_values=mine)
    with model.disable_adapter():
        model(ids, past_key_values=bare)
    with pytest.raises(UsageError, match="tokens that adapter 'default' has not seen"):
        model(ids[:, :1], past_key_values=bare)
    model.set_adapter("second")
    with pytest.raises(UsageError, match=r"filled by adapter 'default'.*continued by 'second'"):
        model(ids[:, :1], past_key_values=mine)
    mine.reset()
    continued(model, mine, ids, ids)
