"""Floating-point operations of a forward pass, two for a multiplication with an addition.

Contractions are counted, whether a matrix product does them or a multiplication whose result is
summed at once (queryable's R A h, scores of attention, norms expanded by DoRA). What multiplies
without a sum over the products (gates, a softmax, top-k, norms, the blend of two values in the
backbone's attention) is not. Mixtures count as the code computes them: over the whole pool, with
zeros for what was not chosen.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakTensorKeyDictionary


def count_flops(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Those of the contractions in one pass of `model`."""
    products, written_out = FlopCounterMode(display=False), _WrittenOut()
    with torch.no_grad(), products, written_out:
        model(*inputs)
    return products.get_total_flops() + written_out.flops


class _WrittenOut(TorchDispatchMode):
    """Counts the sums of elementwise products of two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self._products: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        operation = getattr(func, "overloadpacket", None)
        if operation is torch.ops.aten.mul and all(isinstance(a, Tensor) for a in args):
            self._products[result] = True
        elif operation is torch.ops.aten.sum and args[0] in self._products:
            self.flops += 2 * args[0].numel()
        return result
