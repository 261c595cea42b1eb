"""What a field of the config is for, said where the field is declared."""

from dataclasses import Field, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from omegaconf import MISSING


class Role(StrEnum):
    """What another value of a setting changes."""

    PROBLEM = "problem"  # what all methods of a cell share: task, frozen network, measurement
    METHOD = "method"  # what one method does with it
    NUMERICS = "numerics"  # the arithmetic that all methods of a cell share
    REPORT = "report"  # a mark in the tables
    PLACE = "place"  # where and how a run is computed, kept and mirrored


SHARED = (Role.PROBLEM, Role.NUMERICS)  # another value is another condition
OUTSIDE = (Role.REPORT, Role.PLACE)  # no part of a run's identity, and no setting of a row


def plays(role: Role, item: Any = MISSING) -> Any:
    """A field, or one with the default `item`, that plays `role`, and so do the fields below it."""
    return _marked(item, role=role)


def added(item: Any) -> Any:
    """A field, or one with the default `item`, that older runs do not have.

    Its default is what runs did before there was the field, and never changes; its YAML may set
    another value. Ids leave the field out while it holds its default, so that stored runs keep
    theirs.
    """
    return _marked(item, added=True)


def _marked(item: Any, **marks: Any) -> Any:
    """The dataclass field `item`, or one with that default, with more metadata."""
    made: Field[Any] = item if isinstance(item, Field) else field(default=item)
    made.metadata = MappingProxyType({**made.metadata, **marks})
    return made
