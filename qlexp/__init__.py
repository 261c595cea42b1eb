"""qlexp: does one parameter-efficient fine-tuning method really beat another?"""

from qlexp.errors import UsageError
from qlexp.main import Result, run

__all__ = ["Result", "UsageError", "run"]
