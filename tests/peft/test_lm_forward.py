"""The forward pass: identity at the start, causality, padding, embeddings, precision, compiling."""

import copy

import pytest
import torch
from models import CLOSE, FAMILIES, ROUTINGS, adapted, config, padded, tiny, tokens
from peft import get_peft_model
from torch.testing import assert_close

both_routings = pytest.mark.parametrize("routing", ROUTINGS)
each_family = pytest.mark.parametrize("family", FAMILIES)


@each_family
@both_routings
def test_the_adapted_model_begins_as_the_model(family: str, routing: str) -> None:
    model, ids = tiny(family), tokens()
    before = model(ids).logits
    assert torch.equal(get_peft_model(model, config(routing=routing))(ids).logits, before)


@each_family
@both_routings
def test_later_tokens_change_no_earlier_logits(family: str, routing: str) -> None:
    model, ids = adapted(family, routing=routing), tokens()
    other = ids.clone()
    other[:, 4:] = tokens(seed=3)[:, 4:]
    logits, changed = model(ids).logits, model(other).logits
    assert_close(changed[:, :4], logits[:, :4], **CLOSE)
    assert not torch.allclose(changed[:, 4:], logits[:, 4:])


def test_a_prefix_is_remembered_beyond_attention() -> None:
    """With the same hidden state, `token` has the same route, `prefix` one of all tokens so far."""
    ids = tokens(1)
    routes = {}
    for routing in ROUTINGS:
        model = adapted(routing=routing, block_size=4)
        seen = []
        carrier = model.base_model.carrier
        last = model.base_model.model.model.layers[0].self_attn.q_proj
        last.register_forward_hook(lambda *_, s=seen, c=carrier: s.append(c.route.weights[-1]))
        model(ids)
        model(torch.cat([tokens(1, 3, seed=5), ids], dim=1))
        routes[routing] = seen
    assert_close(routes["token"][1][:, :, 3:], routes["token"][0])
    assert not torch.allclose(routes["prefix"][1][:, :, 3:], routes["prefix"][0])


@each_family
@both_routings
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(family: str, routing: str, side: str) -> None:
    model = adapted(family, routing=routing)
    ids, mask = padded(side)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    logits = model(ids, attention_mask=mask, position_ids=positions).logits
    for row, kept in enumerate(mask.bool()):
        alone = model(ids[row : row + 1, kept]).logits[0]
        assert_close(logits[row, kept], alone, **CLOSE)


@both_routings
def test_masks_of_four_axes_say_the_same(routing: str) -> None:
    model = adapted(routing=routing)
    ids, mask = padded("left")
    causal = torch.ones(8, 8, dtype=torch.bool).tril() & mask.bool()[:, None, None]
    added = torch.zeros(causal.shape, dtype=torch.float64).masked_fill(~causal, -1e30)
    logits = model(ids, attention_mask=mask).logits[mask.bool()]
    for form in (causal, added):
        assert_close(model(ids, attention_mask=form).logits[mask.bool()], logits, **CLOSE)


@both_routings
def test_embeddings_stand_for_tokens(routing: str) -> None:
    model, ids = adapted(routing=routing), tokens()
    embedded = model.get_input_embeddings()(ids)
    assert torch.equal(model(inputs_embeds=embedded).logits, model(ids).logits)


@pytest.mark.parametrize("autocast_adapter_dtype", [True, False])
@both_routings
def test_bfloat16(routing: str, autocast_adapter_dtype: bool) -> None:
    """The route is computed in float32 all the same."""
    model = get_peft_model(
        tiny(dtype=torch.bfloat16),
        config(routing=routing),
        autocast_adapter_dtype=autocast_adapter_dtype,
    )
    kind = torch.float32 if autocast_adapter_dtype else torch.bfloat16
    first = model.base_model.model.model.layers[0].self_attn.q_proj
    assert first.queryable_A["default"].weight.dtype == kind
    assert {one.dtype for one in model.base_model.queryable_bank.parameters()} == {torch.float32}
    ids = tokens()
    loss = model(ids, labels=ids).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert first.queryable_B["default"].weight.grad.isfinite().all()


@both_routings
def test_autocast_rounds_no_route(routing: str) -> None:
    model, ids = adapted(dtype=torch.float32, routing=routing), tokens()
    kinds = set()
    carrier = model.base_model.carrier
    for layer in model.base_model.model.model.layers:
        layer.register_forward_hook(
            lambda *_: kinds.update(one.dtype for one in carrier.route.tensors())
        )
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids, labels=ids).loss
    assert kinds == {torch.float32}
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("family", "routing"), [("llama", "prefix"), ("llama", "token"), ("lfm2", "prefix")]
)
def test_compiled_without_a_break(family: str, routing: str) -> None:
    model, ids = adapted(family, routing=routing), tokens()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    expected, found = model(ids, labels=ids), compiled(ids, labels=ids, use_cache=False)
    assert_close(found.logits, expected.logits, **CLOSE)
    expected.loss.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    found.loss.backward()
    for name, parameter in model.named_parameters():
        if name in wanted:
            assert_close(parameter.grad, wanted[name], **CLOSE)


@pytest.mark.parametrize("reentrant", [True, False])
@each_family
@both_routings
def test_checkpointing_changes_no_gradient(family: str, routing: str, reentrant: bool) -> None:
    ids, mask = padded("right")
    labels = ids.masked_fill(mask == 0, -100)

    def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        model.train()
        loss = model(ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    plain = adapted(family, routing=routing, block_size=3)
    checkpointed = copy.deepcopy(plain)
    checkpointed.enable_input_require_grads()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
    wanted, found = gradients(plain), gradients(checkpointed)
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        assert_close(found[name], gradient, **CLOSE)
    checkpointed.gradient_checkpointing_disable()
    checkpointed.zero_grad()
    for name, gradient in gradients(checkpointed).items():
        assert_close(gradient, wanted[name], **CLOSE)


def test_a_copy_is_a_model_of_its_own() -> None:
    model, ids = adapted(), tokens()
    twin, logits = copy.deepcopy(model), model(ids).logits
    twin.base_model.queryable_bank["default"].atoms.data.zero_()
    assert not torch.allclose(twin(ids).logits, logits)
    assert torch.equal(model(ids).logits, logits)
