"""Routing that also reads a text: the model input `instruction`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from models import CLOSE, FAMILIES, ROUTINGS, adapted, config, padded, tiny, tokens
from peft import PeftModel, get_peft_model
from torch import Tensor
from torch.testing import assert_close

from qlexp import UsageError

SIZE = 7
both_routings = pytest.mark.parametrize("routing", ROUTINGS)


def texts(n: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(n, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def instructed(family: str = "llama", **changes: Any) -> PeftModel:
    return adapted(family, instruction_dim=SIZE, **changes)


@pytest.mark.parametrize("family", FAMILIES)
@both_routings
def test_an_instruction_changes_the_route_and_generation(family: str, routing: str) -> None:
    model, ids = instructed(family, routing=routing), tokens()
    one, other = model(ids, instruction=texts()).logits, model(ids, instruction=-texts()).logits
    assert not torch.allclose(one, other)
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 4, "do_sample": False}
    for beams in (1, 3):
        found = model.generate(input_ids=ids, instruction=texts(), num_beams=beams, **options)
        full = model.generate(
            input_ids=ids, instruction=texts(), num_beams=beams, use_cache=False, **options
        )
        assert torch.equal(found, full)
    logits = model(found, instruction=texts()).logits
    assert not torch.allclose(logits, model(found).logits)


def test_every_example_has_its_own() -> None:
    model, (ids, mask) = instructed(), padded("right")
    logits = model(ids, attention_mask=mask, instruction=texts(3)).logits
    for row, kept in enumerate(mask.bool()):
        alone = model(ids[row : row + 1, kept], instruction=texts(3)[row : row + 1]).logits[0]
        assert_close(logits[row, kept], alone, **CLOSE)


@both_routings
def test_no_instruction_is_an_empty_one(routing: str) -> None:
    """It adds nothing to the query, and its prior is uniform: as without the language prior."""
    model, ids = instructed(routing=routing), tokens()
    logits = model(ids).logits
    assert_close(logits, model(ids, instruction=torch.zeros(2, SIZE)).logits, **CLOSE)
    bank = model.base_model.queryable_bank["default"]
    bank.prior_strength.zero_()
    assert_close(model(ids).logits, logits, **CLOSE)


def test_a_strong_prior_chooses_the_same_atoms_everywhere() -> None:
    model = instructed(prior_strength=1e6)
    routes, text = model.routes(tokens(), instruction=texts()), texts()
    bank = model.base_model.queryable_bank["default"]
    favourite = bank.log_prior(text[None])[0].argmax(-1)
    assert (routes.argmax(-1) == favourite[:, None, None]).all()


@pytest.mark.parametrize(
    ("channels", "built"), [("both", {"Z", "P"}), ("query", {"Z"}), ("prior", {"P"})]
)
def test_every_channel_learns(channels: str, built: set[str], tmp_path: Path) -> None:
    model = get_peft_model(tiny(), config(instruction_dim=SIZE, channels=channels, top_k=6))
    bank = dict(model.base_model.queryable_bank["default"].named_parameters())
    assert {"Z", "P"} & bank.keys() == built
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    ids = tokens()
    for _ in range(2):
        optimizer.zero_grad()
        model(ids, labels=ids, instruction=texts()).loss.backward()
        optimizer.step()
    assert all(one.grad is not None and one.grad.any() for one in bank.values())
    model.save_pretrained(str(tmp_path))
    for low in (False, True):
        loaded = PeftModel.from_pretrained(tiny(), str(tmp_path), low_cpu_mem_usage=low)
        wanted = model.eval()(ids, instruction=texts()).logits
        assert torch.equal(loaded(ids, instruction=texts()).logits, wanted)


def test_a_plain_peft_model_takes_it_too() -> None:
    model, ids = adapted(instruction_dim=SIZE, task_type=None), tokens()
    wanted = instructed()(ids, instruction=texts()).logits
    assert torch.equal(model(ids, instruction=texts()).logits, wanted)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_keeps_it(reentrant: bool) -> None:
    ids, gradients = tokens(), []
    for checkpointed in (False, True):
        model = instructed().train()
        if checkpointed:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model(ids, labels=ids, instruction=texts()).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for plain, again in zip(*gradients, strict=True):
        assert_close(again, plain, **CLOSE)


def test_what_is_no_instruction_is_refused() -> None:
    ids = tokens()
    with pytest.raises(UsageError, match=r"shape \(2, 5\): one encoded text an example.*\(2, 7\)"):
        instructed()(ids, instruction=torch.zeros(2, 5))
    with pytest.raises(UsageError, match=r"shape \(3, 7\)"):
        instructed()(ids, instruction=texts(3))
    with pytest.raises(UsageError, match=r"reads no instruction.*instruction_dim.*which is 7"):
        adapted()(ids, instruction=texts())
