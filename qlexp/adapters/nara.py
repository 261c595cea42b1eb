"""NaRA: a core between LoRA's factors, made by one hypernetwork for the whole network.

Source: arXiv 2605.29716, a LoRA for diffusion language models, known by its formula and settings.

    C = I + eta F(c);   y = W h + s B C A h,   F(c) = W_2 silu(W_1 c + b_1) + b_2

In the paper c are Fourier features of the noise level, and one core serves a whole denoising step.
Regression has no such level. The reading here: c is the mean over tokens of A h at the first
adapted linear, so that one dense core (rank, rank) is made from every example's input and used by
all linears. F has one hidden layer for the paper's two, and W_2 does not start at zero, where W_1
would wait a step longer for its gradient: B = 0 makes the start exact.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from qlexp import routing
from qlexp.adapters.base import ALL_LINEARS, AdaptedLinear, Adapter, Look, LowRankConfig
from qlexp.config.checks import bounded
from qlexp.model.backbone import Backbone
from qlexp.model.context import Context
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear, lane_down, lane_linear, lane_linear_add


@dataclass
class NaRAConfig(LowRankConfig):
    """LoRA's fields and the hypernetwork's."""

    hidden: int = bounded(32, minimum=1)
    eta: float = bounded(0.1, above=0.0)


class Hypernetwork(nn.Module):
    """W_1 (L, hidden, rank) and W_2 (L, rank², hidden), kaiming-uniform, with biases at zero."""

    def __init__(self, config: NaRAConfig, draw: Draw) -> None:
        super().__init__()
        self.rank, self.eta = config.rank, config.eta
        self.W_1 = draw.kaiming_uniform(config.hidden, config.rank)
        self.b_1 = draw.constant(config.hidden, value=0.0)
        self.W_2 = draw.kaiming_uniform(config.rank**2, config.hidden)
        self.b_2 = draw.constant(config.rank**2, value=0.0)

    def forward(self, state: Tensor) -> Tensor:
        """C - I of every example, (L, rank, rank, N), from its state (L, N, rank)."""
        hidden = F.silu(lane_linear(state, self.W_1) + self.b_1.unsqueeze(1))
        core = lane_linear(hidden, self.W_2) + self.b_2.unsqueeze(1)  # (L, N, rank²)
        return self.eta * core.mT.unflatten(1, (self.rank, self.rank))


@dataclass(frozen=True)
class Conditioned(Context):
    """The hypernetwork, and what it has made of these examples: C - I, (L, rank, rank, N)."""

    hypernetwork: Hypernetwork | None = None
    core: Tensor | None = None


class NaRALinear(AdaptedLinear):
    """LoRA's factors with the generated core between them; the `first` of a pass has it made."""

    def __init__(self, base: LaneLinear, config: NaRAConfig, draw: Draw, first: bool) -> None:
        super().__init__(base)
        self.scale = config.scale
        self.first = first
        self.A = draw.kaiming_uniform(config.rank, base.d_in)
        self.B = draw.constant(base.d_out, config.rank, value=0.0)

    def forward(self, h: Tensor, context: Context) -> tuple[Tensor, Context]:
        assert isinstance(context, Conditioned)
        low = lane_down(h, self.A)  # (L, N, T, rank)
        if self.first:
            assert context.hypernetwork is not None
            context = replace(context, core=context.hypernetwork(context.token_mean(low)))
        assert context.core is not None
        low = low + routing.apply_operator(context.core, low)
        return lane_linear_add(self.base.project(h), low, self.B, self.scale), context


class NaRA(Adapter):
    """NaRA on every targeted linear."""

    Config: ClassVar = NaRAConfig
    reading: ClassVar = True
    looks: ClassVar = {"nara": Look("#eb18df", group=3, order=132)}

    def __init__(self, backbone: Backbone, config: NaRAConfig, draw: Draw) -> None:
        super().__init__(backbone, config, draw)
        self.hypernetwork = Hypernetwork(config, draw)

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> NaRALinear:
        first = next(target for target in ALL_LINEARS if target in self.config.targets)
        return NaRALinear(base, self.config, draw, layer == 0 and name == first)

    def context(self, mask: Tensor | None = None, instruction: Tensor | None = None) -> Conditioned:
        return Conditioned(mask, instruction, hypernetwork=self.hypernetwork)
