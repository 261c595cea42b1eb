"""A training step of every method in lanes, over LoRA's in the same run.

    python -m benchmarks.methods [--repeats 10] [--eager] [--out results/benchmarks]

9 lanes of the small network (width 32, depth 8, 256 rows), every method that trains, at rank 4
where it has a rank, with the optimiser of its YAML. A method that reads an instruction gets one.
"""

import statistics
from collections.abc import Sequence

import torch

from analysis.inference.timing import in_turns
from analysis.names import method_order
from analysis.ratios import Ratio, paired_ratio
from benchmarks.contenders import Setting, lane_step
from benchmarks.report import arguments, publish
from qlexp.adapters.budget import trainable_count
from qlexp.environment import device_name, keep_freed_memory, versions
from qlexp.main import choices

SETTING = Setting()
REFERENCE = "lora"
SLOW = 1.5  # a ratio above it wants a reason
REASONS = {  # shown where the ratio is above SLOW
    "mix_lora": "six times LoRA's numbers a token (two routers beside a pool of twice the rank), "
    "and what picks and pairs them: two top-k, three scatters and a gather a linear",
    "moe_lora": "three experts of LoRA's rank, and a top-k for every token of every linear",
    "doran": "row norms of W + s B A anew in every linear, on factors that networks make",
    "full": "SOAP: products with two bases for every matrix; a tenth of the steps also turns the "
    "bases, which a median does not show",
}

Seconds = dict[str, dict[str, list[float]]]  # by mode and method, a value a round


def main() -> None:
    options = arguments(__doc__, repeats=10)
    keep_freed_memory()
    modes = ["eager"] if options.eager else ["eager", "compiled"]
    methods = trained(SETTING)
    seconds: Seconds = {}
    for mode in modes:
        calls = {name: lane_step(SETTING, name, mode == "compiled") for name in methods}
        seconds[mode] = in_turns(calls, REFERENCE, options.repeats)
    counts = {name: trainable_count(SETTING.configs(name)[0]) for name in methods}
    publish(render(seconds, counts), options.out, "methods.md")


def trained(setting: Setting) -> list[str]:
    """The methods of `conf/method` that have a training step."""
    names = sorted(choices("method"), key=method_order)
    return [name for name in names if setting.configs(name)[0].method.kind.trains]


def render(seconds: Seconds, counts: dict[str, int]) -> str:
    """The figures as Markdown."""
    modes = list(seconds)
    ratios = {
        mode: {name: paired_ratio(own, of[REFERENCE]) for name, own in of.items()}
        for mode, of in seconds.items()
    }
    head = ["method", "parameters", *(f"{mode}, ms | over {REFERENCE}" for mode in modes)]
    rows = []
    for name, count in counts.items():
        cells = [name, f"{count:,}"]
        for mode in modes:
            cells += [milliseconds(seconds[mode][name]), interval(ratios[mode][name])]
        rows.append([*cells, reason(name, [ratios[mode][name].median for mode in modes])])
    lines = [" | ".join([*head, f"why above {SLOW}"]), "|".join(["---"] * (3 + 2 * len(modes)))]
    lines += [" | ".join(cells) for cells in rows]
    return "\n".join(
        [
            f"Width {SETTING.width}, depth {SETTING.depth}, {SETTING.rows} rows of 2 tokens, "
            f"{SETTING.lanes} lanes, rank {SETTING.rank}, float32; "
            f"{device_name(torch.device(SETTING.device))}, torch {versions()['torch']}.",
            "A step of all lanes, median; ratios are medians over rounds that all methods take "
            "part in, with 95 % intervals. Parameters are those of one lane.",
            "",
            *(f"| {line} |" for line in lines),
        ]
    )


def milliseconds(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.1f}"


def interval(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def reason(method: str, ratios: Sequence[float]) -> str:
    """Why a method is slow, where it is slow in any mode."""
    return REASONS.get(method, "not known") if max(ratios) > SLOW else ""


if __name__ == "__main__":
    main()
