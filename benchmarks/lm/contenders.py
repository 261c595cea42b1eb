"""The adapted models that are timed: methods of peft's on one frozen model, at one rank."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks.contenders import JOLT, REFERENCE
from qlexp.peft import QueryableLoraConfig

PREFIX = "queryable"  # routed by the mean over the tokens so far
INSTRUCTION = 16  # d_e of an encoded text


def configs(rank: int) -> dict[str, PeftConfig]:
    """Every method by name, on all linears of the decoder layers, with alpha = 2 rank."""
    lora: dict[str, Any] = {"r": rank, "lora_alpha": 2 * rank, "target_modules": "all-linear"}
    queryable: dict[str, Any] = {"r": rank, "alpha": 2.0 * rank}
    return {
        REFERENCE: LoraConfig(**lora),
        "dora": LoraConfig(**lora, use_dora=True),
        PREFIX: QueryableLoraConfig(**queryable),
        f"{PREFIX}, token": QueryableLoraConfig(**queryable, routing="token"),
        "instruction_queryable": QueryableLoraConfig(**queryable, instruction_dim=INSTRUCTION),
    }


@dataclass(frozen=True)
class Contender:
    """A model under an adapter as training might leave it: every trained weight is moved."""

    model: nn.Module
    instruction_dim: int | None

    @classmethod
    def of(cls, base: PreTrainedModel, config: PeftConfig) -> "Contender":
        """The frozen weights are those of `base` themselves, and no copies."""
        shared = {id(parameter): parameter for parameter in base.parameters()}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = get_peft_model(copy.deepcopy(base, shared), config)
            for parameter in trainable(model):
                parameter.data += JOLT * torch.randn_like(parameter)
        return cls(model, getattr(config, "instruction_dim", None))

    def extra(self, rows: int) -> Mapping[str, Tensor]:
        """What the model reads beside tokens: e(z) of each row, where the method reads one."""
        if self.instruction_dim is None:
            return {}
        generator = torch.Generator().manual_seed(0)
        return {"instruction": torch.randn(rows, self.instruction_dim, generator=generator)}


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def tokens(base: PreTrainedModel, rows: int, length: int) -> Tensor:
    """(rows, length) of tokens at random; what they say changes no time."""
    generator = torch.Generator().manual_seed(0)
    vocabulary: Any = base.config.vocab_size
    return torch.randint(vocabulary, (rows, length), generator=generator)
