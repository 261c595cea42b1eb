"""The configuration of one run on a language model; see `qlexp.config.schema` for the conventions.

The node `method` names a config class of peft's by `_target_`, and its fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from qlexp.config.checks import Checked, bounded, one_of
from qlexp.config.roles import Role, plays
from qlexp.config.schema import BudgetConfig, InstructionConfig, TrackingConfig
from qlexp.errors import UsageError

RANDOM = "random"  # a source: a network with random weights
PACKAGE = "package:"  # what a source that is an installed package begins with


@dataclass
class ModelConfig(Checked):
    """The frozen language model."""

    name: str = MISSING
    source: str = MISSING  # a hub name, a folder, package:NAME or random
    file: str | None = None  # the GGUF file in it; null: safetensors
    target_modules: list[str] = field(default_factory=list)  # the linears that are adapted
    shape: dict[str, Any] = field(default_factory=dict)  # of a random one: fields of LlamaConfig
    note: str | None = plays(Role.REPORT, None)  # what tables say of its weights


@dataclass
class PartConfig(Checked):
    """One task: where its samples come from, and how an answer is judged."""

    source: str = one_of("reasoning_gym", "reasoning_gym", "jsonl", "datasets")
    name: str = MISSING  # of the generator, the file or the dataset
    options: dict[str, Any] = field(default_factory=dict)  # the generator's, or load_dataset's
    system: str | None = None  # the system turn; null: what the model's chat template says
    prompt: str = "question"  # the columns of a sample
    answer: str = "answer"
    choices: Any = None  # the column of the answers to choose from, or their list
    instruction: str | None = None  # a text for the router
    score: str = one_of("verifier", "verifier", "exact", "choice")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score == "verifier" and self.source != "reasoning_gym":
            raise UsageError(
                f"score=verifier wants a task of reasoning_gym, and {self.name} is of "
                f"{self.source}: choose exact or choice."
            )
        if self.score != "choice" and self.choices is not None:
            raise UsageError(
                f"choices are for score=choice, and {self.name} has score={self.score}: leave one "
                "out."
            )
        if self.score == "choice" and self.choices is None:
            raise UsageError(
                f"score=choice wants the column of the choices: set choices of {self.name}."
            )


@dataclass
class TaskConfig(Checked):
    """What is learnt: one task, several mixed, or several in sequence."""

    name: str = MISSING
    order: str = one_of("together", "together", "sequence")
    parts: dict[str, PartConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts:
            raise UsageError(f"task {self.name} has no parts: name at least one under task.parts.")
        if self.order == "sequence" and len(self.parts) == 1:
            raise UsageError("task.order=sequence takes one part after another: name two or more.")


@dataclass
class LmDataConfig(Checked):
    """Sizes of the splits, of each part."""

    train: int = bounded(512, minimum=1)
    validation: int = bounded(64, minimum=1)
    test: int = bounded(200, minimum=1)
    longest: int = plays(
        Role.PLACE, bounded(256, minimum=8)
    )  # tokens of a prompt, and of an answer, at most


@dataclass
class RetentionConfig(Checked):
    """What the model could do before: neutral text, and tasks that are not trained."""

    text: str | None = None  # a text file; null: the one that reasoning_gym brings
    tokens: int = bounded(4096, minimum=0)  # of it; 0: none
    parts: dict[str, PartConfig] = field(default_factory=dict)
    samples: int = bounded(50, minimum=1)  # of each untrained task


@dataclass
class LmInstructionConfig(InstructionConfig):
    """The text that a router reads, and how it is encoded."""

    text: str = one_of("user", "user", "system", "column")


@dataclass
class LmTrainerConfig(Checked):
    """The training of the adapter, of each task where several follow on one another."""

    steps: int = plays(Role.METHOD, bounded(200, minimum=1))
    batch_size: int = plays(Role.METHOD, bounded(8, minimum=1))
    learning_rate: float = plays(Role.METHOD, bounded(1e-3, above=0.0))
    schedule: str = plays(Role.METHOD, one_of("cosine", "constant", "cosine"))
    warmup: float = plays(Role.METHOD, bounded(0.05, minimum=0.0, maximum=1.0))
    weight_decay: float = plays(Role.METHOD, bounded(0.0, minimum=0.0))
    clip: float | None = plays(Role.METHOD, bounded(1.0, above=0.0))
    evaluations: int = bounded(4, minimum=1)  # how often the validation split is looked at
    keep: str = one_of("validation_loss", "validation_loss", "training_accuracy", "last")
    record_every: int = plays(
        Role.PLACE, bounded(5, minimum=1)
    )  # updates between two rows of the curves


@dataclass(frozen=True)
class Method:
    """A method: a config class of peft's with what is set of its fields.

    Attributes:
        target: the class's import path; None trains nothing.
        sized_by: the field that its parameter count is set by.
    """

    name: str
    target: str | None
    sized_by: str | None
    fields: Mapping[str, Any]
    reading: bool = False

    def plain(self) -> dict[str, Any]:
        fields = {key: _plain(value) for key, value in self.fields.items()}
        return {"name": self.name, "_target_": self.target, **fields}


def _plain(value: Any) -> Any:
    """16.0 as 16: the same number has one identity."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass
class LmConfig(Checked):
    """One run: a (task, method, seed, settings) cell."""

    model: ModelConfig = plays(Role.PROBLEM)
    task: TaskConfig = plays(Role.PROBLEM)
    data: LmDataConfig = plays(Role.PROBLEM)
    retention: RetentionConfig = plays(Role.PROBLEM)
    instruction: LmInstructionConfig = plays(Role.METHOD)
    method: Any = plays(Role.METHOD)
    trainer: LmTrainerConfig = plays(Role.PROBLEM)
    budget: BudgetConfig = plays(Role.METHOD)
    tracking: TrackingConfig = plays(Role.PLACE)
    seed: int = plays(Role.PROBLEM, bounded(0, minimum=0))
    precision: str = plays(Role.NUMERICS, one_of("bfloat16", "bfloat16", "float32"))
    device: str = plays(Role.PLACE, one_of("auto", "auto", "cpu", "cuda"))
    store: str = plays(Role.PLACE, "store")
    study: str = plays(Role.PLACE, "adhoc")
