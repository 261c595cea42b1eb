"""Text-to-LoRA: a hypernetwork writes the factors from a text (Charakorn et al. 2025, 2506.06105).

    z = silu(W_2 silu(W_1 [t; m; l])),   A = H_A [z; 1],   B = H_B [z; 1],   y = W h + s B A h

t embeds the text, m the projection type, l the layer. H_A and H_B, one pair for each projection
type, put out all rank components at once, as in the paper's largest form; they start at zero but
for H_A's bias, which starts as LoRA's A does. Two layers instead of the paper's residual blocks,
and no dropout, are a reading that keeps the count near LoRA's.

Without texts (`text_dim: null`) t is a learned constant, the change is the same for every input and
can be merged. With them every example has its own factors, which are never formed: with p = [z; 1],
B A h = sum_jk p_j p_k H_Bj H_Ak h.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qlexp.adapters.base import AdaptedLinear, Look, LowRankConfig
from qlexp.adapters.generated import Factors, HypernetworkAdapter, layer_by_layer
from qlexp.config.checks import bounded
from qlexp.errors import UsageError
from qlexp.model.context import Context
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear, lane_linear, lane_linear_add


@dataclass
class TextToLoRAConfig(LowRankConfig):
    """LoRA's fields and the hypernetwork's."""

    embedding_dim: int = bounded(8, minimum=1)
    hidden: int = bounded(7, minimum=1)
    text_dim: int | None = bounded(None, minimum=1)  # null: no texts

    @property
    def instruction_size(self) -> int | None:
        return self.text_dim


class Hypernetwork(nn.Module):
    """From a text and the place of a linear to the linear's factors.

    Args:
        shapes: (out, in) of every adapted type of linear.
    """

    def __init__(
        self, config: TextToLoRAConfig, depth: int, shapes: dict[str, tuple[int, int]], draw: Draw
    ) -> None:
        super().__init__()
        rank, d, hidden = config.rank, config.embedding_dim, config.hidden
        self.type_embeddings = draw.normal(len(shapes), d)
        self.layer_embeddings = draw.normal(depth, d)
        self.text, self.encoder = None, None
        if config.text_dim is None:
            self.text = draw.normal(d)
        else:
            self.encoder = draw.normal(d, config.text_dim, std=config.text_dim**-0.5)
        self.W_1 = draw.normal(hidden, 3 * d, std=(3 * d) ** -0.5)
        self.W_2 = draw.normal(hidden, hidden, std=hidden**-0.5)
        self.H_A, self.H_B = nn.ParameterDict(), nn.ParameterDict()
        for name, (d_out, d_in) in shapes.items():
            weight = draw.constant(hidden, rank, d_in, value=0.0)
            bias = draw.kaiming_uniform(1, rank, d_in)
            self.H_A[name] = nn.Parameter(torch.cat([weight, bias], dim=1).detach())
            self.H_B[name] = draw.constant(hidden + 1, rank, d_out, value=0.0)

    def codes(self, instruction: Tensor | None) -> Tensor:
        """p = [z; 1] of every linear, layer by layer.

        (L, linears, hidden + 1); with texts (L, N, linears, hidden + 1).
        """
        types, depth = self.type_embeddings.shape[1], self.layer_embeddings.shape[1]
        place = torch.cat(
            [
                self.type_embeddings.unsqueeze(1).expand(-1, depth, -1, -1),
                self.layer_embeddings.unsqueeze(2).expand(-1, -1, types, -1),
            ],
            dim=-1,
        )  # (L, depth, types, 2 d)
        d = self.type_embeddings.shape[-1]
        hidden = lane_linear(place, self.W_1[..., d:]).flatten(1, 2)  # (L, linears, hidden)
        text = lane_linear(self.embedded(instruction), self.W_1[..., :d])
        hidden = hidden + text if self.text is not None else hidden.unsqueeze(1) + text.unsqueeze(2)
        z = F.silu(lane_linear(F.silu(hidden), self.W_2))
        return torch.cat([z, torch.ones_like(z[..., :1])], dim=-1)

    def embedded(self, instruction: Tensor | None) -> Tensor:
        """t, (L, N, d), or (L, 1, d) where there are no texts."""
        if self.text is not None:
            return self.text.unsqueeze(1)
        assert self.encoder is not None
        wanted = self.encoder.shape[-1]
        if instruction is None or instruction.shape[-1] != wanted:
            given = "none" if instruction is None else f"one of {instruction.shape[-1]}"
            raise UsageError(
                f"Every example needs a text vector of method.text_dim={wanted} numbers, and the "
                f"pass has {given}: set method.text_dim to what the texts have, or to null."
            )
        return lane_linear(instruction, self.encoder)

    def forward(self) -> tuple[Factors, ...]:
        """The factors of every linear, layer by layer, where there are no texts."""
        types, of_types = len(self.H_A), []
        codes = self.codes(None)
        for offset, name in enumerate(self.H_A):
            own = codes[:, offset::types]  # (L, depth, hidden + 1)
            A = torch.bmm(own, self.H_A[name].flatten(2)).unflatten(2, self.H_A[name].shape[2:])
            B = torch.bmm(own, self.H_B[name].flatten(2)).unflatten(2, self.H_B[name].shape[2:])
            of_types.append((A, B.mT))
        return layer_by_layer(of_types)


@dataclass(frozen=True)
class Written(Context):
    """The hypernetwork and the codes p of every example and linear, (L, N, linears, hidden + 1)."""

    network: Hypernetwork | None = None
    codes: Tensor | None = None


class WrittenLinear(AdaptedLinear):
    """A linear whose factors differ from example to example; it forms neither of them."""

    def __init__(self, base: LaneLinear, scale: float, index: int, name: str) -> None:
        super().__init__(base)
        self.scale = scale
        self.index = index
        self.name = name

    def forward(self, h: Tensor, context: Context) -> tuple[Tensor, Context]:
        assert isinstance(context, Written)
        assert context.network is not None
        assert context.codes is not None
        H_A, H_B = context.network.H_A[self.name], context.network.H_B[self.name]
        p = context.codes[:, :, None, self.index, :, None]  # (L, N, 1, hidden + 1, 1)
        low = lane_linear(h, H_A.flatten(1, 2)).unflatten(-1, H_A.shape[1:3])
        low = (p * low).sum(-2)  # A h, (L, N, T, rank)
        spread = (p * low.unsqueeze(-2)).flatten(-2)  # (L, N, T, (hidden + 1) rank)
        y = self.base.project(h)
        return lane_linear_add(y, spread, H_B.flatten(1, 2).mT, self.scale), context


class TextToLoRA(HypernetworkAdapter):
    """Text-to-LoRA on every targeted linear."""

    Config: ClassVar = TextToLoRAConfig
    Hypernetwork: ClassVar = Hypernetwork
    reading: ClassVar = True
    looks: ClassVar = {"text_to_lora": Look("#9018fc", group=2, order=130)}

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> AdaptedLinear:
        if self.config.text_dim is None:
            return super().wrap(base, layer, name, draw)
        return WrittenLinear(base, self.config.scale, self.index(layer, name), name)

    def context(self, mask: Tensor | None = None, instruction: Tensor | None = None) -> Context:
        if self.config.text_dim is None:
            return super().context(mask, instruction)
        codes = self.hypernetwork.codes(instruction)
        return Written(mask, instruction, network=self.hypernetwork, codes=codes)
