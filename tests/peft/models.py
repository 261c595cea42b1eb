"""Tiny random causal models, one for each family that the adapter is tried on."""

from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    GraniteConfig,
    GraniteForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from qlexp.peft import QueryableLoraConfig

FAMILIES = ("llama", "qwen3", "granite", "lfm2")
ROUTINGS = ("prefix", "token")
VOCABULARY, PADDING, LAYERS = 48, 0, 4
CLOSE = {"rtol": 0.0, "atol": 1e-9}  # in float64

COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": PADDING,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.3,
}


def tiny(family: str = "llama", dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """A random model in evaluation mode, the same each time."""
    torch.manual_seed(0)
    model: PreTrainedModel
    if family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**COMMON))
    elif family == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**COMMON, head_dim=4))
    elif family == "granite":
        model = GraniteForCausalLM(GraniteConfig(**COMMON))
    else:
        kinds = ["conv", "full_attention"] * (LAYERS // 2)
        model = Lfm2ForCausalLM(Lfm2Config(**COMMON, layer_types=kinds, block_multiple_of=8))
    return model.to(dtype).eval()


def config(**changes: Any) -> QueryableLoraConfig:
    """A config whose sizes are all different."""
    fields = {"r": 3, "atoms": 6, "key_dim": 5, "top_k": 2, "task_type": "CAUSAL_LM"}
    return QueryableLoraConfig(**(fields | changes))


def jolt(model: nn.Module, seed: int = 1) -> None:
    """Every B and gate random, as after training."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "queryable_B" in name or "queryable_gate" in name:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data += 0.3 * noise.to(parameter)


def adapted(family: str = "llama", dtype: torch.dtype = torch.float64, **changes: Any) -> PeftModel:
    """A tiny model under an adapter as after training, in evaluation mode."""
    model = get_peft_model(tiny(family, dtype), config(**changes))
    jolt(model)
    return model.eval()


def tokens(n: int = 2, length: int = 7, seed: int = 2) -> Tensor:
    """(n, length) of tokens, none of them padding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, VOCABULARY, (n, length), generator=generator)


def padded(side: str, length: int = 8) -> tuple[Tensor, Tensor]:
    """Tokens of three sequences of different lengths, and their attention mask."""
    ids = tokens(3, length)
    mask = torch.ones_like(ids)
    for row, missing in enumerate((0, 3, 5)):
        where = slice(0, missing) if side == "left" else slice(length - missing, length)
        ids[row, where], mask[row, where] = PADDING, 0
    return ids, mask
