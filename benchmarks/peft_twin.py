"""The same backbone with `torch.nn.Linear`s, so that peft can adapt it."""

from typing import cast

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from qlexp.adapters.base import LowRankConfig
from qlexp.model.backbone import Backbone, LaneNorm, Layer
from qlexp.model.linear import LaneLinear


class TwinLayer(nn.Module):
    """A layer of lane `lane`, on ordinary modules and torch's fused attention."""

    def __init__(self, layer: Layer, lane: int) -> None:
        super().__init__()
        self.heads = layer.heads
        self.norm1, self.norm2 = _norm(layer.norm1, lane), _norm(layer.norm2, lane)
        self.qkv, self.out = _linear(layer.qkv, lane), _linear(layer.out, lane)
        self.up, self.down = _linear(layer.up, lane), _linear(layer.down, lane)

    def forward(self, h: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(h)).unflatten(-1, (3, self.heads, -1))  # (N, T, 3, heads, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        h = h + self.out(mixed)
        return h + self.down(F.gelu(self.up(self.norm2(h))))


class Twin(nn.Module):
    """One lane of a backbone: points (N, 2) to predictions (N,)."""

    def __init__(self, backbone: Backbone, lane: int) -> None:
        super().__init__()
        self.tokens = backbone.tokens
        self.lane = lane
        self.layers = nn.ModuleList(
            TwinLayer(cast(Layer, layer), lane) for layer in backbone.layers
        )
        self.norm = (
            _norm(backbone.norm, lane) if isinstance(backbone.norm, LaneNorm) else nn.Identity()
        )
        self.head = _linear(backbone.head, lane)

    def forward(self, x: Tensor) -> Tensor:
        lanes = len(self.tokens.coordinate)
        h = self.tokens(x.expand(lanes, -1, -1))[self.lane]
        for layer in self.layers:
            h = layer(h)
        return self.head(self.norm(h.mean(1))).squeeze(-1)


def with_peft_lora(backbone: Backbone, lane: int, config: LowRankConfig, dora: bool) -> nn.Module:
    """Lane `lane` of `backbone`, frozen, with peft's LoRA or DoRA on the same linears."""
    twin = Twin(backbone, lane).requires_grad_(False)
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=int(config.alpha),
        target_modules=list(config.targets),
        use_dora=dora,
    )
    return inject_adapter_in_model(settings, twin)


def _linear(linear: LaneLinear, lane: int) -> nn.Linear:
    plain = nn.Linear(linear.d_in, linear.d_out, device="meta")
    _fill(plain, linear, lane)
    return plain


def _norm(norm: LaneNorm, lane: int) -> nn.LayerNorm:
    plain = nn.LayerNorm(norm.weight.shape[-1], device="meta")
    _fill(plain, norm, lane)
    return plain


def _fill(plain: nn.Linear | nn.LayerNorm, source: LaneLinear | LaneNorm, lane: int) -> None:
    plain.weight = nn.Parameter(source.weight.detach()[lane].clone())
    plain.bias = nn.Parameter(source.bias.detach()[lane].clone())


def trainable(model: nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that peft left trainable."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
