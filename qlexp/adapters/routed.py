"""The contract of a method that routes: what it offers beside that of `base`.

Its change is weighed, point by point, over the atoms of a bank. Whoever measures routes asks for
nothing but this class, so a method of any file takes part.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from qlexp.adapters.base import Adapter


@dataclass(frozen=True)
class RoutedLinear:
    """An adapted linear whose change at a point x is scale B (I + gate R_b(x)) A.

    Attributes:
        block: b, whose operator it is.
        A: (L, r, in). B: (L, out, r). gate: (L,).
    """

    layer: int
    name: str
    block: int
    A: Tensor
    B: Tensor
    gate: Tensor
    scale: float


class RoutedAdapter(Adapter):
    """A method that routes. Only `routes` is asked of all."""

    def routes(self, x: Tensor, instruction: Tensor | None = None) -> Tensor:
        """Atom weights of points x (L, N, 2) in every block: at least 0, sum 1, (L, N, N_b, K).

        Where every token has a route of its own (L, N, T, N_b, K).
        """
        raise TypeError(f"{type(self).__name__} does not say how it routes")

    def log_prior(self, instruction: Tensor | None) -> Tensor | None:
        """log pi(m | z) of a language prior, (L, N, K), of e(z) (L, N, d_e); None without one.

        The lane field `prior_strength` weighs it; `config.top_k` atoms get a weight.
        """
        return None

    def bank(self) -> Tensor | None:
        """Atoms M (L, K, r, r), where the weights of a block make an operator R = sum_m w_m M_m."""
        return None

    def routed_linears(self) -> Iterator[RoutedLinear]:
        """The linears that these operators go through, in the order of a forward pass."""
        yield from ()
