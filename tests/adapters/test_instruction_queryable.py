"""Instruction-regularised routing: its formulas, and how the language prior moves the weights."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from build import F64, jolt, network, points
from hypothesis import given, settings
from hypothesis import strategies as st
from queryable_example import Example
from simplex import sparse_minimiser
from torch import Tensor

from qlexp.adapters.instruction_queryable import (
    InstructedRouter,
    InstructionQueryable,
    InstructionQueryableConfig,
)
from qlexp.adapters.queryable import Queryable, QueryableConfig
from qlexp.config.schema import BackboneConfig
from qlexp.errors import UsageError
from qlexp.model.initial import Draw

SEEDS = (11, 12)
SHALLOW = BackboneConfig(depth=3, width=8, heads=2, mlp_ratio=2, frequencies=2)
FIELDS: dict[str, Any] = {
    "rank": 3,
    "atoms": 6,
    "key_dim": 4,
    "block_size": 1,
    "instruction_dim": 5,
}

seeds = st.integers(0, 10**6)
channels = pytest.mark.parametrize("channel", ["both", "prior", "query"])
few = settings(max_examples=15, deadline=None, derandomize=True, database=None)


def model_of(lanes: tuple[int, ...] = SEEDS, **fields: Any) -> InstructionQueryable:
    """Every trainable tensor random."""
    config = InstructionQueryableConfig(**{**FIELDS, **fields})
    model = InstructionQueryable(network(lanes, SHALLOW), config, Draw(lanes, F64))
    jolt(model, lanes, std=0.4)
    return model


def texts(lanes: tuple[int, ...] = SEEDS, n: int = 6) -> Tensor:
    return 2 * Draw([lane + 70 for lane in lanes], F64).normal(n, FIELDS["instruction_dim"]).data


def router_of(seed: int, strength: float, top_k: int = 6) -> InstructedRouter:
    """One lane, a prior that is far from uniform."""
    config = InstructionQueryableConfig(**FIELDS, prior_strength=strength, top_k=top_k)
    return InstructedRouter(config, SHALLOW.depth, Draw([seed], F64))


def query(seed: int) -> Tensor:
    return 2 * Draw([seed + 80], F64).normal(1, FIELDS["key_dim"]).data


@channels
@pytest.mark.parametrize("strength", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("routing", ["example", "token"])
@torch.no_grad()
def test_it_is_its_formulas(channel: str, strength: float, routing: str) -> None:
    model = model_of(channels=channel, prior_strength=strength, routing=routing)
    z = texts(n=3)
    x = points(SEEDS, 3)
    predictions, routes, tokens = model(x, z), model.routes(x, z), model.backbone.tokens(x)
    for lane in range(len(SEEDS)):
        for n in range(3):
            example = Example(model, lane, z[lane, n])
            y = example.predict(tokens[lane, n])
            torch.testing.assert_close(predictions[lane, n], y[0], rtol=0, atol=1e-10)
            weights = torch.stack(example.weights, dim=1)  # (routes, N_b, K)
            found = routes[lane, n].reshape(weights.shape)
            torch.testing.assert_close(found, weights, rtol=0, atol=1e-10)


@channels
def test_a_channel_that_is_shut_is_not_built(channel: str) -> None:
    built = {name for name, _ in model_of(channels=channel).router.named_parameters()}
    own = {"both": {"Z", "P"}, "prior": {"P"}, "query": {"Z"}}[channel]
    assert built & {"Z", "P"} == own


@torch.no_grad()
def test_without_a_prior_strength_the_text_acts_through_the_query_only() -> None:
    x, z = points(SEEDS), texts()
    model, query_only = model_of(prior_strength=0.0), model_of(channels="query")
    for name, parameter in query_only.named_parameters():
        parameter.copy_(dict(model.named_parameters())[name])
    assert torch.equal(model(x, z), query_only(x, z))
    assert not torch.equal(model(x, z), model(x, -z))


@torch.no_grad()
def test_without_both_channels_it_is_queryable_lora() -> None:
    x, z = points(SEEDS), texts()
    model = model_of(prior_strength=0.0)
    assert model.router.Z is not None
    model.router.Z.zero_()
    shared = {key: FIELDS[key] for key in ("rank", "atoms", "key_dim", "block_size")}
    plain = Queryable(network(SEEDS, SHALLOW), QueryableConfig(**shared), Draw(SEEDS, F64))
    for name, parameter in plain.named_parameters():
        parameter.copy_(dict(model.named_parameters())[name])
    assert torch.equal(model(x, z), plain(x))


@channels
def test_a_missing_instruction_is_refused(channel: str) -> None:
    with pytest.raises(UsageError, match="instruction"):
        model_of(channels=channel)(points(SEEDS))


@channels
@torch.no_grad()
def test_an_example_reads_its_own_instruction(channel: str) -> None:
    model, x, z = model_of(channels=channel), points(SEEDS), texts()
    before = model.routes(x, z)
    z[1, 2] += 1.0
    changed = model.routes(x, z).ne(before).flatten(2).any(2)
    assert changed.nonzero().tolist() == [[1, 2]]


@torch.no_grad()
def test_the_prior_strength_is_a_lanes_own() -> None:
    x, z, strengths = points(SEEDS), texts(), (0.3, 4.0)
    model = model_of()
    assert "prior_strength" in model.lane_fields
    model.set_lane_fields({"prior_strength": torch.tensor(strengths, dtype=F64)})
    for lane, (seed, strength) in enumerate(zip(SEEDS, strengths, strict=True)):
        solo = model_of((seed,), prior_strength=strength)
        y = solo(x[lane : lane + 1], z[lane : lane + 1])
        torch.testing.assert_close(model(x, z)[lane : lane + 1], y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("strength", [0.5, 2.0])
@pytest.mark.parametrize("k", [2, 6])
def test_weights_maximise_score_minus_divergence_from_the_prior(k: int, strength: float) -> None:
    """argmax <w, s> - KL(w || pi^lambda / Z_lambda), over at most k entries other than 0."""
    router, z, q = router_of(3, strength, top_k=k), texts((3,), 1), query(3)
    prior = router.log_prior(z).detach()[0, 0].numpy()
    scores = (router.keys @ q[0, 0] / math.sqrt(FIELDS["key_dim"])).detach()[0].numpy()
    tempered = strength * prior - np.log(np.exp(strength * prior).sum())

    def loss(w: np.ndarray, support: list[int]) -> float:
        return float(w @ (np.log(w) - tempered[support]) - w @ scores[support])

    best = sparse_minimiser(loss, FIELDS["atoms"], k)
    weights = router.weights(router.logits(q, z)).detach()[0, 0].numpy()
    np.testing.assert_allclose(weights, best, atol=1e-5)


@few
@given(seeds, st.floats(0, 5), st.integers(2, 6))
@torch.no_grad()
def test_a_uniform_prior_leaves_the_weights_alone(seed: int, strength: float, k: int) -> None:
    router, z, q = router_of(seed, strength, top_k=k), texts((seed,), 1), query(seed)
    router.P.zero_()  # type: ignore[union-attr]
    plain = router_of(seed, 0.0, top_k=k)
    found = router.weights(router.logits(q, z))
    torch.testing.assert_close(found, plain.weights(plain.logits(q, z)), rtol=0, atol=1e-12)


@few
@given(seeds, st.integers(2, 5))
@torch.no_grad()
def test_a_strong_prior_decides_alone(seed: int, k: int) -> None:
    router, z, q = router_of(seed, 1e9, top_k=k), texts((seed,), 1), query(seed)
    prior = router.log_prior(z)[0, 0]
    weights = router.weights(router.logits(q, z))[0, 0]
    assert weights.argmax() == prior.argmax()
    assert weights.max() == pytest.approx(1)
    chosen = router.logits(q, z)[0, 0].topk(k).indices
    assert set(chosen.tolist()) == set(prior.topk(k).indices.tolist())


@few
@given(seeds)
@torch.no_grad()
def test_a_stronger_prior_never_lowers_the_expected_log_prior(seed: int) -> None:
    z, q, expected = texts((seed,), 1), query(seed), []
    for strength in (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0):
        router = router_of(seed, strength)  # top_k = K: before the selection
        weights = router.weights(router.logits(q, z))
        expected.append((weights * router.log_prior(z)).sum().item())
    assert all(b >= a - 1e-12 for a, b in pairwise(expected))
    assert expected[-1] <= 0


class Logits(torch.nn.Module):
    """The logits of the first block."""

    def __init__(self, router: InstructedRouter) -> None:
        super().__init__()
        self.router = router

    def forward(self, state: Tensor, z: Tensor) -> Tensor:
        return self.router.logits(self.router.pre_query(0, state, z), z)


@channels
def test_gradients_of_the_logits(channel: str) -> None:
    config = InstructionQueryableConfig(**FIELDS, channels=channel)
    module = Logits(InstructedRouter(config, SHALLOW.depth, Draw([1], F64)))
    draw, tensors = Draw([2], F64), dict(module.named_parameters())
    state, z = draw.normal(3, FIELDS["rank"]), draw.normal(3, FIELDS["instruction_dim"])

    def logits(state: Tensor, z: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(tensors, parameters, strict=True))
        return torch.func.functional_call(module, named, (state, z))

    assert torch.autograd.gradcheck(logits, (state, z, *tensors.values()))
