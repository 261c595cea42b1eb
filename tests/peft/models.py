"""Tiny random causal models, one for each family that the adapter is tried on."""

import torch
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

VOCABULARY, PADDING = 48, 0

COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": PADDING,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.3,
}

FAMILIES = ("llama", "qwen3", "granite", "lfm2")


def tiny(family: str = "llama", seed: int = 0, **changes: object) -> PreTrainedModel:
    """A random model in evaluation mode."""
    fields = COMMON | changes
    torch.manual_seed(seed)
    if family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**fields))
    elif family == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**fields, head_dim=4))
    elif family == "granite":
        model = GraniteForCausalLM(GraniteConfig(**fields))
    else:
        kinds = ["conv", "full_attention"] * (int(str(fields["num_hidden_layers"])) // 2)
        config = Lfm2Config(**fields, layer_types=kinds, block_multiple_of=8)
        model = Lfm2ForCausalLM(config)
    return model.eval()
