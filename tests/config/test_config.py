"""The YAML files, the schema behind them, and the identity of a run."""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import yaml
from build import METHODS, planned
from conftest import Command
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from qlexp.config.checks import Checked
from qlexp.config.identity import backbone_id, plain, run_id
from qlexp.config.resolve import resolve
from qlexp.config.schema import Config
from qlexp.main import CONF
from qlexp.problem.functions import FUNCTIONS
from qlexp.store.store import Store

FILES = sorted(CONF.rglob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
OPTIMIZERS = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))

GOLDEN_ID = "35a81efc2611785b"
GOLDEN = yaml.safe_load("""
function:
  name: drop_wave
  coefficients: {amplitude: 1.0, frequency: 12.0, decay: 0.5, offset: 2.0}
  domain: [[-2.0, 2.0], [-2.0, 2.0]]
  spread: 0.0
shift:
  {strength: 0.2, rotation: 15.0, coefficients: [amplitude], targets: 1, order: together}
instruction: {encoder: none, folder: null, dim: 16, control: matched}
data: {pretrain: 3000, adapt: 1200, validation: 1000, test: 2000, noise: 0.05}
backbone:
  {depth: 8, width: 32, heads: 4, mlp_ratio: 4, tokens: fourier, frequencies: 16, bandwidth: 8.0,
   final_norm: none}
method:
  _target_: qlexp.adapters.lora.LoRA
  name: lora
  targets: [qkv, out, up, down]
  rank: 4
  alpha: 8.0
optimizer: &adamw
  _target_: qlexp.optim.adamw.AdamW
  name: adamw
  beta1: 0.9
  beta2: 0.999
  eps: 0.00000001
  weight_decay: 0.01
pretrain_optimizer: *adamw
trainer:
  pretrain: &stage
    epochs: 100
    batch_size: 256
    learning_rate: 0.003
    schedule: cosine
    warmup: 0.05
    clip: 1.0
  adapt: {<<: *stage, batch_size: null, learning_rate: 0.005}
  record_every: 10
  loss_ceiling: 10.0
  r2_floor: 0.9
tracking: {mode: none, project: qlexp, entity: null, directory: .}
budget: {rank: null, by: count, tolerance: 0.1, enforce: true}
seed: 0
precision: float32
device: auto
compile: false
recompute: false
store: store
study: adhoc
""")


def label(path: Path) -> str:
    return str(path.relative_to(CONF))


def composed(*overrides: str) -> Config:
    """The planned config of a run, from the command line's overrides."""
    return planned("tracking=none", *overrides)


def uncommented(path: Path) -> Iterator[str]:
    """Lines that set a value and do not say what it is.

    `_target_` speaks for itself; an experiment sets keys that are explained where they are at home.
    """
    skipped = None  # indentation of a node whose lines are Hydra's own
    for line in path.read_text().splitlines():
        indent = len(line) - len(line.lstrip())
        if skipped is not None and indent > skipped:
            continue
        skipped = indent if re.match(r"\s*(defaults|hydra):$", line) else None
        sets_value = re.match(r"\s*\w+:\s+\S", line) and not line.lstrip().startswith("_target_")
        if sets_value and not re.search(r" # \S", line):
            yield line


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parent.name != "experiment"], ids=label
)
def test_every_key_has_a_comment(path: Path) -> None:
    assert list(uncommented(path)) == []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_says_what_it_is_for(name: str) -> None:
    first, second, *_ = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert first == "# @package _global_"
    assert re.match(r"# \S", second)


@pytest.mark.parametrize("path", FILES, ids=label)
def test_no_key_is_given_twice(path: Path) -> None:
    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            keys = [self.construct_object(key) for key, _ in node.value]
            assert len(keys) == len(set(keys))
            return super().construct_mapping(node, deep)

    yaml.load(path.read_text(), Strict)


@pytest.mark.parametrize(
    ("group", "name"),
    [("method", name) for name in METHODS] + [("optimizer", name) for name in OPTIMIZERS],
)
def test_yaml_sets_every_field_of_its_class(group: str, name: str) -> None:
    values = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    values = values.get(group, values)
    kind = resolve_name(values.pop("_target_"))
    assert is_dataclass(kind.Config)
    assert values.keys() == {item.name for item in fields(kind.Config)}
    assert values["name"] == name


