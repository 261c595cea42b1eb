"""Why runs say little of the methods that they compare, by the flags of the long table."""

import pandas as pd

from analysis.benchmark import benchmark_of
from analysis.names import UNRESTRICTED, function_order, function_title, method_order


def doubts(cells: pd.DataFrame) -> list[str]:
    """In words what is to be doubted of `cells`, rows of `analysis.table`, and what mends it."""
    everywhere = set(cells["function"])
    little = cells[cells["little_learnt"]]
    learners = ", ".join(sorted(set(little["method"]), key=method_order))
    share = f"{benchmark_of(cells).least_learnt:.0%}".replace("%", " %")
    found = {
        "weak backbone on {}": cells[cells["weak_backbone"]],
        "targets beyond the frozen head's reach on {}": cells[cells["beyond_reach"]],
        f"{learners} learnt less than {share} of what the frozen backbone lacks on {{}}": little,
        f"learnability not checked on {{}} (add method={UNRESTRICTED} to the study)": cells[
            ~cells["learnability_checked"]
        ],
    }
    return [
        text.format(_listed(set(part["function"]), everywhere))
        for text, part in found.items()
        if len(part)
    ]


def _listed(functions: set[str], everywhere: set[str]) -> str:
    if functions == everywhere and len(functions) > 3:
        return f"all {len(functions)} functions"
    return ", ".join(map(function_title, sorted(functions, key=function_order)))
