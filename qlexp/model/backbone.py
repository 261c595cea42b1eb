"""The Transformer over the two coordinates of a point, with a leading lane axis.

Each coordinate is a token; layers are pre-norm attention and MLP; the prediction is a linear head
on the mean token. What the paper leaves open (heads, MLP ratio, tokens, activation) are fields of
`BackboneConfig` or stated here: LayerNorm, GELU, learned coordinate embeddings, no dropout.
"""

import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qlexp.config.schema import BackboneConfig
from qlexp.model.context import Context
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear

COORDINATES = 2


def linear_shapes(config: BackboneConfig) -> dict[str, tuple[int, int]]:
    """(d_out, d_in) of a layer's linears, in the order in which a forward pass meets them."""
    width, hidden = config.width, config.width * config.mlp_ratio
    return {
        "qkv": (3 * width, width),
        "out": (width, width),
        "up": (hidden, width),
        "down": (width, hidden),
    }


class LaneNorm(nn.Module):
    """LayerNorm over the last axis with weights (L, width)."""

    def __init__(self, width: int, draw: Draw) -> None:
        super().__init__()
        self.weight = draw.constant(width, value=1.0)
        self.bias = draw.constant(width, value=0.0)

    def forward(self, h: Tensor) -> Tensor:
        axes = (slice(None), *[None] * (h.ndim - 2))
        return torch.addcmul(
            self.bias[axes], F.layer_norm(h, h.shape[-1:]), self.weight[axes]
        )  # (L, ..., width)


class Tokens(nn.Module):
    """Points (L, N, 2) in [-1, 1]² to tokens (L, N, 2, width).

    `linear` embeds a coordinate's value. `fourier` embeds it with `frequencies` sines and cosines,
    evenly spaced up to `bandwidth` cycles over [-1, 1] (after arXiv 2006.10739; even spacing is
    ours).
    """

    angles: Tensor  # (frequencies,), radians per unit of x

    def __init__(self, config: BackboneConfig, draw: Draw) -> None:
        super().__init__()
        count = config.frequencies if config.tokens == "fourier" else 0
        cycles = torch.arange(1, count + 1, dtype=draw.dtype) * (config.bandwidth / max(count, 1))
        self.register_buffer("angles", math.pi * cycles, persistent=False)
        self.embed = LaneLinear(config.width, 1 + 2 * count, draw)
        self.coordinate = draw.normal(COORDINATES, config.width, std=0.5)

    def forward(self, x: Tensor) -> Tensor:
        values = x.unsqueeze(-1)  # (L, N, 2, 1)
        phases = values * self.angles
        features = torch.cat([values, phases.sin(), phases.cos()], dim=-1)
        return self.embed.project(features) + self.coordinate.unsqueeze(1)


class Layer(nn.Module):
    """One pre-norm Transformer layer; its four linears are what adapters wrap."""

    def __init__(self, config: BackboneConfig, draw: Draw) -> None:
        super().__init__()
        self.heads = config.heads
        shapes = linear_shapes(config)
        residual_gain = (2 * config.depth) ** -0.5

        def linear(name: str, gain: float = 1.0) -> LaneLinear:
            return LaneLinear(*shapes[name], draw, gain)

        self.norm1 = LaneNorm(config.width, draw)
        self.qkv = linear("qkv")
        self.out = linear("out", residual_gain)
        self.norm2 = LaneNorm(config.width, draw)
        self.up = linear("up")
        self.down = linear("down", residual_gain)

    def forward(self, h: Tensor, context: Context) -> tuple[Tensor, Context]:
        qkv, context = self.qkv(self.norm1(h), context)
        update, context = self.out(attention(qkv, self.heads, context.mask), context)
        h = h + update
        hidden, context = self.up(self.norm2(h), context)
        update, context = self.down(F.gelu(hidden), context)
        return h + update, context


def attention(qkv: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """softmax(Q Kᵀ / sqrt(d)) V, written out: with few tokens the products are too small for GEMMs.

    qkv (L, N, T, 3 * width), mask (L, N, T) -> (L, N, T, width).
    """
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).unbind(-3)  # (L, N, T, heads, d) each
    q = q * q.shape[-1] ** -0.5
    if q.shape[2] == COORDINATES and mask is None:
        return _pair_attention(q, k, v).flatten(-2)
    scores = (q.unsqueeze(3) * k.unsqueeze(2)).sum(-1)  # (L, N, T, T', heads)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, :, None, :, None], -math.inf)
    return (scores.softmax(3).unsqueeze(-1) * v.unsqueeze(2)).sum(3).flatten(-2)


def _pair_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over two tokens: a softmax of two is the sigmoid of their difference."""
    first = (q * (k[:, :, :1] - k[:, :, 1:])).sum(-1, keepdim=True).sigmoid()
    return torch.addcmul(v[:, :, 1:], first, v[:, :, :1] - v[:, :, 1:])


class Backbone(nn.Module):
    """Points (L, N, 2) to predictions (L, N), on the standardised scale.

    With `recompute`, the backward pass computes each layer's activations anew instead of keeping
    them: a third more arithmetic for a fraction of the memory.
    """

    def __init__(self, config: BackboneConfig, draw: Draw) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        self.tokens = Tokens(config, draw)
        self.layers = nn.ModuleList(Layer(config, draw) for _ in range(config.depth))
        bounded = config.final_norm == "layer"
        self.norm = LaneNorm(config.width, draw) if bounded else nn.Identity()
        self.head = LaneLinear(1, config.width, draw)

    def run(self, x: Tensor, context: Context) -> tuple[Tensor, Context]:
        """The prediction, and the context as the last layer leaves it."""
        h = self.tokens(x)
        for layer in self.layers:
            if self.recompute and torch.is_grad_enabled():
                h, context = checkpoint(layer, h, context, use_reentrant=False)
            else:
                h, context = layer(h, context)
        return self.head.project(self.norm(context.token_mean(h))).squeeze(-1), context

    def forward(self, x: Tensor, instruction: Tensor | None = None) -> Tensor:
        """Predictions without an adapter; an instruction is not read."""
        return self.run(x, Context())[0]

    def reach(self) -> tuple[Tensor, Tensor]:
        """The least and the largest prediction, (L,) each, whatever the layers' adapters do.

        After a LayerNorm a token z has mean 0 and at most the norm sqrt(width), so that the head
        says w . (gamma z + beta) + b within sqrt(width) |gamma w - mean(gamma w)| of
        w . beta + b. Without the last norm nothing bounds it.
        """
        w, b = self.head.weight[:, 0], self.head.bias[:, 0]
        if not isinstance(self.norm, LaneNorm):
            unbounded = torch.full_like(b, math.inf)
            return -unbounded, unbounded
        scaled = w * self.norm.weight
        radius = math.sqrt(w.shape[1]) * (scaled - scaled.mean(1, keepdim=True)).norm(dim=1)
        middle = (w * self.norm.bias).sum(1) + b
        return middle - radius, middle + radius


def layer_of(parameter: str) -> str:
    """Where a parameter's gradient is counted in the curves: `layer_3`, or its module's name."""
    match = re.match(r"layers\.(\d+)\.", parameter)
    return f"layer_{match[1]}" if match else parameter.split(".", maxsplit=1)[0]
