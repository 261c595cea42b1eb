"""The network against torch's own modules, its tokens, and the independence of lanes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from build import F64, TINY, network, points, values
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qlexp.config.schema import BackboneConfig
from qlexp.model.backbone import Backbone, Tokens, attention, linear_shapes
from qlexp.model.context import Context
from qlexp.model.evaluate import Samples, worst_share
from qlexp.model.initial import Draw, Shapes
from qlexp.model.linear import LaneLinear, lane_linear, lane_linear_add

SEEDS = (3, 5, 8)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return Draw([seed], F64).normal(*shape).data[0]


def some_mask(*shape: int) -> Tensor:
    """About half of the tokens, the first of every example among them."""
    mask = normal(*shape, seed=1) > 0
    mask[..., 0] = True
    return mask


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 4), st.integers(1, 5), st.booleans())
@example(2, 3, 4, 2, False)
@example(2, 3, 4, 2, True)
def test_attention_is_torchs(heads: int, d: int, n: int, tokens: int, masked: bool) -> None:
    qkv = normal(2, n, tokens, 3 * heads * d)
    mask = some_mask(2, n, tokens) if masked else None
    q, k, v = (part.unflatten(-1, (heads, d)).transpose(2, 3) for part in qkv.chunk(3, -1))
    seen = None if mask is None else mask[:, :, None, None]
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    close(attention(qkv, heads, mask), expected.transpose(2, 3).flatten(-2))


def torch_layer(layer: nn.Module, config: BackboneConfig, lane: int) -> nn.TransformerEncoderLayer:
    """torch's layer with the weights of one lane."""
    twin = nn.TransformerEncoderLayer(
        config.width,
        config.heads,
        config.width * config.mlp_ratio,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
        dtype=F64,
    )
    own = {
        "self_attn.in_proj_": layer.qkv,
        "self_attn.out_proj.": layer.out,
        "linear1.": layer.up,
        "linear2.": layer.down,
        "norm1.": layer.norm1,
        "norm2.": layer.norm2,
    }
    weights = {
        f"{name}{kind}": getattr(module, kind)[lane].detach()
        for name, module in own.items()
        for kind in ("weight", "bias")
    }
    twin.load_state_dict(weights)
    return twin


@pytest.mark.parametrize("masked", [False, True])
def test_a_layer_is_torchs(masked: bool) -> None:
    layer = network(SEEDS).layers[0]
    h = normal(len(SEEDS), 4, 5, TINY.width)
    mask = some_mask(len(SEEDS), 4, 5) if masked else None
    y, _ = layer(h, Context(mask))
    for lane in range(len(SEEDS)):
        padding = None if mask is None else ~mask[lane]
        expected = torch_layer(layer, TINY, lane)(h[lane], src_key_padding_mask=padding)
        kept = ... if mask is None else mask[lane]
        close(y[lane][kept], expected[kept])


def normed(seeds: Sequence[int] = SEEDS) -> Backbone:
    """A network with a LayerNorm before its head, none of whose weights is trivial."""
    backbone = Backbone(replace(TINY, final_norm="layer"), Draw(seeds, F64))
    for i, parameter in enumerate((*backbone.norm.parameters(), backbone.head.bias)):
        parameter.data += normal(*parameter.shape, seed=i)
    return backbone


@pytest.mark.parametrize("make", [network, normed])
def test_the_network_is_torchs_layers_and_a_head_on_the_mean_token(
    make: Callable[[Sequence[int]], Backbone],
) -> None:
    backbone, x = make(SEEDS), points(SEEDS)
    y, tokens = backbone(x), backbone.tokens(x)
    assert y.shape == (len(SEEDS), 6)
    for lane in range(len(SEEDS)):
        h = tokens[lane]
        for layer in backbone.layers:
            h = torch_layer(layer, TINY, lane)(h)
        mean = h.mean(1)
        if make is normed:
            own = (backbone.norm.weight[lane], backbone.norm.bias[lane])
            mean = F.layer_norm(mean, (TINY.width,), *own)
        head = F.linear(mean, backbone.head.weight[lane], backbone.head.bias[lane])
        close(y[lane], head.squeeze(1))


def test_nothing_before_a_normed_head_moves_it_out_of_its_reach() -> None:
    backbone = normed()
    low, high = backbone.reach()
    h = 100 * normal(len(SEEDS), 2000, TINY.width)
    said = backbone.head.project(backbone.norm(h)).squeeze(-1)
    assert (said > low[:, None]).all()
    assert (said < high[:, None]).all()
    furthest = 1e6 * (backbone.head.weight[:, 0] * backbone.norm.weight).unsqueeze(1)
    for h, end in ((furthest, high), (-furthest, low)):
        close(backbone.head.project(backbone.norm(h)).flatten(), end)


def test_without_a_norm_nothing_bounds_the_head() -> None:
    low, high = network(SEEDS).reach()
    assert (low == -math.inf).all()
    assert (high == math.inf).all()


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=300))
def test_the_worst_share_is_that_of_the_largest_errors(errors: list[float]) -> None:
    y = torch.tensor([errors], dtype=F64)
    found = worst_share(lambda x: torch.zeros_like(y), Samples(torch.zeros(*y.shape, 2), y))
    squares = sorted(np.square(errors))
    worst = squares[-math.ceil(len(squares) / 100) :]
    if sum(squares) > 0:
        assert found.item() == pytest.approx(sum(worst) / sum(squares))


