"""Queryable LoRA for language models: a peft method for transformers' causal models.

Importing it registers the method with peft, so that `peft.get_peft_model(model,
QueryableLoraConfig(...))` and `PeftModel.from_pretrained(model, folder)` know it. Wants the extra
`lm` (`pip install qlexp[lm]`).
"""

from typing import Any

from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)

from qlexp.peft.config import QueryableLoraConfig, QueryableType
from qlexp.peft.layer import QueryableLoraLinear
from qlexp.peft.model import QueryableLoraModel

__all__ = ["QueryableLoraConfig", "QueryableLoraLinear", "QueryableLoraModel"]


def register() -> None:
    """What peft's `register_peft_method` does, which takes names of its own `PeftType` alone."""
    kind: Any = QueryableType.QUERYABLE_LORA
    PEFT_TYPE_TO_CONFIG_MAPPING[kind] = QueryableLoraConfig
    PEFT_TYPE_TO_TUNER_MAPPING[kind] = QueryableLoraModel
    PEFT_TYPE_TO_PREFIX_MAPPING[kind] = QueryableLoraModel.prefix


register()
