"""Which benchmark a study is of, and what the views have to know of it.

The column `benchmark` of the long table says it; runs that do not say are of synthetic functions.
The views speak of those, and `analysis.words` puts the words of another benchmark in their place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from qlexp.errors import UsageError, unknown_name

_STANDARD = "Mean square error on the standardised scale: 1 is the variance of the clean source."
_TOKENS = "Cross-entropy in nats a token of the completion, mean over the tokens."


@dataclass(frozen=True)
class Table:
    """A table of one number a run, methods by functions.

    Attributes:
        name: of its files.
        column: where the number is.
        frozen: where every run has the frozen model's, which gets a row where the study has no run
            of it; "": it gets none.
        is_share: printed in percent, and the largest is the best.
    """

    name: str
    column: str
    title: str
    frozen: str = ""
    is_share: bool = False


@dataclass(frozen=True)
class Benchmark:
    """A kind of study.

    Attributes:
        name: in the summaries of its runs.
        command: what runs its studies.
        losses: of the adapted model; every finished run has them, infinite where it diverged.
        extra_losses: that some runs have, and what it takes to have them.
        frozen_losses: of the frozen model; every finished run has them, infinite where null.
        scores: every finished run has them, minus infinity where null.
        of_diverged: what stands in the columns that say nothing of a diverged run.
        older: what stands in for a column that runs of before do not have.
        deciding: the loss by which effects are decided.
        deciding_frozen: the same of the frozen model.
        deciding_note: what a reader has to be told of the deciding loss, or "".
        beside: a second loss, which claims tell beside the deciding one, and what it is called.
        least_learnt: of what the frozen model lacks; a run that learnt less says little.
        has_full: whether full fine-tuning is a reference, and has to show what can be learnt.
        learning_rate: the setting that is tuned where a study sweeps it.
        scales: what a loss is, and under "" what any other is.
        costs: what a lower loss may cost, and what each is called; bytes are printed in MiB.
        settings: those that are told below tables, what each is called and its column.
        words: what the views call something, and what it is called here.
    """

    name: str
    command: str
    losses: Sequence[str]
    extra_losses: Mapping[str, str]
    frozen_losses: Sequence[str]
    scores: Sequence[str]
    of_diverged: Mapping[str, float]
    deciding: str
    deciding_frozen: str
    beside: tuple[str, str]
    least_learnt: float
    has_full: bool
    learning_rate: str
    tables: Sequence[Table]
    scales: Mapping[str, str]
    costs: Mapping[str, str]
    cost_note: str
    settings: Sequence[tuple[str, str]]
    older: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    deciding_note: str = ""

    @property
    def adapted_losses(self) -> tuple[str, ...]:
        """All losses of the adapted model that every finished run has."""
        return (*self.losses, "learnt_loss")

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that hold numbers where they hold anything."""
        losses = (*self.adapted_losses, *self.frozen_losses, *self.extra_losses)
        return (*losses, *self.scores, *self.of_diverged, *self.costs)

    def frozen_of(self, loss: str) -> str:
        """Which of the frozen model's losses stands beside `loss`."""
        return self.deciding_frozen if loss == self.deciding else "frozen_loss"

    def scale_of(self, loss: str) -> str:
        """What `loss` is, in a sentence or two."""
        return self.scales.get(loss, self.scales[""])

    def chosen(self, loss: str | None, known: Sequence[str]) -> str:
        """The `loss` that was asked for, which is the deciding one where none was.

        Raises:
            UsageError: it is none of the `known` ones.
        """
        if loss is not None and loss not in known:
            raise unknown_name("loss of this study", loss, known)
        return loss or self.deciding


SYNTHETIC = Benchmark(
    name="functions",
    command="qlexp",
    losses=("post_train_loss", "validation_loss", "test_loss", "test_loss_clean", "test_loss_raw"),
    extra_losses={
        "unseen_loss": "several targets, such as shift.targets=8",
        "paraphrased_loss": "several targets, such as shift.targets=8, and a method that reads a "
        "text",
    },
    frozen_losses=(
        *("pretrain_loss", "source_loss"),
        *("frozen_loss", "frozen_loss_clean", "frozen_validation_loss"),
    ),
    scores=("pretrain_r2", "test_r2", "learnt_r2"),
    of_diverged={"worst_share": float("nan")},
    older={
        "learnt_loss": "validation_loss",
        "learnt_r2": "test_r2",
        "frozen_validation_loss": "frozen_loss",
        "frozen_loss_clean": "frozen_loss",
    },  # of numerics version 1
    deciding="test_loss_clean",  # the noise hides help and harm alike
    deciding_frozen="frozen_loss_clean",
    beside=("with the noise", "test_loss"),
    least_learnt=0.5,
    has_full=True,
    learning_rate="trainer.adapt.learning_rate",
    tables=(
        Table("table1", "post_train_loss", "Post-training loss"),
        Table("table2", "test_loss", "Test loss"),
        Table("table2_clean", "test_loss_clean", "Test loss without noise"),
        Table("table2_raw", "test_loss_raw", "Test loss, raw scale"),
        Table("worst", "worst_share", "Share of the error in the worst hundredth of the points"),
    ),
    scales={
        "": _STANDARD,
        "post_train_loss": f"{_STANDARD} Below the noise floor it is fitted noise, and no merit.",
        "test_loss_clean": f"{_STANDARD} Against the target without its noise: the excess over the "
        "noise floor.",
        "test_loss_raw": "The test loss times the squared deviation of the function's clean "
        "source.",
        "worst_share": "What the hundredth of the test points with the largest errors makes up of "
        "the square error, noise left out. Near 1 the losses tell of a few points alone.",
    },
    costs={
        "trainable_parameters": "trainable parameters",
        "seconds": "seconds a run",
        "lane_bytes": "MiB a lane",
    },
    cost_note="Seconds: a batch's wall time over its lanes, whatever else the machine did: "
    "differences that matter are for a benchmark (`python -m benchmarks.methods`). MiB: counted, "
    "what a lane holds.",
    settings=(
        ("backbone depth", "config.backbone.depth"),
        ("width", "config.backbone.width"),
        ("heads", "config.backbone.heads"),
        ("tokens", "config.backbone.tokens"),
        ("precision", "config.precision"),
        ("shift strength", "config.shift.strength"),
        ("rotation in degrees", "config.shift.rotation"),
        ("pretraining samples", "config.data.pretrain"),
        ("epochs", "config.trainer.pretrain.epochs"),
        ("batch", "config.trainer.pretrain.batch_size"),
        ("learning rate", "config.trainer.pretrain.learning_rate"),
        ("adaptation samples", "config.data.adapt"),
        ("epochs", "config.trainer.adapt.epochs"),
        ("batch", "config.trainer.adapt.batch_size"),
        ("learning rate", "config.trainer.adapt.learning_rate"),
        ("test samples", "config.data.test"),
    ),
)