def test_padding_changes_nothing() -> None:
    backbone, x, elsewhere = network(SEEDS), points(SEEDS), points((97, 98, 99))
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[:, 0, 1] = mask[:, 1, 0] = False
    y, _ = backbone.run(x, Context(mask))
    other, _ = backbone.run(torch.where(mask, x, elsewhere), Context(mask))
    assert torch.equal(y, other)
    close(y[:, 2:], backbone(x)[:, 2:])
    assert not torch.isclose(y[:, :2], backbone(x)[:, :2]).any()


def test_the_mean_token_skips_padding() -> None:
    h, mask = normal(2, 3, 4, 5), some_mask(2, 3, 4)
    expected = [[h[i, n][mask[i, n]].mean(0) for n in range(3)] for i in range(2)]
    close(Context(mask).token_mean(h), torch.stack([torch.stack(row) for row in expected]))


def test_lanes_are_solo_networks() -> None:
    backbone, x = network(SEEDS), points(SEEDS)
    y = backbone(x)
    for lane, seed in enumerate(SEEDS):
        close(y[lane : lane + 1], network([seed])(points([seed])))
    y[1].square().sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None
        reached = parameter.grad.reshape(len(SEEDS), -1).ne(0).any(1)
        assert reached.tolist() == [False, True, False], name


@pytest.mark.parametrize("tokens", ["linear", "fourier"])
def test_a_token_holds_its_own_coordinate(tokens: str) -> None:
    config = replace(TINY, tokens=tokens)
    x, layer = points(SEEDS), Tokens(config, Draw(SEEDS, F64))
    h = layer(x)
    assert h.shape == (len(SEEDS), 6, 2, TINY.width)
    moved = x.clone()
    moved[..., 0] += 0.1
    changed = (layer(moved) - h).abs().amax((0, 1, 3))
    assert changed[0] > 0
    assert changed[1] == 0
    swapped = layer(x.flip(-1)).flip(2) - layer.coordinate.flip(1)[:, None]
    close(swapped, h - layer.coordinate[:, None])  # one embedding serves both coordinates


@pytest.mark.parametrize(("frequencies", "bandwidth"), [(4, 8.0), (3, 1.5), (1, 2.0)])
def test_fourier_tokens_are_waves_up_to_the_bandwidth(frequencies: int, bandwidth: float) -> None:
    width = 1 + 2 * frequencies
    config = BackboneConfig(width=width, heads=1, frequencies=frequencies, bandwidth=bandwidth)
    layer = Tokens(config, Draw([0], F64))
    layer.embed.weight.data[0] = torch.eye(width, dtype=F64)
    layer.coordinate.data.zero_()
    x = torch.linspace(-1, 1, 801, dtype=F64)
    features = layer(torch.stack([x, -x], 1).unsqueeze(0))[0, :, 0]  # (n, width)
    cycles = [bandwidth * (j + 1) / frequencies for j in range(frequencies)]
    close(features[:, 0], x)
    for j, count in enumerate(cycles):
        turns = torch.pi * count * x  # `count` times 2 pi over the two units of the domain
        close(features[:, 1 + j], turns.sin())
        close(features[:, 1 + frequencies + j], turns.cos())
    assert cycles[-1] == bandwidth


def test_linear_tokens_are_affine_in_the_coordinate() -> None:
    layer = Tokens(replace(TINY, tokens="linear"), Draw(SEEDS, F64))
    assert layer.embed.weight.shape == (len(SEEDS), TINY.width, 1)
    x, step = points(SEEDS), points((20, 21, 22))
    close(layer(x + 2 * step) - layer(x), 2 * (layer(x + step) - layer(x)))


@pytest.mark.parametrize("shape", [(4,), (4, 3), (2, 3, 4)])
def test_a_linear_map_of_a_lane_is_torchs(shape: tuple[int, ...]) -> None:
    h, y = normal(2, *shape, 5), normal(2, *shape, 7, seed=1)
    weight, bias = normal(2, 7, 5, seed=2), normal(2, 7, seed=3)
    linear = LaneLinear(7, 5, Draw([0, 1], F64))
    linear.weight.data, linear.bias.data = weight, bias
    assert (linear.d_in, linear.d_out) == (5, 7)
    for lane in range(2):
        expected = F.linear(h[lane], weight[lane])
        close(lane_linear(h, weight)[lane], expected)
        close(lane_linear_add(y, h, weight, 0.3)[lane], y[lane] + 0.3 * expected)
        close(linear.project(h)[lane], expected + bias[lane])


def test_shapes_are_those_of_the_layers() -> None:
    backbone = Backbone(TINY, Shapes())
    for layer in backbone.layers:
        for name, shape in linear_shapes(TINY).items():
            assert getattr(layer, name).weight.shape == (1, *shape)
    real = values(Backbone(TINY, Draw([0])))
    assert {n: p.shape for n, p in backbone.named_parameters()} == {
        n: p.shape for n, p in real.items()
    }


@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4), st.data())
def test_a_lane_starts_the_same_in_any_company(seeds: list[int], data: st.DataObject) -> None:
    lane = data.draw(st.integers(0, len(seeds) - 1))
    batch, solo = values(Backbone(TINY, Draw(seeds))), values(Backbone(TINY, Draw([seeds[lane]])))
    exact = values(Backbone(TINY, Draw([seeds[lane]], F64)))
    for name, value in solo.items():
        assert torch.equal(batch[name][lane], value[0])
        assert torch.equal(exact[name].float(), value)


def test_lanes_start_apart() -> None:
    drawn = values(Backbone(TINY, Draw([1, 2])))
    for name, value in drawn.items():
        constant = name.endswith("bias") or ".norm" in name or name.startswith("norm")
        assert torch.equal(value[0], value[1]) == constant, name
