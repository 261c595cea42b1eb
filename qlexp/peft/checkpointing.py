"""Gradient checkpointing of decoder layers that read and move on a route.

A checkpoint runs a layer a second time in the backward pass. There the route must be the one that
the layer saw the first time, and gradients must flow into it; with `use_reentrant=True` they flow
through the checkpoint's arguments and results only. So the route's tensors are made just that.
"""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from qlexp.peft.state import Carrier


class RoutedCheckpoint:
    """In place of the `checkpoint` function of a decoder layer; takes and gives the route too."""

    def __init__(self, checkpoint: Callable[..., Any], carrier: Carrier) -> None:
        self.checkpoint, self.carrier = checkpoint, carrier

    def __call__(self, layer: Callable[..., Any], *args: Any) -> Any:
        entered = self.carrier.route
        if entered is None:
            return self.checkpoint(layer, *args)
        tensors, first, left = entered.tensors(), True, entered

        def run(*inputs: Any) -> tuple[Tensor, ...]:
            nonlocal left
            with self.carrier.carrying(entered.refilled(inputs[: len(tensors)])):
                output = layer(*inputs[len(tensors) :])
                route = self.carrier.route
            assert route is not None
            if first:
                left = route
            return (*route.tensors(), *(output if isinstance(output, tuple) else (output,)))

        outputs = self.checkpoint(run, *tensors, *args)
        moved = len(left.tensors())
        self.carrier.route = left.refilled(outputs[:moved])
        first, left = False, entered  # the second run leaves nothing behind
        return outputs[moved:] if len(outputs) > moved + 1 else outputs[moved]


def route_checkpoints(layers: Iterable[Any], carrier: Carrier) -> None:
    """Has every checkpoint among decoder layers carry the route; once is enough."""
    for layer in layers:
        function = getattr(layer, "_gradient_checkpointing_func", None)
        if function is not None and not isinstance(function, RoutedCheckpoint):
            layer._gradient_checkpointing_func = RoutedCheckpoint(function, carrier)


def unroute_checkpoints(layers: Iterable[Any]) -> None:
    """Gives the layers their own checkpoint functions back."""
    for layer in layers:
        function = getattr(layer, "_gradient_checkpointing_func", None)
        if isinstance(function, RoutedCheckpoint):
            layer._gradient_checkpointing_func = function.checkpoint
