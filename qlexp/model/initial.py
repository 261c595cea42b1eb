"""Initial values of lane-stacked parameters, one generator a lane.

A lane draws from its own generator only, in float64, so that its start does not depend on its
neighbours or on the precision of the run.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Draw:
    """Draws parameters of shape (L, *shape) for the lanes of `seeds`.

    Args:
        seeds: one 64-bit seed a lane.
        dtype: the parameters' type.
    """

    def __init__(self, seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.dtype = dtype

    @property
    def lanes(self) -> int:
        return len(self.generators)

    def normal(self, *shape: int, std: float = 1.0) -> nn.Parameter:
        """Gaussian entries with deviation `std`."""
        return self._stack(
            [torch.randn(shape, generator=g, dtype=torch.float64) * std for g in self.generators]
        )

    def uniform(self, *shape: int, bound: float) -> nn.Parameter:
        """Entries uniform in [-bound, bound]."""
        return self._stack(
            [
                torch.rand(shape, generator=g, dtype=torch.float64) * (2 * bound) - bound
                for g in self.generators
            ]
        )

    def kaiming_uniform(self, *shape: int) -> nn.Parameter:
        """Entries uniform in ±1/sqrt(fan_in), fan_in the last axis: kaiming_uniform(a=sqrt 5)."""
        return self.uniform(*shape, bound=1 / math.sqrt(shape[-1]))

    def constant(self, *shape: int, value: float) -> nn.Parameter:
        """Every entry `value`."""
        return nn.Parameter(torch.full((self.lanes, *shape), value, dtype=self.dtype))

    def _stack(self, lanes: list[Tensor]) -> nn.Parameter:
        return nn.Parameter(torch.stack(lanes).to(self.dtype))


class Shapes(Draw):
    """Stands in for `Draw` where only shapes matter: one lane on the meta device."""

    def __init__(self) -> None:
        super().__init__([0])

    def normal(self, *shape: int, std: float = 1.0) -> nn.Parameter:
        return nn.Parameter(torch.empty(1, *shape, device="meta"))

    def uniform(self, *shape: int, bound: float) -> nn.Parameter:
        return nn.Parameter(torch.empty(1, *shape, device="meta"))

    def constant(self, *shape: int, value: float) -> nn.Parameter:
        return nn.Parameter(torch.empty(1, *shape, device="meta"))
