"""What rows and columns are called and the order in which they always come."""

import re

from qlexp.problem.functions import FUNCTIONS

FROZEN = "frozen"
UNRESTRICTED = "full"
ALL = "all"  # in a column `function`: over all functions
REFERENCES = (FROZEN, "full_adamw", UNRESTRICTED)  # no adapters: never ranked among them

_ADAPTERS = (
    "lora",
    "rslora",
    "dora",
    "shared_lora",
    "vera",
    "vb_lora",
    "lily",
    "mix_lora",
    "moe_lora",
    "rep_lora",
    "doran",
    "hyra",
    "text_to_lora",
    "queryable",
    "instruction_queryable",
    "prior_only",
    "query_only",
)  # an unknown adapter follows, by name

SortKey = tuple[int, str]


def method_order(method: str) -> SortKey:
    """The frozen backbone first, then the adapters, full fine-tuning last."""
    if method == FROZEN:
        return 0, method
    if method in REFERENCES:
        return 200 + REFERENCES.index(method), method
    return (1 + _ADAPTERS.index(method) if method in _ADAPTERS else 100), method


def function_order(function: str) -> SortKey:
    """The order of `FUNCTIONS`; a function that is gone from there comes last, by name."""
    known = list(FUNCTIONS)
    return (known.index(function) if function in known else len(known)), function


def budget_order(budget: str) -> tuple[bool, list[int], str]:
    """Equal rank first, then equal counts by their rank."""
    return not _is_rank(budget), [int(digits) for digits in re.findall(r"\d+", budget)], budget


def function_title(function: str) -> str:
    return FUNCTIONS[function].title if function in FUNCTIONS else function


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


STYLE = " (style)"  # after the label of a method whose formula is partly a reading of its paper
STYLE_NOTE = (
    "style: the method's formula is partly this project's reading of its paper; claims leave it "
    "out."
)


def row_label(method: str, variant: str) -> str:
    """A method with the overrides that tell its rows apart, if any."""
    return f"{method} ({variant})" if variant else method
