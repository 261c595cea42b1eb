"""From Hydra's composed config to one that is ready to run: bad input ends here."""

from dataclasses import fields, replace
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qlexp import environment
from qlexp.config.messages import one_sentence
from qlexp.errors import UsageError
from qlexp.lm.methods import method_of, with_budget
from qlexp.lm.models import load_model, load_tokenizer
from qlexp.lm.schema import LmConfig, LmInstructionConfig
from qlexp.problem.encoders import embed
from qlexp.problem.instructions import require_text
from qlexp.store.store import check_study_name

_TYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@one_sentence()
def plan(composed: DictConfig) -> LmConfig:
    """The checked config of a run, its method sized to its budget.

    Raises:
        UsageError: something in it cannot work; nothing has been computed yet.
    """
    names = [item.name for item in fields(LmConfig)]
    whole: Any = OmegaConf.merge(
        OmegaConf.structured(LmConfig), OmegaConf.masked_copy(composed, names)
    )
    config = OmegaConf.to_object(whole)
    assert isinstance(config, LmConfig)
    config.method = method_of(config.method)
    check_study_name(config.study)
    environment.pick_device(config.device)
    return with_budget(_with_instruction(config), model_of(config)[0])


def _with_instruction(config: LmConfig) -> LmConfig:
    """`config` with the instruction that its method reads; without one where it reads none."""
    wanted = config.method.fields.get("instruction_dim")
    settings = config.instruction
    if wanted is None:
        return replace(config, instruction=LmInstructionConfig())
    require_text(config.method.name, wanted, settings)
    if settings.text == "column":
        for name, part in config.task.parts.items():
            if part.instruction is None:
                raise UsageError(
                    f"instruction.text=column wants a column of every task: set "
                    f"task.parts.{name}.instruction."
                )
    embed([""], settings.encoder, settings.folder, settings.dim)
    return config


_models: dict[tuple[str, str, str], tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}


def model_of(config: LmConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The frozen model and its tokenizer; the last one stays in memory for the next run."""
    key = (repr(config.model), config.precision, config.device)
    if key not in _models:
        _models.clear()
        model = load_model(config.model, _TYPES[config.precision])
        nn.Module.to(model, environment.pick_device(config.device))
        _models[key] = model, load_tokenizer(config.model)
    return _models[key]
