"""A training step of every method in lanes, over LoRA's in the same run.

    python -m benchmarks.methods [--repeats 10] [--eager] [--out results/benchmarks]

9 lanes of the small network (width 32, depth 8, 256 rows), every method that trains, at rank 4
where it has a rank, with the optimiser of its YAML. A method that reads an instruction gets one.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.names import method_order
from analysis.view import Shown
from benchmarks.contenders import COMPILED, REFERENCE, Step
from benchmarks.report import arguments, grid, interval_text, publish, section
from benchmarks.timing import in_turns, median_of
from qlexp.adapters.budget import trainable_count
from qlexp.environment import keep_freed_memory
from qlexp.main import choices

SMALL = Step()
SLOW = 1.5  # a ratio above it wants a reason
REASONS = {  # shown where the ratio is above SLOW
    "mix_lora": "six times LoRA's numbers a token (two routers beside a pool of twice the rank), "
    "and what picks and pairs them: two top-k, three scatters and a gather a linear",
    "moe_lora": "three experts of LoRA's rank, and a top-k for every token of every linear",
    "ld_mole": "three experts of LoRA's rank, and a sort for every token of every linear",
    "doran": "row norms of W + s B A anew in every linear, on factors that networks make",
    "full": "SOAP: products with two bases for every matrix; a tenth of the steps also turns the "
    "bases, which a median does not show",
}


def main() -> None:
    options = arguments(__doc__, repeats=10)
    keep_freed_memory()
    methods = training(SMALL)
    rounds = {}
    for mode in options.modes:
        calls = {name: SMALL.of(name, mode == COMPILED) for name in methods}
        rounds[mode] = in_turns(calls, REFERENCE, options.repeats)
    counts = {name: trainable_count(SMALL.configs(name)[0]) for name in methods}
    publish(shown(rounds, counts), options.out)


def training(step: Step) -> list[str]:
    """The methods of `conf/method` that have a training step."""
    names = sorted(choices("method"), key=method_order)
    return [name for name in names if step.configs(name)[0].method.kind.trains]


def shown(rounds: Mapping[str, pd.DataFrame], counts: Mapping[str, int]) -> Shown:
    """The figures; rounds by mode, parameters of a lane by method."""
    headers, rows = ["method", "parameters"], {n: [n, f"{c:,}"] for n, c in counts.items()}
    slowest = dict.fromkeys(counts, 0.0)
    for mode, seconds in rounds.items():
        headers += [f"{mode}, ms", f"over {REFERENCE}"]
        for name, cells in rows.items():
            ratio = median_of(seconds[name] / seconds[REFERENCE])
            cells += [f"{seconds[name].median() * 1e3:.1f}", interval_text(ratio)]
            slowest[name] = max(slowest[name], ratio.value)
    for name, cells in rows.items():
        cells.append(REASONS.get(name, "not known") if slowest[name] > SLOW else "")
    notes = [
        f"{SMALL}.",
        "A step of all lanes, median; ratios are medians over rounds that all methods take part "
        "in, with 95 % intervals. Parameters are those of one lane.",
    ]
    headers.append(f"why above {SLOW}")
    listed: Sequence[list[str]] = list(rows.values())
    table = grid("methods", "A step of every method", headers, section("", listed), notes=notes)
    return Shown(grids={"methods": [table]})


if __name__ == "__main__":
    main()
