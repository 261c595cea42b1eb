"""What rows and columns are called and the order in which they always come."""

import re
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from qlexp import adapters
from qlexp.adapters.base import Adapter, Look
from qlexp.problem.functions import FUNCTIONS

ALL = "all"  # in a column `function`: over all functions
_UNKNOWN = 1000  # the order of a method without a look

SortKey = tuple[int, str]

for _module in iter_modules(adapters.__path__, f"{adapters.__name__}."):
    import_module(_module.name)


def _methods(base: type[Adapter] = Adapter) -> Iterator[type[Adapter]]:
    """The classes of all methods that are imported, those of qlexp among them."""
    for kind in base.__subclasses__():
        yield kind
        yield from _methods(kind)


def method_look(method: str) -> Look | None:
    """How the class of a method wants rows of this name to look; None: it does not say."""
    return next((kind.looks[method] for kind in _methods() if method in kind.looks), None)


def method_order(method: str) -> SortKey:
    """The frozen backbone first, then the adapters, full fine-tuning last."""
    look = method_look(method)
    return look.order if look else _UNKNOWN, method


REFERENCES = tuple(
    sorted({name for kind in _methods() if kind.reference for name in kind.looks}, key=method_order)
)  # no adapters: never ranked among them
FROZEN, UNRESTRICTED = REFERENCES[0], REFERENCES[-1]


def function_order(function: str) -> SortKey:
    """The order of `FUNCTIONS`; a function that is gone from there comes last, by name."""
    known = list(FUNCTIONS)
    return (known.index(function) if function in known else len(known)), function


def budget_order(budget: str) -> tuple[bool, list[int], str]:
    """Equal rank first, then equal counts by their rank."""
    return not _is_rank(budget), [int(digits) for digits in re.findall(r"\d+", budget)], budget


def row_order(budget: str, method: str, variant: str) -> tuple[object, ...]:
    """The key by which rows are sorted in every table and figure."""
    return budget_order(budget), method_order(method), variant


def function_title(function: str) -> str:
    """`drop_wave` -> "Drop-Wave"; of anything else, such as a task, its words."""
    return FUNCTIONS[function].title if function in FUNCTIONS else function.replace("_", " ")


def loss_title(loss: str) -> str:
    """`test_loss_clean` -> "test loss without noise"."""
    return loss.removesuffix("_clean").replace("_", " ") + " without noise" * loss.endswith(
        "_clean"
    )


def budget_title(budget: str) -> str:
    """`equal_rank`, `rank_8` -> "Equal rank"; `lora_r4` -> "Equal count: LoRA's at rank 4"."""
    if _is_rank(budget):
        return "Equal rank"
    if budget == "tuned":
        return "Tuned size"
    match = re.fullmatch(r"lora_r(\d+)", budget)
    return f"Equal count: LoRA's at rank {match[1]}" if match else budget


def _is_rank(budget: str) -> bool:
    return re.fullmatch(r"equal_rank|rank_\d+", budget) is not None


def row_label(method: str, variant: str) -> str:
    """A method with the overrides that tell its rows apart, if any."""
    return f"{method} ({variant})" if variant else method
