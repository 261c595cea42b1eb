"""Questions and answers as batches of tokens.

A prompt is padded on its left and an answer on its right, so that all answers of a batch begin at
one position: the network's head is asked for the answers alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from qlexp.errors import UsageError
from qlexp.lm.tasks import Sample


@dataclass(frozen=True)
class Encoded:
    """A sample as tokens; `answer` ends with the end of the turn.

    Attributes:
        text: what the router reads, encoded, (d_e,); None where it reads none.
        choices: the answers to choose from, as `answer`.
    """

    sample: Sample
    prompt: list[int]
    answer: list[int]
    choices: tuple[list[int], ...] = ()
    text: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """N questions: prompts (N, P) padded on the left, answers (N, A) padded on the right.

    Attributes:
        ids, mask: (N, P + A), 0 in `mask` where there is padding.
        answers: A; 0: prompts alone.
        text: (N, d_e), or None.
    """

    ids: Tensor
    mask: Tensor
    answers: int
    text: Tensor | None

    @property
    def labels(self) -> Tensor:
        """The tokens of the answers, (N, A)."""
        return self.ids[:, self.ids.shape[1] - self.answers :]

    @property
    def asked(self) -> Tensor:
        """Where `labels` are no padding, (N, A) of bool."""
        return self.mask[:, self.ids.shape[1] - self.answers :].bool()


def encode(
    samples: Sequence[Sample],
    tokenizer: PreTrainedTokenizerBase,
    longest: int,
    texts: Tensor | None = None,
) -> list[Encoded]:
    """Every sample as tokens.

    Args:
        longest: tokens that a prompt, and an answer, may have.
        texts: what the router reads, (n, d_e).

    Raises:
        UsageError: a prompt or an answer is longer.
    """
    found = []
    for index, sample in enumerate(samples):
        turns = [{"role": "user", "content": sample.prompt}]
        if sample.system is not None:
            turns.insert(0, {"role": "system", "content": sample.system})
        prompt = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=False, enable_thinking=False
        )
        own = Encoded(
            sample,
            tokenizer(prompt, add_special_tokens=False).input_ids,
            _answer(sample.answer, tokenizer),
            tuple(_answer(choice, tokenizer) for choice in sample.choices),
            None if texts is None else texts[index],
        )
        size = max(len(own.prompt), len(own.answer))
        if size > longest:
            raise UsageError(
                f"Task {sample.part} has a sample of {size} tokens and data.longest={longest}: "
                "raise it, or make the task's samples shorter."
            )
        found.append(own)
    return found


def _answer(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]


def collate(
    samples: Sequence[Encoded],
    padding: int,
    device: torch.device,
    answers: Sequence[list[int]] | None = None,
) -> Batch:
    """A batch of questions with their own answers, or with these; empty ones: prompts alone."""
    answers = [sample.answer for sample in samples] if answers is None else answers
    prompt, answer = max(len(s.prompt) for s in samples), max(map(len, answers))
    ids = torch.full((len(samples), prompt + answer), padding)
    mask = torch.zeros_like(ids)
    for row, (sample, own) in enumerate(zip(samples, answers, strict=True)):
        begin, end = prompt - len(sample.prompt), prompt + len(own)
        ids[row, begin:end] = torch.tensor([*sample.prompt, *own])
        mask[row, begin:end] = 1
    texts = [sample.text for sample in samples if sample.text is not None]
    return Batch(
        ids.to(device),
        mask.to(device),
        answer,
        torch.stack(texts).to(device, torch.float32) if texts else None,
    )


def by_length(samples: Sequence[Encoded], size: int) -> Iterator[list[int]]:
    """The indices of `samples` in batches of `size`, alike in length together."""
    order = sorted(range(len(samples)), key=lambda i: len(samples[i].prompt))
    for first in range(0, len(order), size):
        yield order[first : first + size]
