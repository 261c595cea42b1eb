"""The paper's equations and identities through the peft path, in float64."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from models import CLOSE, FAMILIES, ROUTINGS, adapted, config, jolt, padded, tiny, tokens
from oracle import Seen, expected
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.testing import assert_close

from qlexp import routing as mathematics
from qlexp.adapters.queryable import QueryableConfig, QueryableLinear, Router, Routing
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear
from qlexp.peft import QueryableLoraLinear

WIDTH, DEPTH = 6, 5
both_routings = pytest.mark.parametrize("routing", ROUTINGS)
each_family = pytest.mark.parametrize("family", FAMILIES)


def linears(model: nn.Module) -> list[QueryableLoraLinear]:
    return [one for one in model.modules() if isinstance(one, QueryableLoraLinear)]


@contextmanager
def watching(model: PeftModel) -> Iterator[list[Seen]]:
    """What every adapted linear sees, in the order in which they run."""
    seen: list[Seen] = []

    def note(linear: QueryableLoraLinear, args: tuple[Tensor], y: Tensor) -> None:
        tensors = {
            "x": args[0],
            "y": y,
            "frozen": linear.base_layer(args[0]),
            "A": linear.queryable_A["default"].weight,
            "B": linear.queryable_B["default"].weight,
        }
        gate = float(linear.queryable_gate["default"])
        arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
        seen.append(Seen(linear.layers["default"], **arrays, gate=gate, scale=16 / 3))

    handles = [one.register_forward_hook(note) for one in linears(model)]
    yield seen
    for handle in handles:
        handle.remove()


def bank_of(router: Router) -> dict[str, np.ndarray]:
    return {name: one.detach()[0].numpy() for name, one in router.named_parameters()}


@each_family
@both_routings
@pytest.mark.parametrize("block_size", [1, 3])
def test_every_linear_does_what_the_equations_say(
    family: str, routing: str, block_size: int
) -> None:
    model = adapted(family, routing=routing, block_size=block_size)
    ids, mask = padded("left", 6)
    kept = mask.bool().numpy()
    with watching(model) as seen:
        model(ids, attention_mask=mask)
    bank = bank_of(model.base_model.queryable_bank["default"])
    wanted = expected(seen, bank, block_size, 2, kept if routing == "prefix" else None)
    for one, y in zip(seen, wanted, strict=True):
        np.testing.assert_allclose(one.y[kept], y[kept], atol=1e-10, rtol=0)


class Stack(nn.Module):
    """A tiny network of residual layers with two linears each."""

    def __init__(self, base: list[tuple[LaneLinear, LaneLinear]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for first, second in base:
            pair = {"first": nn.Linear(WIDTH, 8), "second": nn.Linear(8, WIDTH)}
            for linear, source in zip(pair.values(), (first, second), strict=True):
                linear.weight.data, linear.bias.data = source.weight.data[0], source.bias.data[0]
            self.layers.append(nn.ModuleDict(pair))

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        h = inputs_embeds
        for layer in self.layers:
            h = h + layer["second"](layer["first"](h).tanh())
        return h


def networks(routing: str, **changes: object) -> tuple[list[nn.ModuleList], Router, PeftModel]:
    """The same adapted network as lanes (of one lane) and as a peft model."""
    draw = Draw([4], torch.float64)
    base = [(LaneLinear(8, WIDTH, draw), LaneLinear(WIDTH, 8, draw)) for _ in range(DEPTH)]
    model = get_peft_model(Stack(base), config(routing=routing, task_type=None, **changes))
    jolt(model)
    router = model.base_model.queryable_bank["default"]
    fields = QueryableConfig(rank=3, alpha=16.0, atoms=6, key_dim=5, top_k=2)
    lanes, mine = [], iter(linears(model))
    for index, pair in enumerate(base):
        layer = nn.ModuleList()
        for place, linear in enumerate(pair):
            lane = QueryableLinear(linear, fields, draw, None if place else index)
            one = next(mine)
            lane.A.data = one.queryable_A["default"].weight.data[None]
            lane.B.data = one.queryable_B["default"].weight.data[None]
            lane.gate.data = one.queryable_gate["default"].data[None]
            layer.append(lane)
        lanes.append(layer)
    return lanes, router, model


def run(lanes: list[nn.ModuleList], router: Router, h: Tensor) -> tuple[Tensor, Routing]:
    h, context = h[None], Routing(router=router)
    for first, second in lanes:
        up, context = first(h, context)
        down, context = second(up.tanh(), context)
        h = h + down
    return h[0], context


def test_token_is_the_synthetic_adapter() -> None:
    lanes, router, model = networks("token")
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    wanted, context = run(lanes, router, x)
    with watching(model) as seen:
        found = model(inputs_embeds=x)
    assert_close(found, wanted, rtol=0, atol=1e-13)
    routes = model.routes(inputs_embeds=x)
    assert_close(routes, torch.stack(context.weights, dim=-2)[0], rtol=0, atol=1e-13)
    for one, y in zip(seen, expected(seen, bank_of(router), 2, 2), strict=True):
        np.testing.assert_allclose(one.y, y, atol=1e-12, rtol=0)


def test_prefix_at_the_last_token_routes_as_the_synthetic_adapter_does_the_example() -> None:
    """Where hidden states are the same, with B = 0: the mean so far is then the whole mean."""
    lanes, router, model = networks("prefix")
    for one in linears(model):
        one.queryable_B["default"].weight.data.zero_()
    for layer in lanes:
        for lane in layer:
            lane.B.data.zero_()
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    prefix = model.routes(inputs_embeds=x)
    router.config.routing = "example"
    _, context = run(lanes, router, x)
    assert_close(prefix[:, -1], torch.stack(context.weights, dim=-2)[0], rtol=0, atol=1e-13)


@each_family
@both_routings
def test_without_gates_it_is_lora(family: str, routing: str) -> None:
    """g = 0: LoRA's outputs, and LoRA's gradients of A and B."""
    model, ids = adapted(family, routing=routing), tokens()
    lora = LoraConfig(r=3, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    twin = get_peft_model(tiny(family), lora)
    theirs = dict(twin.named_modules())
    for name, one in model.named_modules():
        if isinstance(one, QueryableLoraLinear):
            one.queryable_gate["default"].data.zero_()
            theirs[name].lora_A["default"].weight.data = one.queryable_A["default"].weight.data
            theirs[name].lora_B["default"].weight.data = one.queryable_B["default"].weight.data
    mine, wanted = model(ids, labels=ids), twin(ids, labels=ids)
    assert_close(mine.logits, wanted.logits, **CLOSE)
    mine.loss.backward()
    wanted.loss.backward()
    for name, one in model.named_modules():
        if isinstance(one, QueryableLoraLinear):
            for part in "AB":
                gradient = getattr(theirs[name], f"lora_{part}")["default"].weight.grad
                own = getattr(one, f"queryable_{part}")["default"].weight.grad
                assert_close(own, gradient, **CLOSE)


@both_routings
def test_no_token_is_changed_beyond_the_bound(routing: str) -> None:
    """‖dW‖ <= s ‖B‖ (1 + |g| max ‖M_m‖) ‖A‖ and ‖R‖ <= max ‖M_m‖, for every token."""
    model, ids = adapted(routing=routing), tokens(3, 8)
    with watching(model) as seen:
        routes = model.routes(ids)
    atoms = model.base_model.queryable_bank["default"].atoms.detach()
    most = float(torch.linalg.matrix_norm(atoms, 2).max())
    R = torch.einsum("ntbk,krs->ntbrs", routes, atoms[0])
    assert float(torch.linalg.matrix_norm(R, 2).max()) <= most + 1e-12
    for one in seen:
        change = np.linalg.norm(one.y - one.frozen, axis=-1)
        norms = np.linalg.norm(one.B, 2) * (1 + abs(one.gate) * most) * np.linalg.norm(one.A, 2)
        assert (change <= one.scale * norms * np.linalg.norm(one.x, axis=-1) + 1e-12).all()


@both_routings
def test_routes_do_not_depend_on_later_blocks(routing: str) -> None:
    model, ids = adapted(routing=routing, block_size=1), tokens()
    before = model.routes(ids)
    for one in linears(model):
        if one.layers["default"] == 2:
            one.queryable_A["default"].weight.data.mul_(-2.0)
    after = model.routes(ids)
    assert torch.equal(after[:, :, :2], before[:, :, :2])
    assert not torch.allclose(after[:, :, 2:], before[:, :, 2:])


@both_routings
def test_atoms_have_no_order(routing: str) -> None:
    model, ids = adapted(routing=routing), tokens()
    logits, routes = model(ids).logits, model.routes(ids)
    bank, order = model.base_model.queryable_bank["default"], torch.tensor([3, 0, 5, 1, 4, 2])
    bank.keys.data, bank.atoms.data = bank.keys.data[:, order], bank.atoms.data[:, order]
    assert_close(model(ids).logits, logits, **CLOSE)
    assert_close(model.routes(ids), routes[..., order], **CLOSE)


@pytest.mark.parametrize("top_k", [2, 3, 6])
@both_routings
def test_weights_are_sparse_and_convex(routing: str, top_k: int) -> None:
    routes = adapted(routing=routing, top_k=top_k).routes(tokens(3, 8))
    assert routes.shape == (3, 8, 2, 6)
    assert (routes >= 0).all()
    assert ((routes > 0).sum(-1) == top_k).all()
    assert_close(routes.sum(-1), torch.ones(3, 8, 2, dtype=torch.float64))


@both_routings
def test_gradients_are_those_of_differences(routing: str) -> None:
    """Along random directions; away from ties of the top k. (transformers rounds to float32.)"""
    _, _, model = networks(routing)
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    parameters = [one for one in model.parameters() if one.requires_grad]

    def loss() -> Tensor:
        return model(inputs_embeds=x).sin().sum()

    loss().backward()
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        ways = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        slope = sum((p.grad * way).sum() for p, way in zip(parameters, ways, strict=True))
        losses = []
        with torch.no_grad():
            for step in (1e-6, -2e-6, 1e-6):
                for p, way in zip(parameters, ways, strict=True):
                    p.add_(way, alpha=step)
                losses.append(loss())
        assert_close((losses[0] - losses[1]) / 2e-6, slope, rtol=1e-6, atol=1e-7)


def test_one_token_at_a_time_is_routed_by_its_operator() -> None:
    """A step of generation forms R once a block; with more tokens it is never formed."""
    weights = torch.rand(1, 3, 1, 6, dtype=torch.float64)
    atoms = torch.randn(1, 6, 3, 3, dtype=torch.float64)
    low = torch.randn(1, 3, 1, 3, dtype=torch.float64)
    R = mathematics.operator(weights.squeeze(2), atoms)
    assert_close(
        mathematics.apply_operator(R, low), mathematics.apply_atoms(weights, atoms, low), **CLOSE
    )