LANGUAGE = Benchmark(
    name="language",
    command="qlexp-lm",
    losses=("test_error", "test_loss", "validation_loss", "post_train_loss"),
    extra_losses={"retention_loss": "neutral text to measure it on: retention.tokens above 0"},
    frozen_losses=("frozen_error", "frozen_loss", "frozen_validation_loss"),
    scores=("accuracy", "frozen_accuracy"),
    of_diverged={"accuracy": -float("inf")},
    deciding="test_error",
    deciding_frozen="frozen_error",
    beside=("of the test loss", "test_loss"),
    least_learnt=0.05,  # what no training can take away is a large part of a text's loss
    has_full=False,
    learning_rate="trainer.learning_rate",
    tables=(
        Table("accuracy", "accuracy", "Accuracy in percent", "frozen_accuracy", is_share=True),
        Table("test_loss", "test_loss", "Test loss", "frozen_loss"),
    ),
    scales={
        "": _TOKENS,
        "final_loss": "Losses are shares of wrong answers, 0 to 1.",
        "test_error": "The share of wrong answers to the test examples, 0 to 1, smoothed.",
        "accuracy": "Accuracy: the share of the test examples whose generated answer, as a whole "
        "or its last word, the task's verifier calls right, in percent.",
    },
    deciding_note="Test error (test_error): the share of wrong answers to the n test examples, "
    "smoothed to (wrong + 1/2) / (n + 1) so that ratios have logarithms.",
    costs={
        "trainable_parameters": "trainable parameters",
        "adapter_bytes": "MiB of adapter",
        "seconds": "seconds a run",
        "peak_memory_bytes": "MiB at peak",
    },
    cost_note="Seconds: wall time of a run, whatever else the machine did. MiB of adapter: its "
    "tensors. MiB at peak: of the process, on a CPU since it began, so that a run of a sweep holds "
    "the most of those before it.",
    settings=(
        ("model", "model"),
        ("precision", "config.precision"),
        ("order of tasks", "config.task.order"),
        ("training examples", "config.data.train"),
        ("validation examples", "config.data.validation"),
        ("batch", "config.trainer.batch_size"),
        ("learning rate", "config.trainer.learning_rate"),
        ("checkpoint kept by", "config.trainer.keep"),
        ("instruction encoder", "config.instruction.encoder"),
        ("instruction read from", "config.instruction.text"),
        ("test examples", "test_count"),
    ),
    words={
        "test loss without noise": "test error",
        "Test loss without noise": "Test error",
        "Targets in sequence": "Tasks in sequence",
        "samples and epochs": "examples and updates",
        "MSE, standardised": "share wrong",
        "(standardised)": "(nats a token)",
        "function": "task",
        "Function": "Task",
        "backbone": "model",
        "Backbone": "Model",
    },
)

BENCHMARKS = {own.name: own for own in (SYNTHETIC, LANGUAGE)}


DECIDING = " or ".join(f"{own.deciding} (of {own.name})" for own in BENCHMARKS.values())


def benchmark_named(name: object) -> Benchmark:
    """The benchmark that a summary names; null is the synthetic one.

    Raises:
        UsageError: there is none of that name.
    """
    known = SYNTHETIC.name if name is None or pd.isna(name) else str(name)
    if known not in BENCHMARKS:
        raise unknown_name("benchmark", known, BENCHMARKS)
    return BENCHMARKS[known]


def benchmark_of(frame: pd.DataFrame) -> Benchmark:
    """The benchmark of the runs in a long table; a missing run has none.

    Raises:
        UsageError: they are of several.
    """
    if "benchmark" not in frame:
        return SYNTHETIC
    stored = frame.loc[frame["status"] != "missing", "benchmark"]
    found = {benchmark_named(name).name for name in stored.unique()} or {SYNTHETIC.name}
    if len(found) > 1:
        raise UsageError(
            f"The study has runs of several benchmarks ({', '.join(sorted(found))}), which are not "
            "compared with each other: give each a study of its own."
        )
    return BENCHMARKS[found.pop()]
