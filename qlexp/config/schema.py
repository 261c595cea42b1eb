"""The configuration of one run: the schema that Hydra checks types against, with its ranges.

`Config` is the schema; ranges are checked by `Checked`. Each field or the section around it names
its role (`qlexp.config.roles`), from which follow a run's identity and what the analysis compares;
a field that is added later is marked `added(default)`, so that stored runs keep their ids. The
nodes `method`, `optimizer` and
`pretrain_optimizer` name a class by `_target_`; the class carries its own config dataclass as
`Config`, so a new method or optimiser needs no entry here.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from qlexp.config.checks import Checked, bounded, one_of
from qlexp.config.roles import Role, added, plays
from qlexp.errors import UsageError, unknown_name
from qlexp.problem.functions import FUNCTIONS


@dataclass
class FunctionConfig(Checked):
    """A source function: its entry in `qlexp.functions`, with what may be changed of it."""

    name: str = MISSING
    coefficients: dict[str, float] = field(default_factory=dict)
    domain: list[Any] = field(default_factory=list)  # [[x1 low, high], [x2 low, high]]
    spread: float = bounded(0.0, minimum=0.0, maximum=0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name not in FUNCTIONS:
            raise unknown_name("function", self.name, FUNCTIONS)
        for name in self.coefficients:
            if name not in FUNCTIONS[self.name].coefficients:
                raise unknown_name(
                    f"coefficient of {self.name}", name, FUNCTIONS[self.name].coefficients
                )
        try:
            self.domain = [[float(low), float(high)] for low, high in self.domain]
        except (TypeError, ValueError):
            self.domain = []
        inside = (-math.inf < low < high < math.inf for low, high in self.domain)
        if len(self.domain) != 2 or not all(inside):
            raise UsageError("function.domain must be two finite sides [[low, high], [low, high]].")


@dataclass
class ShiftConfig(Checked):
    """What moves between source and target; 0 is no change."""

    strength: float = bounded(0.0, above=-1.0)  # relative change of every shifted coefficient
    rotation: float = bounded(0.0, above=-90.0, below=90.0)  # degrees
    coefficients: list[str] | None = None  # the ones to shift; null: all
    targets: int = bounded(1, minimum=1)  # how many targets one adapter serves
    order: str = one_of("together", "together", "sequence")  # of several targets
    places: list[Any] | None = added(
        None
    )  # [[strength, rotation], ...] of each target; null: an ellipse

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.places is not None:
            self._take_places()
        if self.order == "sequence" and self.targets == 1:
            raise UsageError(
                "shift.order=sequence takes one target after another: set shift.targets to at "
                "least 2."
            )

    def _take_places(self) -> None:
        try:
            places = [
                (float(strength), float(rotation)) for strength, rotation in self.places or ()
            ]
        except (TypeError, ValueError):
            places = []
        if len(places) < 2:
            raise UsageError(
                "shift.places must be two or more [strength, rotation], such as "
                "[[0.2, 0], [0, 30], [-0.2, 0]]."
            )
        for strength, rotation in places:  # the same limits
            ShiftConfig(strength, rotation)
        if self.targets not in (1, len(places)):
            raise UsageError(
                f"shift.targets={self.targets} and {len(places)} shift.places contradict each "
                "other: leave shift.targets out."
            )
        self.places, self.targets = [list(place) for place in places], len(places)

    @property
    def tasks(self) -> int:
        """How many trainings follow on one another."""
        return self.targets if self.order == "sequence" else 1


@dataclass
class DataConfig(Checked):
    """Sizes of the seeded splits and the observation noise."""

    pretrain: int = bounded(3000, minimum=2)
    adapt: int = bounded(1200, minimum=1)
    validation: int = bounded(1000, minimum=2)
    test: int = bounded(2000, minimum=2)
    noise: float = bounded(0.05, minimum=0.0)  # in standard deviations of the clean source


@dataclass
class InstructionConfig(Checked):
    """How a target's text is encoded, for the methods that read it."""

    encoder: str = one_of("none", "none", "hashing", "minilm", "folder")
    folder: str | None = None
    dim: int = bounded(16, minimum=1)
    control: str = one_of("matched", "matched", "shuffled", "empty")


