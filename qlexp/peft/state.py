"""The routing state that travels with a token through the decoder.

Decoder layers hand on hidden states alone, so the route of the forward pass in progress lies in a
`Carrier` that the adapted linears share. A route itself is never changed in place, and gradient
checkpointing passes its tensors through the checkpoint (`qlexp.peft.checkpointing`): nothing that
is differentiated depends on what else the carrier has held.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from qlexp import routing
from qlexp.adapters.queryable import Routing
from qlexp.errors import UsageError
from qlexp.peft.mixing import MixedAtoms


@dataclass(frozen=True)
class Route(Routing):
    """The routes (1, N, T, ...) of N sequences of T new tokens; the lane axis has one lane.

    Only the weights of the current block are kept. Where T = 1, a step of generation, its operators
    are formed: `operator` is then R transposed, (N, rank, rank), ready for a row from the left.

    Attributes:
        layer: the adapted decoder layer that the pass is in.
        share: 1 over how many tokens, padding left out, there are so far, (1, N or 1, T, 1); None
            where a token's route depends on that token alone.
        past: sums of A h over cached tokens by layer, (1, N, D, rank); None: no cached tokens.
        sums: what the cache wants, where there is one: how many tokens there are so far,
            (1, N, T, 1), and the sums of A h over them in each layer so far, (1, N, T, rank).
    """

    layer: int = -1
    share: Tensor | None = None
    past: Tensor | None = None
    sums: tuple[Tensor, ...] = ()

    def enter_layer(self, layer: int, low: Tensor) -> Self:
        """Notes the state of a layer, and routes where a block begins; low (1, N, T, rank)."""
        router = self.router
        assert router is not None
        state, sums = low.to(router.keys.dtype), self.sums
        if self.share is not None:
            total = self.running_sum(layer, state)
            state = total * self.share
            if sums:
                sums = (*sums, total)
        route = replace(self.enter(layer, state), layer=layer, sums=sums)
        if not route.begins_block:
            return route
        weights, operator = route.weights[-1], None
        if low.shape[2] == 1:
            operator = routing.operator(weights.squeeze(2), router.atoms)[0].permute(2, 1, 0)
        return replace(route, weights=(weights,), operator=operator)

    @property
    def begins_block(self) -> bool:
        """Whether the layer is the first of its block."""
        assert self.router is not None
        return self.layer % self.router.config.block_size == 0

    def running_sum(self, layer: int, low: Tensor) -> Tensor:
        """Sum of A h over the tokens so far, padding left out; (1, N, T, rank), as low."""
        if self.mask is not None:
            low = low * self.mask.unsqueeze(-1)
        total = low.cumsum(2) if low.shape[2] > 1 else low
        return total if self.past is None else total + self.past[:, :, layer].unsqueeze(2)

    def apply(self, low: Tensor) -> Tensor:
        """R low of the current block, in the shape and type of low (N, T, rank)."""
        if self.operator is not None:
            return torch.bmm(low, self.operator.to(low.dtype))
        assert self.router is not None
        weights, atoms = self.weights[-1].to(low.dtype), self.router.atoms.to(low.dtype)
        mixed: Tensor = MixedAtoms.apply(weights, atoms, low.unsqueeze(0))
        return mixed.squeeze(0)

    def tensors(self) -> tuple[Tensor, ...]:
        """What a layer may change of the route and a gradient flows through, in a fixed order."""
        operator = () if self.operator is None else (self.operator,)
        return (*self.weights, *self.states, *self.averages, *self.sums, *operator)

    def refilled(self, tensors: Sequence[Tensor]) -> Self:
        """This route with other `tensors()` of the same number."""
        rest = iter(tensors)

        def like(old: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(next(rest) for _ in old)

        return replace(
            self,
            weights=like(self.weights),
            states=like(self.states),
            averages=like(self.averages),
            sums=like(self.sums),
            operator=next(rest, None),
        )


class Carrier:
    """Holds the route of the forward pass in progress.

    Attributes:
        route: None outside of a pass, or without an active adapter.
        routes: takes the weights (N, T, K) of every block, if somebody wants them.
        instruction: the encoded texts of the passes to come, (n, d_e); None: there are none.
    """

    def __init__(self) -> None:
        self.route: Route | None = None
        self.routes: list[Tensor] | None = None
        self.instruction: Tensor | None = None

    def routed(self, layer: int, low: Tensor) -> Tensor:
        """R A h of the tokens, low = A h (N, T, rank), in a linear of adapted layer `layer`.

        The first linear that a layer runs gives the layer's state.
        """
        route = self.route
        if route is None or low.ndim != 3:
            raise UsageError(
                "An adapted linear wants hidden states (examples, tokens, width) within a forward "
                "pass of the whole decoder: leave linears that see anything else out of "
                "target_modules."
            )
        if route.layer != layer:
            with _unrounded(low.device.type):
                route = self.route = route.enter_layer(layer, low.unsqueeze(0))
            if self.routes is not None and route.begins_block:
                self.routes.append(route.weights[-1].squeeze(0))
        return route.apply(low)

    @contextmanager
    def carrying(self, route: Route) -> Iterator[None]:
        """Within it `route` is the one in progress, which may move on; after it, what was."""
        before, self.route = self.route, route
        try:
            yield
        finally:
            self.route = before


def _unrounded(device: str) -> AbstractContextManager[Any]:
    """Within it nothing is cast to fewer bits."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
