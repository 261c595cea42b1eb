"""What every method promises, for every YAML in conf/method."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from build import METHODS, TINY, adapted, inputs, jolt, network, of_method, samples, values
from safetensors.torch import load_file, save_file

from qlexp.adapters.base import AdaptedLinear, LowRankConfig
from qlexp.adapters.check import PROMISES, SEEDS, a_broken_lane_stays_alone, merges, trained
from qlexp.adapters.lora import LoRA
from qlexp.config.schema import Config
from qlexp.errors import UsageError

BITWISE = ("dora", "frozen", "full", "full_adamw", "lora", "queryable", "shared_lora")
MERGE = tuple(name for name in BITWISE if name != "queryable")

EVERY = pytest.mark.parametrize("name", METHODS)
TRAINED = pytest.mark.parametrize("name", [n for n in METHODS if of_method(n).method.kind.trains])


@EVERY
@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_keeps(promise: Callable[[Config], None], name: str) -> None:
    promise(of_method(name))


@TRAINED
def test_a_lane_with_infinite_inputs_stays_alone(name: str) -> None:
    a_broken_lane_stays_alone(of_method(name), "x")


@EVERY
def test_what_merges_is_known(name: str) -> None:
    if name in MERGE:
        assert merges(of_method(name))


@pytest.mark.parametrize("name", BITWISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_starts_as_the_frozen_backbone_to_the_bit(name: str, dtype: torch.dtype) -> None:
    config = of_method(name)
    x = inputs(config, SEEDS, dtype=dtype)
    start = adapted(config, SEEDS, dtype)(*x)
    assert torch.equal(start, network(SEEDS, dtype=dtype)(*x))


@EVERY
@pytest.mark.parametrize("damage", ["cut short", "no safetensors", "missing", "foreign", "shape"])
def test_a_wrong_file_is_refused_and_changes_nothing(
    name: str, damage: str, tmp_path: Path
) -> None:
    adapter, path = adapted(of_method(name), SEEDS), tmp_path / "lane"
    adapter.save(path, lane=0)
    stored = load_file(path)
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "no safetensors":
        path.write_text("epoch,loss\n1,0.5\n")
    elif damage == "missing":
        path.unlink()
    elif damage == "foreign":
        save_file({**stored, "layers.0.qkv.other": torch.ones(2)}, path)
    else:
        save_file({key: value[..., None] for key, value in stored.items()}, path)
        if not stored:
            save_file({"layers.0.qkv.A": torch.ones(2)}, path)
    before = values(adapter)
    with pytest.raises(UsageError, match="lane"):
        adapter.load(path, lane=0)
    assert all(torch.equal(value, before[key]) for key, value in values(adapter).items())


@TRAINED
def test_only_what_is_trainable_moves(name: str) -> None:
    config = of_method(name)
    data = samples(SEEDS, 8, config=config)
    start = values(adapted(config, SEEDS))
    adapter, _ = trained(config, data, updates=4)
    trainable = {id(p) for p in adapter.trainable().values()}
    for key, parameter in adapter.named_parameters():
        moved = parameter.ne(start[key]).reshape(len(SEEDS), -1).any(1)
        assert moved.all() if id(parameter) in trainable else not moved.any(), key


@TRAINED
def test_products_may_be_taken_in_bfloat16(name: str) -> None:
    config = of_method(name)
    adapter = adapted(config, SEEDS, torch.float32)
    jolt(adapter, SEEDS)
    tensors = list(adapter.trainable().values())
    with torch.autocast("cpu", torch.bfloat16):
        y = adapter(*inputs(config, SEEDS, dtype=torch.float32))
        gradients = torch.autograd.grad(y.sum(), tensors)
    assert y.isfinite().all()
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("name", ["lora", "queryable"])
def test_targets_name_the_linears_that_change(name: str) -> None:
    config = of_method(name)
    config.method.config.targets = ["down", "out"]
    adapter = adapted(config, SEEDS)
    wrapped = {
        (index, linear)
        for index, layer in enumerate(adapter.backbone.layers)
        for linear, module in layer.named_children()
        if isinstance(module, AdaptedLinear)
    }
    assert wrapped == {(i, linear) for i in range(TINY.depth) for linear in ("out", "down")}


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"rank": 17}, "at most 16"),
        ({"rank": 17, "targets": ["qkv"]}, "at most 16"),
        ({"targets": []}, "at least one of qkv, out, up, down"),
    ],
)
@pytest.mark.parametrize(
    "name", [n for n in METHODS if isinstance(of_method(n).method.config, LowRankConfig)]
)
def test_a_config_that_does_not_fit_is_refused(
    name: str, overrides: dict[str, object], complaint: str
) -> None:
    config = of_method(name).method.config
    with pytest.raises(UsageError, match=complaint):
        type(config)(**{**vars(config), **overrides}).check(TINY)


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean 'down'"):
        LoRA.Config(targets=["dwn"])


def test_a_method_without_training_has_no_tensors() -> None:
    still = [name for name in METHODS if not of_method(name).method.kind.trains]
    assert "frozen" in still
    assert all(not adapted(of_method(name), SEEDS).trainable() for name in still)
