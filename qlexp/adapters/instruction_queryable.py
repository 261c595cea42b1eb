"""Instruction-regularised routing: queryable LoRA whose route also reads a text.

Source: arXiv 2605.08423, section 3. With e(z) the encoded instruction (L, N, d_e):

    q~_b   = p_b + U u_b + Z e(z)                            the query channel
    pi     = softmax_m(k_m . P e(z) / sqrt(d_k))             the language prior
    l_bm   = q_b . k_m / sqrt(d_k) + lambda log pi(m | z)    the prior channel

The weights are then those of the maximiser of <w, s> - KL(w || pi^lambda / Z_lambda) over the
simplex. `channels` takes one of the two away, to tell them apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from qlexp import routing
from qlexp.adapters.base import Look
from qlexp.adapters.queryable import Queryable, QueryableConfig, Router
from qlexp.config.checks import bounded, one_of
from qlexp.errors import UsageError
from qlexp.model.initial import Draw


@dataclass
class InstructionQueryableConfig(QueryableConfig):
    """Queryable LoRA's fields, and how the text enters the route."""

    instruction_dim: int = bounded(16, minimum=1)
    channels: str = one_of("both", "both", "prior", "query")
    prior_strength: float = bounded(1.0, minimum=0.0)  # lambda

    @property
    def instruction_size(self) -> int:
        return self.instruction_dim


class InstructedRouter(Router):
    """Router with Z and P (d_k, d_e), each only where its channel is open."""

    prior_strength: Tensor  # lambda, (L,)

    def __init__(self, config: InstructionQueryableConfig, depth: int, draw: Draw) -> None:
        super().__init__(config, depth, draw)
        shape, std = (config.d_k, config.instruction_dim), config.instruction_dim**-0.5
        self.Z = draw.normal(*shape, std=std) if config.channels != "prior" else None
        self.P = draw.normal(*shape, std=std) if config.channels != "query" else None
        strength = draw.constant(value=config.prior_strength).detach()
        self.register_buffer("prior_strength", strength, persistent=False)

    def pre_query(self, block: int, state: Tensor, instruction: Tensor | None) -> Tensor:
        text = None if self.Z is None else _given(instruction)
        prior = self.priors[:, block]
        return routing.pre_query(self.normed(state), prior, self.U, text, self.Z)

    def logits(self, query: Tensor, instruction: Tensor | None = None) -> Tensor:
        logits, prior = super().logits(query), self.log_prior(instruction)
        if prior is None:
            return logits
        return routing.regularised(logits, prior, self.prior_strength)

    def log_prior(self, instruction: Tensor | None) -> Tensor | None:
        if self.P is None:
            return None
        return routing.log_prior(_given(instruction), self.P, self.keys)


def _given(instruction: Tensor | None) -> Tensor:
    if instruction is None:
        raise UsageError(
            "This adapter reads an instruction and was given none: pass e(z) of shape (L, N, d_e)."
        )
    return instruction


class InstructionQueryable(Queryable):
    """Queryable LoRA, routed by state and instruction; lambda may differ from lane to lane."""

    Config: ClassVar = InstructionQueryableConfig
    lane_fields: ClassVar = ("prior_strength",)
    looks: ClassVar = {
        "instruction_queryable": Look("#904890", group=0, order=150),
        "prior_only": Look("#d95a95", group=2, order=160),
        "query_only": Look("#7d7a1a", group=2, order=170),
    }
    router: InstructedRouter

    def build_router(self, config: Any, depth: int, draw: Draw) -> InstructedRouter:
        return InstructedRouter(config, depth, draw)

    def set_lane_fields(self, values: Mapping[str, Tensor]) -> None:
        self.router.prior_strength.copy_(values["prior_strength"])
