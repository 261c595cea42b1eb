"""Ranges beside the fields they bound: dataclasses that refuse values outside them.

OmegaConf checks the type of a field when Hydra composes the config; `Checked` adds the range. Both
happen before any compute.
"""

import math
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from qlexp.errors import UsageError, unknown_name


def bounded(
    default: Any = MISSING,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> Any:
    """A number field: `minimum <= value <= maximum` and `above < value < below`; None passes."""
    return field(
        default=default,
        metadata={"bounds": (minimum, maximum, above, below)},
    )


def one_of(default: str, *options: str) -> Any:
    """A text field that takes one of `options`."""
    return field(default=default, metadata={"options": options})


def require_at_most(name: str, value: int, what: str, limit: str, most: int) -> None:
    """Refuses a field `name` of `value` above `most`, which the field `limit` says of `what`."""
    if value > most:
        raise UsageError(f"{name}={value} exceeds {what}: it must be at most {limit}={most}.")


@dataclass
class Checked:
    """Base of all config dataclasses: a value outside its field's range raises `UsageError`."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            if "options" in item.metadata and value not in item.metadata["options"]:
                raise unknown_name(item.name, value, item.metadata["options"])
            if "bounds" in item.metadata:
                _check_bounds(item.name, value, *item.metadata["bounds"])


def _check_bounds(
    name: str, value: float, minimum: float, maximum: float, above: float, below: float
) -> None:
    if minimum <= value <= maximum and above < value < below:
        return
    wanted = [
        text
        for bound, text in (
            (minimum, f"at least {minimum:g}"),
            (maximum, f"at most {maximum:g}"),
            (above, f"above {above:g}"),
            (below, f"below {below:g}"),
        )
        if math.isfinite(bound)
    ]
    raise UsageError(f"{name}={value:g} is out of range: it must be {' and '.join(wanted)}.")
