"""One training step at the paper's scale: LoRA and queryable against the GEMM floor and peft.

    python -m benchmarks.step [--repeats 10] [--eager] [--out results/benchmarks]

The floor is the arithmetic that no LoRA step can do without, at the rate at which this machine
multiplies matrices of the backbone's shapes in the same run: forward and input gradients of the
frozen linears, and the adapters' own products. A step is forward, backward and AdamW.
"""

import pandas as pd

from analysis.view import Shown
from benchmarks.contenders import COMPILED, REFERENCE, Call, Step
from benchmarks.report import arguments, grid, interval_text, publish, section
from benchmarks.timing import in_turns, median_of
from qlexp.environment import keep_freed_memory

PAPER = Step(depth=8, width=256, rows=1200, rank=8, lanes=1, atoms=32, key_dim=32)
METHODS = (REFERENCE, "queryable")
GEMMS, PEFT = "GEMMs of the backbone", "peft LoRA, eager"


def main() -> None:
    options = arguments(__doc__, repeats=10)
    keep_freed_memory()
    calls: dict[str, Call] = {GEMMS: PAPER.of_products(), PEFT: PAPER.of_peft()}
    for mode in options.modes:
        for method in METHODS:
            calls[f"{method}, {mode}"] = PAPER.of(method, mode == COMPILED)
    publish(shown(in_turns(calls, PEFT, options.repeats), options.modes[-1]), options.out)


def shown(rounds: pd.DataFrame, mode: str) -> Shown:
    """The figures; ratios of `mode` below."""
    frozen, adapters = PAPER.operations()
    floor = rounds[GEMMS] * (frozen + adapters) / frozen
    steps = rounds.drop(columns=GEMMS)
    rows = [
        [
            name,
            f"{seconds.median() * 1e3:.0f}",
            interval_text(median_of(seconds / floor)),
            interval_text(median_of(seconds / steps[PEFT])),
        ]
        for name, seconds in steps.items()
    ]
    lora, queryable = (rounds[f"{method}, {mode}"] for method in METHODS)
    notes = [
        f"{PAPER}.",
        f"Matrix rate {frozen / rounds[GEMMS].median() / 1e9:.0f} GFLOP/s; floor "
        f"{floor.median() * 1e3:.0f} ms.",
        f"lora / floor ({mode}): {interval_text(median_of(lora / floor))}",
        f"queryable / lora ({mode}): {interval_text(median_of(queryable / lora))}",
    ]
    headers = ["step", "ms", "over the floor", "over peft LoRA"]
    table = grid("step", "A training step", headers, section("", rows), notes=notes)
    return Shown(grids={"step": [table]})


if __name__ == "__main__":
    main()
