"""What a forward pass carries beside the activations."""

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor


@dataclass(frozen=True)
class Context:
    """Per-example state, handed from linear to linear and never changed in place.

    A method with per-example state (routing) subclasses it and returns a renewed copy from its
    linears. Nothing is kept in globals or hooks, so compilation and activation checkpointing hold.

    Attributes:
        mask: (L, N, T) of bool, False on padding; None where there is none.
        instruction: what the examples were asked, encoded, (L, N, d_e); None where nothing was.
        penalty: what a method adds to the loss of each lane, (L,); None where nothing.
    """

    mask: Tensor | None = None
    instruction: Tensor | None = None
    penalty: Tensor | None = None

    def penalised(self, penalty: Tensor) -> Self:
        """With `penalty` (L,) added to what is carried already."""
        return replace(self, penalty=penalty if self.penalty is None else self.penalty + penalty)

    def token_mean(self, h: Tensor) -> Tensor:
        """Mean over the tokens that are not padding: (L, N, T, d) -> (L, N, d)."""
        if self.mask is None:
            return h.mean(2)
        kept = self.mask.unsqueeze(-1).to(h.dtype)
        return (h * kept).sum(2) / kept.sum(2).clamp_min(1.0)
