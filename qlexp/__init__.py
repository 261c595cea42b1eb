"""qlexp: does one parameter-efficient fine-tuning method really beat another?"""

from typing import TYPE_CHECKING, Any

from qlexp.errors import UsageError
from qlexp.extensions import extend

if TYPE_CHECKING:
    from qlexp.cell import Result, run

__all__ = ["Result", "UsageError", "extend", "run"]


def __getattr__(name: str) -> Any:
    """`run` and `Result`, which need torch: the command's help does not wait for it."""
    if name not in ("Result", "run"):
        raise AttributeError(f"module 'qlexp' has no attribute '{name}'")
    from qlexp import cell  # noqa: PLC0415

    return getattr(cell, name)
