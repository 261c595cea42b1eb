"""Queryable LoRA written out, one example at a time: what the batched one is held against."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from build import F64
from torch import Tensor, nn

from qlexp.adapters.queryable import Queryable


class Example:
    """One example through one lane, token by token, after the formulas of arXiv 2605.08423."""

    def __init__(self, model: Queryable, lane: int, instruction: Tensor | None = None) -> None:
        self.model, self.lane, self.config = model, lane, model.config
        self.instruction: Any = instruction  # e(z), (d_e,)
        self.router = {name: p[lane] for name, p in model.router.named_parameters()}
        self.averages: list[Tensor] = []  # v_j, (routes, rank)
        self.states: list[Tensor] = []  # of the layers of the current block
        self.weights: list[Tensor] = []  # of every block, (routes, K)
        self.operators: list[Any] = []  # R of every route of the current block
        self.unrouted = True  # whether no adapted linear of the current layer was met yet

    def predict(self, tokens: Tensor) -> Tensor:
        backbone, h = self.model.backbone, tokens
        for index, layer in enumerate(backbone.layers):
            self.unrouted = True
            qkv = self.linear(layer.qkv, index, self.norm(layer.norm1, h))
            q, k, v = (
                part.unflatten(1, (layer.heads, -1)).movedim(0, 1) for part in qkv.chunk(3, 1)
            )
            mixed = F.scaled_dot_product_attention(q, k, v).movedim(0, 1).flatten(1)
            h = h + self.linear(layer.out, index, mixed)
            hidden = F.gelu(self.linear(layer.up, index, self.norm(layer.norm2, h)))
            h = h + self.linear(layer.down, index, hidden)
        mean = h.mean(0)
        head = backbone.head
        return head.weight[self.lane] @ self.norm(backbone.norm, mean) + head.bias[self.lane]

    def norm(self, norm: Any, h: Tensor) -> Tensor:
        if isinstance(norm, nn.Identity):
            return h
        return F.layer_norm(h, h.shape[-1:], norm.weight[self.lane], norm.bias[self.lane])

    def linear(self, linear: Any, layer: int, tokens: Tensor) -> Tensor:
        base = getattr(linear, "base", linear)
        W, bias = base.weight[self.lane], base.bias[self.lane]
        if base is linear:
            return torch.stack([W @ h + bias for h in tokens])
        A, B = linear.A[self.lane], linear.B[self.lane]
        gate = 1.0 if linear.gate is None else linear.gate[self.lane]
        if self.unrouted:
            self.unrouted = False
            low = torch.stack([A @ h for h in tokens])
            self.enter(layer, low if self.config.routing == "token" else low.mean(0, keepdim=True))
        scale, operators = self.config.alpha / self.config.rank, self.operators
        if len(operators) == 1:
            operators = operators * len(tokens)
        inner = [torch.eye(self.config.rank, dtype=F64) + gate * R for R in operators]
        return torch.stack(
            [W @ h + bias + scale * B @ M @ A @ h for M, h in zip(inner, tokens, strict=True)]
        )

    def enter(self, layer: int, states: Tensor) -> None:
        """A state a route, (routes, rank): one of the example, or one of each token."""
        if layer % self.config.block_size:
            self.states.append(states)
            return
        if layer:
            self.averages.append(torch.stack(self.states).mean(0))
        self.states = [states]
        block = layer // self.config.block_size
        routes = [
            self.weigh(block, state, [v[route] for v in self.averages])
            for route, state in enumerate(states)
        ]
        self.weights.append(torch.stack(routes))
        self.operators = [
            sum(w * M for w, M in zip(weights, self.router["atoms"], strict=True))
            for weights in routes
        ]

    def weigh(self, block: int, state: Tensor, averages: list[Tensor]) -> Tensor:
        d_k, p = self.config.d_k, self.router
        query = p["priors"][block]
        if self.config.routing != "static":
            query = query + p["U"] @ (rms(state) if self.config.state_norm else state)
        if "Z" in p:
            query = query + p["Z"] @ self.instruction
        if averages and self.config.depth_summary and self.config.routing != "static":
            shares = torch.ones(1, dtype=F64)
            if len(averages) > 1:
                scores = [query @ (p["V"] @ rms(v)) / math.sqrt(d_k) for v in averages]
                shares = torch.stack(scores).softmax(0)
            query = query + p["S"] @ sum(a * v for a, v in zip(shares, averages, strict=True))
        logits = torch.stack([query @ key / math.sqrt(d_k) for key in p["keys"]])
        if "P" in p:
            match = torch.stack([key @ p["P"] @ self.instruction for key in p["keys"]])
            prior = (match / math.sqrt(d_k)).softmax(0)
            logits = logits + self.config.prior_strength * prior.log()
        kept = logits.argsort(descending=True)
        if self.config.bank == "block":
            own = self.config.atoms // self.config.blocks(self.model.backbone.config.depth)
            kept = kept[kept // own == block]
        kept = kept[: self.config.top_k]
        exponentials = torch.zeros_like(logits)
        exponentials[kept] = logits[kept].exp()
        return exponentials / exponentials.sum()


def rms(v: Tensor) -> Tensor:
    return v / (v.square().mean() + 1e-6).sqrt()
