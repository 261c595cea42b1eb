"""What the paper claims of the use of atoms, on functions and on language models alike."""

from functools import partial

from analysis.claims.rules import ABOVE, Claim
from analysis.claims.traces import sparsity
from analysis.paper.names import PAPER, QUERYABLE, SETTLED


def sparsity_claim(answered_by: str) -> Claim:
    """That a bank's atoms are not all in use."""
    return Claim(
        "sparsity",
        "Atoms are used sparsely, not uniformly",
        f"{PAPER}, appendix C",
        "all atoms over those in effect used",
        partial(sparsity, QUERYABLE),
        answered_by,
        ABOVE,
        SETTLED,
    )
