"""Adapters on a tiny language model: what is timed, what a step holds, and the tables of it."""

from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.lm import tables
from benchmarks.lm.__main__ import measure
from benchmarks.lm.contenders import PREFIX, Contender, configs, tokens, trainable
from benchmarks.lm.memory import StepBytes, step_bytes
from benchmarks.lm.work import INFERENCE, STEP, decoding, prefill, training_step
from qlexp.lm.models import load_model
from qlexp.lm.schema import RANDOM, ModelConfig

RANK = 2
SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
}
each_method = pytest.mark.parametrize("method", configs(RANK))


@pytest.fixture(scope="module")
def base() -> PreTrainedModel:
    return load_model(ModelConfig(name="tiny", source=RANDOM, shape=SHAPE), torch.float32)


def contender(base: PreTrainedModel, method: str) -> Contender:
    return Contender.of(base, configs(RANK)[method])


def weights(one: Contender) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in one.model.named_parameters()}


@each_method
def test_a_step_moves_the_adapter_and_all_share_the_frozen_weights(
    base: PreTrainedModel, method: str
) -> None:
    one = contender(base, method)
    shared = {p.data_ptr() for p in base.parameters()}
    frozen = [p for p in one.model.parameters() if not p.requires_grad]
    assert {p.data_ptr() for p in frozen} == shared
    before, step = weights(one), training_step(one, tokens(base, 3, 5))
    step()
    after = dict(one.model.named_parameters())
    moved = {name for name, old in before.items() if not torch.equal(old, after[name])}
    assert moved == {name for name, p in after.items() if p.requires_grad}


@each_method
def test_a_decoded_token_is_taken_back(base: PreTrainedModel, method: str) -> None:
    """Each call finds the cache as it was."""
    one, ids = contender(base, method), tokens(base, 3, 5)
    assert prefill(one, ids)().get_seq_length() == 5
    call, seen = decoding(one, ids), []

    def note(_: object, args: object, inputs: dict[str, Any]) -> None:
        seen.append((inputs["past_key_values"].get_seq_length(), inputs["input_ids"].shape))

    one.model.get_base_model().register_forward_pre_hook(note, with_kwargs=True)
    call()
    call()
    assert seen == [(5, (3, 1))] * 2


@each_method
def test_a_step_holds_what_is_counted(base: PreTrainedModel, method: str) -> None:
    one, ids = contender(base, method), tokens(base, 3, 5)
    held = step_bytes(one, ids)
    adapter = sum(p.nbytes for p in trainable(one.model))
    assert held.optimizer == 3 * adapter
    assert held.weights >= adapter + sum(p.nbytes for p in base.parameters())
    saved = step_bytes(one, tokens(base, 6, 5)).saved
    assert held.saved < saved <= 2 * held.saved  # what a batch saves grows with it
    assert held == step_bytes(one, ids)


def test_tables_say_ratios_and_limits() -> None:
    methods = [*configs(RANK)]
    seconds = pd.DataFrame({name: [0.001 * (i + 1)] * 7 for i, name in enumerate(methods)})
    rounds = {work.name: seconds for work in (STEP, *INFERENCE)}
    held = {name: StepBytes(10**8, 0, (i + 1) * 10**7) for i, name in enumerate(methods)}
    one = tables.Measured("float32", dict.fromkeys(methods, 1234), held, rounds)
    training, inference = tables.shown([one], "A setting.").grids["lm"]
    (rows,) = (part.rows for part in training.sections)
    texts = {name.text: [cell.text for cell in cells] for name, *cells in rows}
    place = methods.index(PREFIX) + 1
    ratio = f"{place}.00 ({place}.00 to {place}.00)"
    assert texts[PREFIX] == ["1,234", f"{place}.0", ratio, "130", "30", "1.182"]
    assert f"memory, {PREFIX} / lora (float32): 1.182, at most 1.05 wanted." in training.notes
    assert (
        f"training step, 8 x 64 tokens, {PREFIX} / lora (float32): {ratio}, at most 1.2 wanted."
        in training.notes
    )
    assert len([note for note in inference.notes if "at most 1.3 wanted" in note]) == 2
    assert all(len(row) == len(inference.headers) for row in inference.sections[0].rows)


def test_every_piece_of_work_is_timed(
    base: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.timing.TURN", 0.0)
    measured = measure(base, "float32", RANK, repeats=1)
    assert list(measured.rounds) == [work.name for work in (STEP, *INFERENCE)]
    for seconds in measured.rounds.values():
        assert list(seconds) == list(configs(RANK))
        assert (seconds > 0).all(axis=None)
