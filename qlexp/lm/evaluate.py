"""What a language model is measured by: loss, right answers, and what it has kept.

A model is called as `model(input_ids=, attention_mask=, logits_to_keep=)`, and with `instruction=`
where a batch has texts.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qlexp.lm.scores import smoothed
from qlexp.lm.tokens import Batch, Encoded, by_length, collate

_ROWS = 32  # samples at a time
_SPARE = 32  # tokens that a generated answer may be longer than the longest right one
_WINDOW = 256  # tokens of neutral text at a time


def inputs(batch: Batch) -> dict[str, Any]:
    """A batch as the model takes it."""
    given = {"input_ids": batch.ids, "attention_mask": batch.mask}
    return given if batch.text is None else {**given, "instruction": batch.text}


def answer_losses(model: Any, batch: Batch) -> Tensor:
    """-log p of every token of the answers, (N, A), 0 on padding."""
    length = batch.ids.shape[1]
    asked = torch.arange(length - batch.answers - 1, length, device=batch.ids.device)
    # As indices: a slice of the states has gaps, for which CPUs copy the head's weight.
    logits = model(**inputs(batch), logits_to_keep=asked, use_cache=False).logits
    losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), batch.labels, reduction="none")
    return losses * batch.asked


@torch.no_grad()
def mean_loss(model: Any, samples: Sequence[Encoded], padding: int) -> float:
    """Cross-entropy, nats a token of the answers."""
    total, tokens = 0.0, 0
    for chosen in by_length(samples, _ROWS):
        batch = collate([samples[i] for i in chosen], padding, model.device)
        total += answer_losses(model, batch).double().sum().item()
        tokens += int(batch.asked.sum())
    return total / tokens


def right_answers(model: Any, samples: Sequence[Encoded], tokenizer: Any) -> list[bool]:
    """Of every sample whether it is answered rightly: by the most likely of its choices, where it
    has some, else by what the model generates greedily, as a whole or its last word, so that a
    model that answers in sentences is not judged by its manners."""
    if not samples:
        return []
    if samples[0].choices:
        return _chosen(model, samples, tokenizer.pad_token_id)
    return [
        sample.sample.judge(text) or sample.sample.judge(last_word(text))
        for sample, text in zip(samples, generated(model, samples, tokenizer), strict=True)
    ]


def last_word(text: str) -> str:
    """`The answer is 7.` -> `7`."""
    return text.rsplit(maxsplit=1)[-1].strip(".,;:!?*\"'") if text.split() else ""


@torch.no_grad()
def generated(model: Any, samples: Sequence[Encoded], tokenizer: Any) -> list[str]:
    """The answers that the model generates greedily."""
    texts = [""] * len(samples)
    most = max(len(sample.answer) for sample in samples) + _SPARE
    for chosen in by_length(samples, _ROWS):
        own = [samples[i] for i in chosen]
        batch = collate(own, tokenizer.pad_token_id, model.device, [[]] * len(own))
        tokens = model.generate(
            **inputs(batch),
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        answers = tokenizer.batch_decode(tokens[:, batch.ids.shape[1] :], skip_special_tokens=True)
        for i, text in zip(chosen, answers, strict=True):
            texts[i] = text.strip()
    return texts


@torch.no_grad()
def _chosen(model: Any, samples: Sequence[Encoded], padding: int) -> list[bool]:
    right = []
    for sample in samples:
        count = len(sample.choices)
        batch = collate([sample] * count, padding, model.device, sample.choices)
        best = int(answer_losses(model, batch).sum(1).argmin())
        right.append(sample.sample.choices[best] == sample.sample.answer)
    return right


@torch.no_grad()
def text_loss(model: Any, tokens: Tensor) -> float:
    """Cross-entropy of running text (n,), nats a token, in windows that know nothing of another."""
    windows = [part for part in tokens.split(_WINDOW) if len(part) > 1]
    total = 0.0
    for window in windows:
        ids = window.unsqueeze(0).to(model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        total += F.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
    return total / sum(len(part) - 1 for part in windows) if windows else math.nan


def smoothed_error(right: Sequence[bool]) -> float:
    """The share of wrong answers, smoothed."""
    return smoothed(len(right) - sum(right), len(right))
