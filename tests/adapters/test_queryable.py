"""Queryable LoRA against its formulas, written out example by example, and its identities."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from build import F64, TINY, jolt, network, points
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from queryable_example import Example
from simplex import sparse_minimiser
from torch import Tensor

from qlexp import routing
from qlexp.adapters.base import ALL_LINEARS, LowRankConfig, count_trainable
from qlexp.adapters.lora import LoRA
from qlexp.adapters.queryable import Queryable, QueryableConfig, QueryableLinear, Router, Routing
from qlexp.config.schema import BackboneConfig
from qlexp.errors import UsageError
from qlexp.model.initial import Draw

SEEDS = (11, 12)
SHALLOW = BackboneConfig(depth=3, width=8, heads=2, mlp_ratio=2, frequencies=2)
ROUTER = {"keys", "atoms", "priors", "U", "S", "V"}


def model_of(depth: int = 4, seed: int = 0, **fields: Any) -> Queryable:
    """Queryable LoRA in two lanes, every trainable tensor random."""
    seeds = [seed + lane for lane in SEEDS]
    shape, config = replace(SHALLOW, depth=depth), QueryableConfig(**{"rank": 3, **fields})
    config.check(shape)
    model = Queryable(network(seeds, shape), config, Draw(seeds, F64))
    jolt(model, seeds, std=0.4)
    return model


@st.composite
def models(draw: st.DrawFn, shortest: int = 1, **fixed: Any) -> Queryable:
    """Any shape that the config allows, with the fields that are `fixed`."""
    depth, block_size = draw(st.integers(shortest, 5)), draw(st.integers(1, 5))
    block_size = min(block_size, depth)
    bank = fixed.get("bank") or draw(st.sampled_from(["network", "block"]))
    own = draw(st.integers(2, 6))
    atoms = own * -(-depth // block_size) if bank == "block" else own
    targets = draw(st.sets(st.sampled_from(ALL_LINEARS), min_size=1))
    fields = {
        "targets": sorted(targets),
        "rank": draw(st.integers(1, 4)),
        "atoms": atoms,
        "key_dim": draw(st.none() | st.integers(1, 5)),
        "top_k": draw(st.integers(2, own)),
        "block_size": block_size,
        "bank": bank,
        "state_norm": draw(st.booleans()),
        "gated": draw(st.booleans()),
        "depth_summary": draw(st.booleans()),
        "routing": draw(st.sampled_from(["example", "token", "static"])),
    }
    return model_of(depth, draw(st.integers(0, 10**6)), **{**fields, **fixed})


def property_test(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


def linears(model: Queryable) -> list[QueryableLinear]:
    return [module for module in model.modules() if isinstance(module, QueryableLinear)]


def operators(model: Queryable, x: Tensor) -> Tensor:
    """R of every block and route, (L, N, routes, N_b, rank, rank)."""
    routes = model.routes(x)
    if routes.ndim == 4:  # one route per example
        routes = routes.unsqueeze(2)
    return torch.einsum("lntbk,lkij->lntbij", routes, model.router.atoms)


def norms(matrices: Tensor) -> Tensor:
    """Spectral norms of (..., m, n)."""
    return torch.linalg.matrix_norm(matrices, ord=2)


@property_test(15)
@given(models())
@torch.no_grad()
def test_it_is_its_formulas(model: Queryable) -> None:
    x = points(SEEDS, 3)
    predictions, routes, tokens = model(x), model.routes(x), model.backbone.tokens(x)
    for lane in range(len(SEEDS)):
        for n in range(3):
            example = Example(model, lane)
            y = example.predict(tokens[lane, n])
            torch.testing.assert_close(predictions[lane, n], y[0], rtol=0, atol=1e-10)
            expected = torch.stack(example.weights, dim=1)  # (routes, N_b, K)
            found = routes[lane, n].reshape(expected.shape)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@property_test(15)
@given(models(gated=True))
def test_without_gates_it_is_lora(model: Queryable) -> None:
    seeds, config = [0, 0], model.config
    plain = LoRA(
        network(seeds, model.backbone.config),
        LowRankConfig(targets=config.targets, rank=config.rank, alpha=config.alpha),
        Draw(seeds, F64),
    )
    for linear in linears(model):
        linear.gate.data.zero_()
    stored = dict(model.named_parameters())
    for name, parameter in plain.named_parameters():
        parameter.data.copy_(stored[name])

    x = points(SEEDS)
    y, expected = model(x), plain(x)
    assert torch.equal(y, expected)
    factors = plain.trainable()
    found = torch.autograd.grad(y.square().sum(), [model.trainable()[name] for name in factors])
    wanted = torch.autograd.grad(expected.square().sum(), list(factors.values()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@property_test(20)
@given(models())
@torch.no_grad()
def test_the_change_is_bounded_for_every_input(model: Queryable) -> None:
    R = operators(model, 10 * points(SEEDS))
    largest = norms(model.router.atoms).amax(1)  # (L,)
    assert (norms(R) <= largest[:, None, None, None] * (1 + 1e-12)).all()
    eye = torch.eye(model.config.rank, dtype=F64)
    for linear in linears(model):
        A, B = linear.A, linear.B
        gate = torch.ones(len(SEEDS), dtype=F64) if linear.gate is None else linear.gate
        inner = eye + gate.view(-1, *[1] * 5) * R
        change = model.config.scale * B[:, None, None, None] @ inner @ A[:, None, None, None]
        bound = model.config.scale * norms(B) * (1 + gate.abs() * largest) * norms(A)
        assert (norms(change) <= bound[:, None, None, None] * (1 + 1e-12)).all()


@property_test(20)
@given(models())
@torch.no_grad()
def test_weights_are_sparse_and_convex(model: Queryable) -> None:
    weights = model.routes(10 * points(SEEDS))
    blocks, atoms = model.config.blocks(model.backbone.config.depth), model.config.atoms
    routes = (2,) if model.config.routing == "token" else ()
    assert weights.shape == (len(SEEDS), 6, *routes, blocks, atoms)
    assert (weights >= 0).all()
    assert (weights.ne(0).sum(-1) <= model.config.top_k).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1], dtype=F64))


@property_test(15)
@given(models(bank="network"), st.randoms(use_true_random=False))
@torch.no_grad()
def test_the_order_of_the_atoms_does_not_matter(model: Queryable, random: Any) -> None:
    x = points(SEEDS)
    y, routes = model(x), model.routes(x)
    order = random.sample(range(model.config.atoms), model.config.atoms)
    model.router.keys.data = model.router.keys[:, order]
    model.router.atoms.data = model.router.atoms[:, order]
    torch.testing.assert_close(model(x), y, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.routes(x), routes[..., order], rtol=0, atol=1e-12)


@property_test(15)
@given(models(shortest=2))
@torch.no_grad()
def test_a_route_does_not_depend_on_later_blocks(model: Queryable) -> None:
    x, size = points(SEEDS), model.config.block_size
    before = model.routes(x)  # (..., N_b, K)
    for block in range(before.shape[-2]):
        for layer in model.backbone.layers[(block + 1) * size :]:
            for parameter in layer.parameters():
                parameter.data += 1.0
        model.router.priors.data[:, block + 1 :] += 1.0
        assert torch.equal(model.routes(x)[..., : block + 1, :], before[..., : block + 1, :])
        before = model.routes(x)


def test_a_route_depends_on_all_earlier_blocks() -> None:
    model = model_of(depth=4, block_size=1)
    last = operators(model, points(SEEDS))[:, :, 0, -1].square().sum()
    states = [tensor for name, tensor in model.trainable().items() if name.endswith("qkv.A")]
    assert len(states) == 4
    assert all(gradient.ne(0).any() for gradient in torch.autograd.grad(last, states))


@property_test(10)
@given(models())
@torch.no_grad()
def test_an_example_is_routed_by_itself(model: Queryable) -> None:
    x = points(SEEDS)
    torch.testing.assert_close(model(x)[:, 2:3], model(x[:, 2:3]), rtol=0, atol=1e-12)
    torch.testing.assert_close(model.routes(x)[:, 2:3], model.routes(x[:, 2:3]), rtol=0, atol=1e-12)


@property_test(10)
@given(models())
@torch.no_grad()
def test_padding_changes_nothing(model: Queryable) -> None:
    x, elsewhere = points(SEEDS), points((98, 99))
    mask = torch.ones(*x.shape, dtype=torch.bool)
    mask[:, 0, 1] = mask[:, 1, 0] = False

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        y, context = model.backbone.run(x, model.context(mask))
        assert isinstance(context, Routing)
        routes = torch.stack(context.weights, dim=-2)
        if routes.ndim == 5:  # a route per token: padding's own is nobody's
            routes = routes * mask[..., None, None]
        return y, routes

    y, routes = run(x)
    for one, other in zip(run(torch.where(mask, x, elsewhere)), (y, routes), strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(y[:, 2:], model(x)[:, 2:], rtol=0, atol=1e-12)
    torch.testing.assert_close(routes[:, 2:], model.routes(x)[:, 2:], rtol=0, atol=1e-12)
    assert not torch.isclose(y[:, :2], model(x)[:, :2]).any()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [2, 3, 5])
def test_weights_maximise_score_plus_entropy(k: int, seed: int) -> None:
    """Over the vectors of the simplex that have at most k entries other than 0."""
    atoms = 5
    router = Router(QueryableConfig(atoms=atoms, top_k=k), 1, Draw([seed], F64))
    scores = 2 * Draw([seed + 50], F64).normal(1, atoms).data
    s = scores[0, 0].numpy()

    def loss(w: np.ndarray, support: list[int]) -> float:
        return float(w @ np.log(w) - w @ s[support])

    best = sparse_minimiser(loss, atoms, k)
    np.testing.assert_allclose(router.weights(scores)[0, 0].numpy(), best, atol=1e-5)


@property_test(8)
@given(
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.integers(2, 4),
    st.integers(1, 3),
    st.booleans(),
)
def test_gradients_of_the_router(
    seed: int, blocks: int, top_k: int, key_dim: int, state_norm: bool
) -> None:
    """Away from ties of the k-th and the next largest logit."""
    config = QueryableConfig(
        rank=2, atoms=4, top_k=top_k, key_dim=key_dim, block_size=1, state_norm=state_norm
    )
    draw = Draw([seed], F64)
    router = Router(config, blocks, draw)
    inputs = [draw.normal(3, config.rank) for _ in range(blocks)]  # earlier blocks, then the state
    names = [name for name, _ in router.named_parameters()]

    def route(*tensors: Tensor) -> Tensor:
        earlier, state, parameters = tensors[: blocks - 1], tensors[blocks - 1], tensors[blocks:]
        module = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(
            Whole(router, blocks - 1), prefixed(module), (state, earlier)
        )

    logits = router.logits(router.query(blocks - 1, inputs[-1], tuple(inputs[:-1])))
    ordered = logits.sort(descending=True).values
    if top_k < config.atoms:
        assume(bool((ordered[..., top_k - 1] - ordered[..., top_k] > 1e-3).all()))
    assert torch.autograd.gradcheck(route, (*inputs, *router.parameters()))


class Whole(torch.nn.Module):
    """The operator of one block from its state and the averages of the blocks before."""

    def __init__(self, router: Router, block: int) -> None:
        super().__init__()
        self.router, self.block = router, block

    def forward(self, state: Tensor, earlier: tuple[Tensor, ...]) -> Tensor:
        router = self.router
        weights = router.weights(router.logits(router.query(self.block, state, earlier)))
        return routing.operator(weights, router.atoms)


def prefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"router.{name}": tensor for name, tensor in tensors.items()}


@property_test(20)
@given(models())
def test_everything_built_learns_by_the_second_step(model: Queryable) -> None:
    x, tensors = points(SEEDS, 12), model.trainable()
    for name, tensor in tensors.items():
        if name.endswith(".B"):
            tensor.data.zero_()
    reached = dict.fromkeys(tensors, False)
    for _ in range(2):
        gradients = torch.autograd.grad((model(x) - 1).square().sum(), list(tensors.values()))
        for (name, tensor), gradient in zip(tensors.items(), gradients, strict=True):
            reached[name] |= bool(gradient.ne(0).any())
            tensor.data -= 0.1 * gradient
    assert [name for name, yes in reached.items() if not yes] == []


@pytest.mark.parametrize(
    ("block_size", "built"),
    [(4, ROUTER - {"S", "V"}), (2, ROUTER - {"V"}), (3, ROUTER - {"V"}), (1, ROUTER)],
)
def test_what_cannot_learn_is_not_built_nor_counted(block_size: int, built: set[str]) -> None:
    config = QueryableConfig(rank=3, key_dim=5, atoms=6, block_size=block_size)
    model = Queryable(network(SEEDS), config, Draw(SEEDS, F64))
    assert {name for name, _ in model.router.named_parameters()} == built
    sizes = {
        "keys": 6 * 5,
        "atoms": 6 * 9,
        "priors": config.blocks(TINY.depth) * 5,
        **dict.fromkeys(("U", "S", "V"), 5 * 3),
    }
    gates = 4 * TINY.depth
    lora = count_trainable(LoRA, LowRankConfig(rank=3), TINY)
    assert count_trainable(Queryable, config, TINY) - lora == sum(map(sizes.get, built)) + gates  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"block_size": 5}, "at most backbone.depth=4"),
        ({"top_k": 17}, "at most method.atoms=16"),
        ({"bank": "block", "atoms": 15}, "a multiple of the 2 blocks"),
        ({"bank": "block", "top_k": 9}, "at most method.atoms / blocks=8"),
        ({"rank": 17}, "at most 16"),
        ({"top_k": 1}, "method.straight_through=true"),
        ({"atoms": 1, "top_k": 1}, "atoms=1 is out of range"),
        ({"targets": []}, "at least one of"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        QueryableConfig(**fields).check(TINY)


def test_what_is_switched_off_is_not_built() -> None:
    whole = QueryableConfig(rank=3, block_size=1)
    count = count_trainable(Queryable, whole, TINY)
    ungated = count_trainable(Queryable, replace(whole, gated=False), TINY)
    assert count - ungated == 4 * TINY.depth
    forgetful = replace(whole, depth_summary=False)
    assert count - count_trainable(Queryable, forgetful, TINY) == 2 * 3 * 3  # S and V
    model = model_of(depth=4, block_size=1, depth_summary=False)
    last = model.router.query(3, points(SEEDS)[..., :1].expand(-1, -1, 3), (torch.ones(2, 6, 3),))
    assert torch.equal(
        last, model.router.pre_query(3, points(SEEDS)[..., :1].expand(-1, -1, 3), None)
    )


@property_test(10)
@given(models(bank="block"))
@torch.no_grad()
def test_blocks_with_banks_of_their_own_share_no_atom(model: Queryable) -> None:
    routes, blocks = model.routes(points(SEEDS)), model.config.blocks(model.backbone.config.depth)
    shares = routes.unflatten(-1, (blocks, -1)).sum(-1)  # (..., N_b, banks)
    torch.testing.assert_close(shares, torch.eye(blocks, dtype=F64).expand_as(shares))


def test_tokens_alike_are_routed_as_their_example_is() -> None:
    """Where all tokens of an example are the same, a route per token is the example's."""
    one, each = (model_of(routing=routing, top_k=3) for routing in ("example", "token"))
    h = Draw(SEEDS, F64).normal(5, 1, 8).data.expand(-1, -1, 2, -1)  # (L, N, T, width)
    for layer, other in zip(one.backbone.layers, each.backbone.layers, strict=True):
        y, context = layer.qkv(h, one.context())
        token_y, token_context = other.qkv(h, each.context())
        torch.testing.assert_close(y, token_y, rtol=0, atol=1e-12)
        weights = token_context.weights[-1]
        torch.testing.assert_close(weights[:, :, 1], context.weights[-1], rtol=0, atol=1e-12)
        break


