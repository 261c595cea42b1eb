"""Bad input: one sentence each, before the model is changed or anything is computed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from models import adapted, config, jolt, tiny, tokens
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from qlexp import UsageError
from qlexp.peft import QueryableLoraConfig


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"routing": "example"}, r"averages over the whole sequence.*name 'prefix'.*or 'token'"),
        ({"routing": "prefx"}, "Unknown routing 'prefx'. Did you mean 'prefix'"),
        ({"top_k": 7, "atoms": 6}, "top_k=7 exceeds the bank: it must be at most atoms=6"),
        ({"top_k": 1}, "top_k=1 gives the router no gradient"),
        ({"r": 0}, "r=0 is out of range: it must be at least 1"),
        ({"dropout": 1.0}, "dropout=1 is out of range"),
        ({"atoms": 1}, "atoms=1 is out of range"),
    ],
)
def test_a_config_that_makes_no_sense(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        QueryableLoraConfig(**changes)


LINEARS = "down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"target_modules": ["query", "value"]},
            rf"target_modules=\['query', 'value'\] matches no linear.*are called {LINEARS}\.",
        ),
        ({"target_modules": r".*\.qkv"}, rf"'\.\*\\\.qkv' matches no linear.*{LINEARS}\."),
        ({"target_modules": ["mlp"]}, r"matches model\.layers\.0\.mlp, which is a LlamaMLP and no"),
        (
            {"target_modules": ["q_proj", "lm_head"]},
            "lm_head, which is in no decoder layer",
        ),
        (
            {"r": 12},
            r"r=12 is larger than the linear model\.layers\.0\.self_attn\.k_proj allows: its shape "
            r"is \(8, 16\), so r must be at most 8\.",
        ),
        ({"block_size": 5}, "block_size=5 exceeds the depth: it must be at most adapted layers=4"),
        ({"layers_to_transform": [9]}, "matches no linear"),
    ],
)
def test_a_config_that_does_not_fit_the_model(changes: dict[str, Any], sentence: str) -> None:
    model = tiny()
    with pytest.raises(UsageError, match=sentence):
        get_peft_model(model, config(**changes))
    assert not any(isinstance(module, BaseTunerLayer) for module in model.modules())
    other = adapted()
    with pytest.raises(UsageError, match=sentence):
        other.add_adapter("second", config(**changes))
    assert list(other.peft_config) == list(other.base_model.queryable_bank) == ["default"]
    assert torch.equal(other(tokens()).logits, adapted()(tokens()).logits)


def test_two_stacks_of_layers() -> None:
    shape = {"vocab_size": 8, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 2, "num_heads": 2}
    model = T5ForConditionalGeneration(T5Config(**shape))
    with pytest.raises(UsageError, match=r"in decoder\.block, encoder\.block, and a route runs"):
        get_peft_model(model, config(task_type=None))


def test_weights_of_another_model_or_config(tmp_path: Path) -> None:
    adapted(dtype=torch.float32).save_pretrained(str(tmp_path))
    shape = tiny().config.to_dict()
    wide = LlamaForCausalLM(LlamaConfig(**(shape | {"hidden_size": 20, "head_dim": 4})))
    deep = LlamaForCausalLM(LlamaConfig(**(shape | {"num_hidden_layers": 5})))
    with pytest.raises(
        UsageError,
        match=r"another base model or config.*queryable_A\.weight \(wanted \(3, 20\), "
        r"found \(3, 16\)\).*and \d+ more\.",
    ):
        PeftModel.from_pretrained(wide, str(tmp_path))
    with pytest.raises(UsageError, match=r"layers\.4.*wanted \(3, 24\), found none\)"):
        PeftModel.from_pretrained(deep, str(tmp_path))
    with pytest.raises(UsageError, match=r"queryable_bank\.atoms \(wanted \(1, 8, 3, 3\), found"):
        PeftModel.from_pretrained(tiny(), str(tmp_path), config=config(atoms=8))


def test_pickled_weights(tmp_path: Path) -> None:
    adapted().save_pretrained(str(tmp_path), safe_serialization=False)
    with pytest.raises(UsageError, match=r"adapter_model\.bin is a pickle.*adapter_model\.safe"):
        PeftModel.from_pretrained(tiny(), str(tmp_path))
    with pytest.raises(UsageError, match="is a pickle"):
        adapted().load_adapter(str(tmp_path), "second")


def test_a_linear_that_sees_no_sequences() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])

        def forward(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
            h = inputs_embeds.flatten(0, 1)
            for layer in self.layers:
                h = layer(h)
            return h

    model = get_peft_model(Flat(), config(r=2, task_type=None))
    jolt(model)
    with pytest.raises(UsageError, match=r"wants hidden states \(examples, tokens, width\)"):
        model(inputs_embeds=torch.randn(2, 3, 4))


def test_a_mask_that_cannot_be_read() -> None:
    ids = tokens()
    with pytest.raises(UsageError, match=r"routing='prefix' reads from the attention mask"):
        adapted()(ids, attention_mask=torch.ones(2, 7, 7))


def test_qlexp_alone_imports_no_peft() -> None:
    code = (
        "import sys, qlexp, qlexp.adapters.queryable, qlexp.routing, qlexp.main; "
        "assert not {'peft', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
