"""Floating-point operations of a forward pass, two for a multiplication with an addition.

Matrix products alone are counted, as torch counts them: what is elementwise (softmax, top-k,
norms, gates) and what only moves numbers is not.
"""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count_flops(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Those of the products in one pass of `model`."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(*inputs)
    return counter.get_total_flops()