def test_a_merge_is_refused() -> None:
    with pytest.raises(UsageError, match="depends on the input"):
        model_of().merge()


def test_straight_through_selects_as_before_and_trains_the_router() -> None:
    model, x = model_of(top_k=1, straight_through=True), points(SEEDS)
    routes = model.routes(x)
    assert torch.equal(routes.sum(-1), torch.ones_like(routes[..., 0]))
    assert (routes.ne(0).sum(-1) == 1).all()
    tensors = dict(model.router.named_parameters())
    gradients = torch.autograd.grad(model(x).square().sum(), list(tensors.values()))
    assert tensors.keys() == ROUTER - {"V"}
    assert all(gradient.ne(0).any() for gradient in gradients)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_straight_through_has_the_gradient_of_all_atoms(k: int) -> None:
    config = QueryableConfig(atoms=5, top_k=k, straight_through=True)
    logits = Draw(SEEDS, F64).normal(7, 5)
    direction = Draw([3], F64).normal(2, 7, 5).data[0]
    weights = Router(config, 1, Draw(SEEDS, F64)).weights(logits)
    plain = Router(replace(config, straight_through=False), 1, Draw(SEEDS, F64)).weights(logits)
    assert torch.equal(weights, plain)
    (found,) = torch.autograd.grad((weights * direction).sum(), logits)
    (wanted,) = torch.autograd.grad((logits.softmax(-1) * direction).sum(), logits)
    torch.testing.assert_close(found, wanted)


def test_layers_of_a_block_share_one_operator() -> None:
    model = model_of(depth=4, block_size=2)
    _, context = model.backbone.run(points(SEEDS), model.context())
    assert isinstance(context, Routing)
    assert len(context.weights) == 2
    assert len(context.averages) == 1
    assert len(context.states) == 2
    assert [linear.layer for linear in linears(model) if linear.layer is not None] == [0, 1, 2, 3]