@dataclass
class BackboneConfig(Checked):
    """The Transformer that is pretrained on the source."""

    depth: int = bounded(8, minimum=1)
    width: int = bounded(256, minimum=1)
    heads: int = bounded(4, minimum=1)
    mlp_ratio: int = bounded(4, minimum=1)
    tokens: str = one_of("fourier", "linear", "fourier")
    frequencies: int = bounded(16, minimum=1)
    bandwidth: float = bounded(8.0, above=0.0)
    final_norm: str = one_of("none", "none", "layer")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise UsageError(
                f"backbone.width={self.width} must be a multiple of backbone.heads={self.heads}."
            )


@dataclass
class StageConfig(Checked):
    """How long and how fast one stage trains."""

    epochs: int = bounded(300, minimum=0)
    batch_size: int | None = bounded(None, minimum=1)  # null: full batch
    learning_rate: float = bounded(3e-3, above=0.0)
    schedule: str = one_of("cosine", "constant", "cosine")
    warmup: float = bounded(0.05, minimum=0.0, maximum=1.0)  # fraction of the updates
    clip: float | None = bounded(1.0, above=0.0)  # per-lane gradient norm; null: no clipping

    def shape(self) -> tuple[Any, ...]:
        """All but the learning rate, which may differ from lane to lane."""
        return tuple(value for key, value in vars(self).items() if key != "learning_rate")


@dataclass
class TrainerConfig(Checked):
    """Both stages, and what is recorded of them."""

    pretrain: StageConfig = MISSING
    adapt: StageConfig = plays(Role.METHOD)
    record_every: int = bounded(10, minimum=1)  # updates between two rows of the curves
    loss_ceiling: float = bounded(10.0, above=0.0)  # a larger final loss counts as diverged
    r2_floor: float = plays(
        Role.REPORT, bounded(0.9, maximum=1.0)
    )  # a backbone below is flagged in the tables


@dataclass
class BudgetConfig(Checked):
    """How a method's trainable parameters are held against LoRA's."""

    rank: int | None = bounded(None, minimum=1)  # LoRA's rank to match; null: the method's own
    by: str = one_of("count", "count", "rank")
    tolerance: float = bounded(0.1, minimum=0.0)
    enforce: bool = True


@dataclass
class TrackingConfig(Checked):
    """The mirror in W&B; the store stays the truth."""

    mode: str = one_of("offline", "offline", "online", "none")
    project: str = "qlexp"
    entity: str | None = None
    directory: str = "store"


@dataclass
class Config(Checked):
    """One run: a (function, method, seed, settings) cell."""

    function: FunctionConfig = plays(Role.PROBLEM)
    shift: ShiftConfig = plays(Role.PROBLEM)
    data: DataConfig = plays(Role.PROBLEM)
    instruction: InstructionConfig = plays(Role.METHOD)
    backbone: BackboneConfig = plays(Role.PROBLEM)
    method: Any = plays(Role.METHOD)
    optimizer: Any = plays(Role.METHOD)
    pretrain_optimizer: Any = plays(Role.PROBLEM)
    trainer: TrainerConfig = plays(Role.PROBLEM)
    tracking: TrackingConfig = plays(Role.PLACE)
    budget: BudgetConfig = plays(Role.METHOD)
    seed: int = plays(Role.PROBLEM, bounded(0, minimum=0))
    precision: str = plays(
        Role.NUMERICS, one_of("float32", "float32", "tf32", "bfloat16", "float64")
    )
    device: str = plays(Role.PLACE, one_of("auto", "auto", "cpu", "cuda"))
    compile: bool = plays(Role.PLACE, False)
    recompute: bool = plays(Role.PLACE, False)
    store: str = plays(Role.PLACE, "store")
    study: str = plays(Role.PLACE, "adhoc")


@dataclass(frozen=True)
class Component:
    """A class named by `_target_` with its checked config: a method or an optimiser."""

    kind: type
    config: Any

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def target(self) -> str:
        return f"{self.kind.__module__}.{self.kind.__qualname__}"

    def plain(self) -> dict[str, Any]:
        return {"_target_": self.target, **asdict(self.config)}


def register_schema() -> None:
    """Makes the schema, and every function that is not yet, known to Hydra."""
    configs = ConfigStore.instance()
    if "schema.yaml" not in configs.repo:
        configs.store(name="schema", node=Config)
    for function in FUNCTIONS.values():
        if f"{function.name}.yaml" in configs.repo.get("function", {}):
            continue
        node = {
            "name": function.name,
            "coefficients": dict(function.coefficients),
            "domain": [list(side) for side in function.domain],
            "spread": 0.0,
        }
        configs.store(group="function", name=function.name, node=node)