@pytest.mark.parametrize("group", ["shift", "data", "backbone", "trainer", "budget", "tracking"])
def test_yaml_sets_every_field_of_the_schema(group: str) -> None:
    hints = {item.name: item.type for item in fields(Config)}
    schema = hints[group]
    assert isinstance(schema, type)
    assert issubclass(schema, Checked)
    nodes = [yaml.safe_load(path.read_text()) for path in (CONF / group).glob("*.yaml")]
    nodes = nodes or [yaml.safe_load((CONF / "config.yaml").read_text())[group]]
    for node in nodes:
        assert node.keys() == {item.name for item in fields(schema)}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes(
    name: str, qlexp: Command, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its methods and budgets on one function; nothing is computed."""
    planned: list[Config] = []

    def note(configs: list[Config], *_: object) -> list[dict[str, Any]]:
        planned.extend(configs)
        return [{"status": "done", "validation_loss": 0.0} for _ in configs]

    monkeypatch.setattr("qlexp.sweep.jobs.execute", note)
    settings = ("function=drop_wave", "seed=0", "device=cpu", "hydra.sweeper.tuning.setting=null")
    outcome = qlexp(f"experiment={name}", *settings)
    assert (outcome.code, outcome.err) == (0, "")
    assert {config.study for config in planned} == {name}
    cells = Store(store).study(name)
    assert {cell.run_id for cell in cells} == {run_id(config) for config in planned}


@pytest.mark.parametrize("function", sorted(FUNCTIONS))
def test_every_function_composes(function: str) -> None:
    config = composed(f"function={function}")
    assert config.function.coefficients == FUNCTIONS[function].coefficients
    assert config.function.domain == [list(side) for side in FUNCTIONS[function].domain]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_composes(method: str) -> None:
    values = yaml.safe_load((CONF / "method" / f"{method}.yaml").read_text())
    own = {key: name for node in values.get("defaults", []) for key, name in node.items()}
    config = composed(f"method={method}")
    assert config.method.name == method
    assert config.optimizer.name == own.get("override /optimizer", "adamw")
    assert config.pretrain_optimizer.name == "adamw"


def test_run_id_is_what_it_was() -> None:
    """Fails where stored runs would be orphaned: see `NUMERICS_VERSION` before changing it."""
    assert run_id(resolve(OmegaConf.create(GOLDEN))) == GOLDEN_ID


def shuffled(value: Any, order: random.Random) -> Any:
    if not isinstance(value, dict):
        return value
    items = [(key, shuffled(item, order)) for key, item in value.items()]
    order.shuffle(items)
    return dict(items)


@settings(max_examples=20)
@given(st.randoms(use_true_random=False))
def test_run_id_does_not_depend_on_the_order_of_keys(order: random.Random) -> None:
    config = resolve(OmegaConf.create(shuffled(GOLDEN, order)))
    assert run_id(config) == GOLDEN_ID


def test_run_id_survives_the_store() -> None:
    config = composed("method=queryable", "function=levy", "shift.coefficients=[amplitude]")
    text = json.dumps(plain(config))
    assert run_id(resolve(OmegaConf.create(json.loads(text)))) == run_id(config)


SAME_RUN = [
    "tracking=offline",
    "tracking.project=other",
    "device=cpu",
    "compile=true",
    "store=elsewhere",
    "study=other",
    "budget.enforce=false",
    "budget=lora_r4",  # LoRA's own rank is 4
    "trainer=quick",  # the default
    "data.noise=0.0500",
    "function.domain=[[-2,2],[-2,2]]",  # integers for Drop-Wave's own
]

OTHER_RUN = [
    "function=matyas",
    "function.coefficients.frequency=11",
    "function.domain=[[-2,2],[-2,3]]",
    "function.spread=0.1",
    "shift=none",
    "shift.rotation=10",
    "data.adapt=1201",
    "data.noise=0.1",
    "backbone.depth=7",
    "backbone.tokens=linear",
    "method=dora",
    "method.rank=5",
    "method.name=other",
    "budget=lora_r8",
    "optimizer=soap",
    "optimizer.beta1=0.8",
    "pretrain_optimizer.beta1=0.8",
    "trainer.pretrain.epochs=99",
    "trainer.adapt.learning_rate=1e-3",
    "trainer.adapt.clip=null",
    "seed=1",
    "precision=float64",
]


@pytest.mark.parametrize("override", SAME_RUN)
def test_run_id_leaves_out_what_does_not_change_the_numbers(override: str) -> None:
    assert run_id(composed(override)) == run_id(composed())


def test_run_id_holds_what_changes_the_numbers() -> None:
    ids = {run_id(composed(*override)) for override in [[], *([o] for o in OTHER_RUN)]}
    assert len(ids) == 1 + len(OTHER_RUN)


@pytest.mark.parametrize(
    ("override", "shared"),
    [
        ("method=dora", True),
        ("shift=none", True),
        ("data.adapt=7", True),
        ("optimizer=soap", True),
        ("trainer.adapt.epochs=7", True),
        ("function=matyas", False),
        ("seed=1", False),
        ("backbone.depth=7", False),
        ("pretrain_optimizer.beta1=0.8", False),
        ("trainer.pretrain.epochs=7", False),
        ("data.pretrain=7", False),
        ("precision=float64", True),
    ],
)
def test_methods_and_targets_share_a_backbone(override: str, shared: bool) -> None:
    assert (backbone_id(composed(override)) == backbone_id(composed())) == shared
