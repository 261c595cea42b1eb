"""The samples of a run as tokens, with the texts that its router reads, and neutral text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from qlexp.errors import UsageError
from qlexp.lm.schema import LmConfig, LmInstructionConfig
from qlexp.lm.tasks import SPLITS, Sample, splits
from qlexp.lm.tokens import Encoded, encode
from qlexp.problem.encoders import embed
from qlexp.problem.seeding import seed_stream


@dataclass(frozen=True)
class Data:
    """By split and part, the samples of a run.

    Attributes:
        untrained: the test samples of tasks that are not trained.
        neutral: tokens of running text, (n,).
    """

    train: dict[str, list[Encoded]]
    validation: dict[str, list[Encoded]]
    test: dict[str, list[Encoded]]
    untrained: dict[str, list[Encoded]]
    neutral: Tensor

    def without_texts(self) -> "Data":
        """The same for a model that reads none."""

        def plain(samples: dict[str, list[Encoded]]) -> dict[str, list[Encoded]]:
            return {name: [replace(one, text=None) for one in own] for name, own in samples.items()}

        return Data(
            plain(self.train),
            plain(self.validation),
            plain(self.test),
            plain(self.untrained),
            self.neutral,
        )


def prepare(config: LmConfig, tokenizer: PreTrainedTokenizerBase) -> Data:
    """All that the run asks the model.

    Raises:
        UsageError: a source is not to be had, or does not have what is wanted of it.
    """
    sizes = {split: getattr(config.data, split) for split in SPLITS}
    parts = {
        name: splits(name, part, sizes, config.seed) for name, part in config.task.parts.items()
    }
    kept = {
        name: splits(name, part, {"test": config.retention.samples}, config.seed)["test"]
        for name, part in config.retention.parts.items()
        if name not in parts
    }

    def encoded(samples: dict[str, list[Sample]], split: str) -> dict[str, list[Encoded]]:
        every = [sample for own in samples.values() for sample in own]
        texts = _texts(config.instruction, every, seed_stream("lm texts", config.seed, split))
        tokens = iter(encode(every, tokenizer, config.data.longest, texts))
        return {name: [next(tokens) for _ in own] for name, own in samples.items()}

    by_split = {
        split: encoded({name: own[split] for name, own in parts.items()}, split) for split in SPLITS
    }
    return Data(
        **by_split, untrained=encoded(kept, "untrained"), neutral=_neutral(config, tokenizer)
    )


def _texts(settings: LmInstructionConfig, samples: Sequence[Sample], seed: int) -> Tensor | None:
    """e(z) of every sample, (n, d_e); None where the method reads none."""
    if settings.encoder == "none" or not samples:
        return None
    told = [_text(settings.text, sample) for sample in samples]
    if settings.control == "empty":
        told = [""] * len(told)
    if settings.control == "shuffled":
        order = torch.randperm(len(told), generator=torch.Generator().manual_seed(seed))
        told = [told[i] for i in order.tolist()]
    return torch.from_numpy(embed(told, settings.encoder, settings.folder, settings.dim))


def _text(kind: str, sample: Sample) -> str:
    if kind == "user":
        return sample.prompt
    return sample.system or "" if kind == "system" else sample.instruction


def _neutral(config: LmConfig, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """The first tokens of the neutral text: Verne's "In the Year 2889", which reasoning_gym brings,
    where no file is named."""
    path = config.retention.text
    try:
        if path is None:
            text = files("reasoning_gym").joinpath("data/in_the_year_2889.txt").read_text("utf-8")
        else:
            text = Path(path).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError, ModuleNotFoundError) as error:
        raise UsageError(f"retention.text={path} could not be read ({error}).") from error
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return torch.tensor(ids[: config.retention.tokens], dtype=torch.long)
