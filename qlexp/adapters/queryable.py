"""Queryable LoRA: a shared bank of rank-space atoms, routed by the network's own state.

Source: "Queryable LoRA: Instruction-Regularized Routing Over Shared Low-Rank Update Atoms", arXiv
2605.08423, section 3.

    y = W h + s B (I + g R_b) A h

Every adapted linear has its own A, B and gate g; R_b (rank, rank), one per example and block, is
a sparse convex combination of the atoms of ONE bank. What the paper leaves open: one gate per
adapted linear, a state normalised by RMSNorm (`state_norm`), and the initial values (gate 0.5,
atoms Gaussian with deviation 1/sqrt(rank), so that neither waits for the other). Four parts can be
taken away or changed: the gates (`gated=false`: g = 1), the memory of earlier blocks
(`depth_summary=false`: q_b = q~_b), one route per example (`routing=token`: one per token;
`routing=static`: the state is not read, so q_b = p_b, and without a text every input takes the same
route), and one bank for all blocks (`bank=block`: it is dealt out, K / N_b atoms to each block).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from qlexp import routing
from qlexp.adapters.base import ALL_LINEARS, AdaptedLinear, Look, LowRankConfig
from qlexp.adapters.routed import RoutedAdapter, RoutedLinear
from qlexp.config.checks import bounded, one_of, require_at_most
from qlexp.config.roles import added
from qlexp.config.schema import BackboneConfig
from qlexp.errors import UsageError
from qlexp.model.backbone import Backbone
from qlexp.model.context import Context
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear, lane_down, lane_linear_add


@dataclass
class QueryableConfig(LowRankConfig):
    """LoRA's fields, and the bank's."""

    atoms: int = bounded(16, minimum=2)  # over one atom there is nothing to route
    key_dim: int | None = bounded(None, minimum=1)  # null: the rank
    top_k: int = bounded(4, minimum=1)
    block_size: int = bounded(2, minimum=1)
    gated: bool = True
    gate: float = bounded(0.5, minimum=-100.0, maximum=100.0)
    depth_summary: bool = True
    routing: str = one_of("example", "example", "token", "static")
    state_norm: bool = True
    straight_through: bool = False
    bank: str = added(one_of("network", "network", "block"))

    @property
    def d_k(self) -> int:
        return self.key_dim or self.rank

    def blocks(self, depth: int) -> int:
        """N_b: how many blocks cover the depth; the last may be shorter."""
        return -(-depth // self.block_size)

    def banks(self, depth: int) -> int:
        """How many parts of the bank there are; a block routes over one of them."""
        return self.blocks(depth) if self.bank == "block" else 1

    def check(self, backbone: BackboneConfig) -> None:
        super().check(backbone)
        size, depth = self.block_size, backbone.depth
        require_at_most("method.block_size", size, "the depth", "backbone.depth", depth)
        own, rest = divmod(self.atoms, self.banks(depth))
        if rest:
            raise UsageError(
                f"method.atoms={self.atoms} cannot be dealt out: under method.bank=block it must "
                f"be a multiple of the {self.banks(depth)} blocks."
            )
        limit = "method.atoms" if own == self.atoms else "method.atoms / blocks"
        require_at_most("method.top_k", self.top_k, "the bank", limit, own)
        if self.top_k == 1 and not self.straight_through:
            raise UsageError(
                "method.top_k=1 gives the router no gradient: use top_k of at least 2, or name "
                "method.straight_through=true."
            )


class Router(nn.Module):
    """The bank (keys, atoms) and the maps that query it; shared by all blocks and linears.

    What cannot learn is not built: a static route reads no state, so no U, S and V; one block has
    no earlier one, so no S and V; with two, the softmax over one block has no gradient, so no V.
    Shapes are those of one route per example; with one per token, (L, N, T, ...) stands for every
    (L, N, ...).
    """

    def __init__(self, config: QueryableConfig, depth: int, draw: Draw) -> None:
        super().__init__()
        self.config = config
        self.own = config.atoms // config.banks(depth)  # atoms that a block routes over
        rank, d_k, blocks = config.rank, config.d_k, config.blocks(depth)
        reads = config.routing != "static"
        remembered = blocks - 1 if reads and config.depth_summary else 0  # earlier ones of the last
        self.keys = draw.normal(config.atoms, d_k)
        self.atoms = draw.normal(config.atoms, rank, rank, std=rank**-0.5)
        self.priors = draw.normal(blocks, d_k, std=0.5)
        self.U = draw.normal(d_k, rank, std=rank**-0.5) if reads else None
        self.S = draw.normal(d_k, rank, std=rank**-0.5) if remembered > 0 else None
        self.V = draw.normal(d_k, rank, std=rank**-0.5) if remembered > 1 else None

    def pre_query(self, block: int, state: Tensor, instruction: Tensor | None) -> Tensor:
        """q~_b = p_b + U u_b, (L, N, d_k), from the block-entry state (L, N, rank)."""
        return routing.pre_query(self.normed(state), self.priors[:, block], self.U)

    def normed(self, state: Tensor) -> Tensor:
        return routing.rms_norm(state) if self.config.state_norm else state

    def query(
        self,
        block: int,
        state: Tensor,
        averages: tuple[Tensor, ...],
        instruction: Tensor | None = None,
    ) -> Tensor:
        """q_b = q~_b + S c_b, (L, N, d_k), with the averages of the earlier blocks."""
        query = self.pre_query(block, state, instruction)
        if self.S is None or not averages:
            return query
        return routing.query(query, routing.depth_summary(query, averages, self.V), self.S)

    def route(
        self,
        block: int,
        state: Tensor,
        averages: tuple[Tensor, ...],
        instruction: Tensor | None = None,
    ) -> Tensor:
        """w_b, (L, N, K)."""
        query = self.query(block, state, averages, instruction)
        return self.weights(self.within(block, self.logits(query, instruction)))

    def logits(self, query: Tensor, instruction: Tensor | None = None) -> Tensor:
        """q · k_m / sqrt(d_k), (L, N, K)."""
        return routing.logits(query, self.keys)

    def log_prior(self, instruction: Tensor | None) -> Tensor | None:
        """log pi(m | z), (L, N, K), of e(z) (L, N, d_e); None without a language prior."""
        return None

    def within(self, block: int, logits: Tensor) -> Tensor:
        """Logits (L, N, K) with those of other blocks' atoms at minus infinity."""
        if self.own == self.config.atoms:
            return logits
        places = torch.arange(self.config.atoms, device=logits.device)
        return logits.masked_fill(places // self.own != block, -torch.inf)

    def weights(self, logits: Tensor) -> Tensor:
        """The sparse convex combination, (L, N, K)."""
        return routing.top_k_weights(logits, self.config.top_k, self.config.straight_through)


@dataclass(frozen=True)
class Routing(Context):
    """The route so far; with one route per token, (L, N, T, ...) stands for every (L, N, ...).

    Attributes:
        router: the bank.
        operator: R of the current block, (L, rank, rank, N); None with one route per token.
        weights: w of every block so far, (L, N, K) each.
        states: A h at the first adapted linear of the current block's layers, means over tokens.
        averages: v_j, the mean of the states of every block left behind, (L, N, rank) each.
    """

    router: Router | None = None
    operator: Tensor | None = None
    weights: tuple[Tensor, ...] = ()
    states: tuple[Tensor, ...] = ()
    averages: tuple[Tensor, ...] = ()

    def enter_layer(self, layer: int, low: Tensor) -> Self:
        """Notes the state of a layer, and routes where a block begins; low (L, N, T, rank)."""
        assert self.router is not None
        per_token = self.router.config.routing == "token"
        return self.enter(layer, low if per_token else self.token_mean(low))

    def enter(self, layer: int, state: Tensor) -> Self:
        """The same with the state (L, N, rank), or (L, N, T, rank) with one route per token."""
        router = self.router
        assert router is not None
        if layer % router.config.block_size:
            return replace(self, states=(*self.states, state))
        averages = self.averages
        if self.states:
            averages = (*averages, sum(self.states[1:], self.states[0]) / len(self.states))
        per_token, instruction = router.config.routing == "token", self.instruction
        if per_token and instruction is not None:
            instruction = instruction.unsqueeze(2).expand(-1, -1, state.shape[2], -1)
        block = layer // router.config.block_size
        weights = router.route(block, state, averages, instruction)
        return replace(
            self,
            operator=None if per_token else routing.operator(weights, router.atoms),
            weights=(*self.weights, weights),
            states=(state,),
            averages=averages,
        )

    def routed(self, low: Tensor) -> Tensor:
        """R low of the current block, in the shape of low (L, N, T, rank)."""
        assert self.router is not None
        if self.operator is None:
            return routing.apply_atoms(self.weights[-1], self.router.atoms, low)
        return routing.apply_operator(self.operator, low)


class QueryableLinear(AdaptedLinear):
    """LoRA's factors with the routed operator between them.

    `layer` is given to the first adapted linear of a layer, whose A h is the layer's state.
    """

    def __init__(
        self, base: LaneLinear, config: QueryableConfig, draw: Draw, layer: int | None
    ) -> None:
        super().__init__(base)
        self.scale = config.scale
        self.layer = layer
        self.A = draw.kaiming_uniform(config.rank, base.d_in)
        self.B = draw.constant(base.d_out, config.rank, value=0.0)
        self.gate = draw.constant(value=config.gate) if config.gated else None  # (L,)

    @property
    def gates(self) -> Tensor:
        """g of every lane, (L,)."""
        return self.A.new_ones(len(self.A)) if self.gate is None else self.gate

    def forward(self, h: Tensor, context: Context) -> tuple[Tensor, Context]:
        assert isinstance(context, Routing)
        low = lane_down(h, self.A)  # (L, N, T, rank)
        if self.layer is not None:
            context = context.enter_layer(self.layer, low)
        routed = context.routed(low)
        if self.gate is not None:
            routed = self.gate[:, None, None, None] * routed
        return lane_linear_add(self.base.project(h), low + routed, self.B, self.scale), context


class Queryable(RoutedAdapter):
    """State-routed queryable LoRA."""

    Config: ClassVar = QueryableConfig
    near_lora: ClassVar = True
    looks: ClassVar = {"queryable": Look("#b52a00", group=0, order=140)}

    def __init__(self, backbone: Backbone, config: QueryableConfig, draw: Draw) -> None:
        super().__init__(backbone, config, draw)
        self.router = self.build_router(config, backbone.config.depth, draw)

    def build_router(self, config: Any, depth: int, draw: Draw) -> Router:
        return Router(config, depth, draw)

    def wrap(self, base: LaneLinear, layer: int, name: str, draw: Draw) -> QueryableLinear:
        first = next(target for target in ALL_LINEARS if target in self.config.targets)
        return QueryableLinear(base, self.config, draw, layer if name == first else None)

    def context(self, mask: Tensor | None = None, instruction: Tensor | None = None) -> Routing:
        return Routing(mask, instruction, router=self.router)

    def merged(self, linear: AdaptedLinear) -> Tensor:
        if self.config.routing != "static" or self.config.instruction_size is not None:
            return super().merged(linear)
        assert isinstance(linear, QueryableLinear)
        A, gate = linear.A, linear.gates[:, None, None]
        block = next(own.block for own in self.routed_linears() if own.A is A)
        unread = A.new_zeros(len(A), 1, self.config.rank)
        R = routing.operator(self.router.route(block, unread, ()), self.router.atoms).squeeze(-1)
        return linear.base.weight + linear.scale * linear.B @ (A + gate * R @ A)

    def routes(self, x: Tensor, instruction: Tensor | None = None) -> Tensor:
        _, context = self.run(x, instruction)
        assert isinstance(context, Routing)
        return torch.stack(context.weights, dim=-2)

    def log_prior(self, instruction: Tensor | None) -> Tensor | None:
        return self.router.log_prior(instruction)

    def bank(self) -> Tensor:
        return self.router.atoms

    def routed_linears(self) -> Iterator[RoutedLinear]:
        for index, layer in enumerate(self.backbone.layers):
            for name in ALL_LINEARS:
                linear = getattr(layer, name)
                if isinstance(linear, QueryableLinear):
                    block = index // self.config.block_size
                    yield RoutedLinear(
                        index, name, block, linear.A, linear.B, linear.gates, linear.scale
                    )
