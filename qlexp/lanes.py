"""Which runs train together."""

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def batches(items: Iterable[Item], key: Callable[[Item], Hashable], width: int) -> list[list[Item]]:
    """Cuts `items` into batches of equal `key` and at most `width` lanes, in order of appearance.

    The batches of one key have sizes as equal as can be, so that none is left nearly empty.
    """
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    cut = []
    for group in groups.values():
        count = -(-len(group) // width)
        bounds = [len(group) * index // count for index in range(count + 1)]
        cut += [group[low:high] for low, high in zip(bounds, bounds[1:], strict=False)]
    return cut
