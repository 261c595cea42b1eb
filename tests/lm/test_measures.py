"""Losses and answers against the plain loop, one sample at a time and without padding."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from made import planned

from qlexp.lm.data import prepare
from qlexp.lm.evaluate import (
    generated,
    last_word,
    mean_loss,
    right_answers,
    smoothed_error,
    text_loss,
)
from qlexp.lm.methods import attach
from qlexp.lm.plan import model_of
from qlexp.lm.schema import PartConfig
from qlexp.lm.tasks import splits
from qlexp.lm.tokens import Encoded, encode


@pytest.fixture(scope="module", params=["lora", "instruction_queryable"])
def asked(request: pytest.FixtureRequest) -> tuple:
    """A model whose adapter changes it, its tokenizer and its samples."""
    config = planned(
        f"method={request.param}", "instruction=hashing", "precision=float32", "task=mixture"
    )
    model, tokenizer = model_of(config)
    adapted = attach(model, config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and ("_B" in name or "gate" in name):
            parameter.data += torch.randn(parameter.shape, generator=generator) / 3
    return adapted.eval(), tokenizer, prepare(config, tokenizer)


def logits_of(model, sample: Encoded, answer: list[int]) -> torch.Tensor:
    """Of every token of an answer, alone and unpadded, (A, vocabulary)."""
    ids = torch.tensor([[*sample.prompt, *answer]])
    text = {} if sample.text is None else {"instruction": sample.text[None].float()}
    return model(input_ids=ids, **text).logits[0, len(sample.prompt) - 1 : -1]


@torch.no_grad()
def test_the_loss_is_that_of_answers_alone(asked: tuple) -> None:
    model, tokenizer, data = asked
    samples = [one for own in data.test.values() for one in own]
    losses = [
        F.cross_entropy(
            logits_of(model, one, one.answer), torch.tensor(one.answer), reduction="none"
        )
        for one in samples
    ]
    found = mean_loss(model, samples, tokenizer.pad_token_id)
    assert found == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)


@torch.no_grad()
def test_generation_is_greedy(asked: tuple) -> None:
    model, tokenizer, data = asked
    samples = next(iter(data.test.values()))[:4]
    most = max(len(one.answer) for one in samples) + 32
    for sample, text in zip(samples, generated(model, samples, tokenizer), strict=True):
        tokens: list[int] = []
        while len(tokens) < most and tokenizer.eos_token_id not in tokens:
            tokens.append(int(logits_of(model, sample, [*tokens, 0])[-1].argmax()))
        assert text == tokenizer.decode(tokens, skip_special_tokens=True).strip()


@torch.no_grad()
def test_the_most_likely_choice_is_the_answer(asked: tuple) -> None:
    model, tokenizer, data = asked
    part = PartConfig(name="syllogism", score="choice", choices=["Yes", "No"])
    samples = encode(splits("syllogism", part, {"test": 6}, 0)["test"], tokenizer, 600)
    if data.test["addition"][0].text is not None:
        samples = [replace(one, text=torch.randn(16)) for one in samples]
    wanted = []
    for sample in samples:
        scores = [
            F.cross_entropy(logits_of(model, sample, own), torch.tensor(own), reduction="sum")
            for own in sample.choices
        ]
        wanted.append(sample.sample.choices[int(torch.stack(scores).argmin())])
    right = right_answers(model, samples, tokenizer)
    assert right == [
        own == sample.sample.answer for own, sample in zip(wanted, samples, strict=True)
    ]


@torch.no_grad()
def test_running_text_is_read_in_windows(asked: tuple) -> None:
    model, _, data = asked
    ids = data.neutral
    logits = model(input_ids=ids[None]).logits[0, :-1]
    assert text_loss(model, ids) == pytest.approx(F.cross_entropy(logits, ids[1:]).item(), rel=1e-5)
    assert math.isnan(text_loss(model, ids[:0]))


@pytest.mark.parametrize(
    ("text", "word"), [("The answer is 7.", "7"), ("7", "7"), ("**-3**", "-3"), (" ", "")]
)
def test_the_last_word_of_an_answer(text: str, word: str) -> None:
    assert last_word(text) == word


def test_an_error_has_a_logarithm() -> None:
    for right in ([True] * 5, [False] * 5, [True, False]):
        assert 0 < smoothed_error(right) < 1
    assert smoothed_error([True, False]) == 0.5
