"""Queryable LoRA written out, one example at a time: what the batched one is held against."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from build import F64
from torch import Tensor

from qlexp.adapters.queryable import Queryable


class Example:
    """One example through one lane, token by token, after the formulas of arXiv 2605.08423."""

    def __init__(self, model: Queryable, lane: int, instruction: Tensor | None = None) -> None:
        self.model, self.lane, self.config = model, lane, model.config
        self.instruction: Any = instruction  # e(z), (d_e,)
        self.router = {name: p[lane] for name, p in model.router.named_parameters()}
        self.averages: list[Tensor] = []  # v_j
        self.states: list[Tensor] = []  # of the layers of the current block
        self.weights: list[Tensor] = []
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
        return F.layer_norm(h, h.shape[-1:], norm.weight[self.lane], norm.bias[self.lane])

    def linear(self, linear: Any, layer: int, tokens: Tensor) -> Tensor:
        base = getattr(linear, "base", linear)
        W, bias = base.weight[self.lane], base.bias[self.lane]
        if base is linear:
            return torch.stack([W @ h + bias for h in tokens])
        A, B, gate = linear.A[self.lane], linear.B[self.lane], linear.gate[self.lane]
        if self.unrouted:
            self.unrouted = False
            self.enter(layer, torch.stack([A @ h for h in tokens]).mean(0))
        scale = self.config.alpha / self.config.rank
        inner = torch.eye(self.config.rank, dtype=F64) + gate * self.R
        return torch.stack([W @ h + bias + scale * B @ inner @ A @ h for h in tokens])

    def enter(self, layer: int, state: Tensor) -> None:
        if layer % self.config.block_size:
            self.states.append(state)
            return
        if layer:
            self.averages.append(torch.stack(self.states).mean(0))
        self.states = [state]
        block, d_k, p = layer // self.config.block_size, self.config.d_k, self.router
        query = p["priors"][block] + p["U"] @ (rms(state) if self.config.state_norm else state)
        if "Z" in p:
            query = query + p["Z"] @ self.instruction
        if self.averages:
            shares = torch.ones(1, dtype=F64)
            if len(self.averages) > 1:
                scores = [query @ (p["V"] @ rms(v)) / math.sqrt(d_k) for v in self.averages]
                shares = torch.stack(scores).softmax(0)
            query = query + p["S"] @ sum(a * v for a, v in zip(shares, self.averages, strict=True))
        logits = torch.stack([query @ key / math.sqrt(d_k) for key in p["keys"]])
        if "P" in p:
            match = torch.stack([key @ p["P"] @ self.instruction for key in p["keys"]])
            prior = (match / math.sqrt(d_k)).softmax(0)
            logits = logits + self.config.prior_strength * prior.log()
        kept = logits.argsort(descending=True)[: self.config.top_k]
        exponentials = torch.zeros_like(logits)
        exponentials[kept] = logits[kept].exp()
        weights = exponentials / exponentials.sum()
        self.weights.append(weights)
        self.R = sum(w * M for w, M in zip(weights, p["atoms"], strict=True))


def rms(v: Tensor) -> Tensor:
    return v / (v.square().mean() + 1e-6).sqrt()
