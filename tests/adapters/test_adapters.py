"""What every method promises, for every YAML in conf/method."""

from pathlib import Path

import pytest
import torch
from build import (
    METHODS,
    TINY,
    adapted,
    inputs,
    jolt,
    network,
    of_method,
    optimizer_of,
    samples,
    values,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from qlexp.adapters.base import AdaptedLinear, Adapter, LowRankConfig, count_trainable
from qlexp.adapters.lora import LoRA
from qlexp.config.schema import Config, StageConfig
from qlexp.errors import UsageError
from qlexp.model.evaluate import Samples
from qlexp.train.loop import Curves, lane_losses, train

SEEDS = (3, 5, 8)
RATES = (1e-3, 4e-3, 2e-3)
BITWISE = ("dora", "frozen", "full", "full_adamw", "lora", "queryable", "shared_lora")
MERGE = tuple(name for name in BITWISE if name != "queryable")

EVERY = pytest.mark.parametrize("name", METHODS)
TRAINED = pytest.mark.parametrize("name", [n for n in METHODS if of_method(n).method.kind.trains])


def trained(
    config: Config,
    data: Samples,
    seeds: tuple[int, ...] = SEEDS,
    rates: tuple[float, ...] = RATES,
    updates: int = 20,
) -> tuple[Adapter, Curves]:
    """`config`'s method after `updates` minibatch updates, two an epoch."""
    adapter = adapted(config, seeds)
    parameters, lr = adapter.trainable(), torch.tensor(rates, dtype=data.x.dtype)
    stage = StageConfig(epochs=updates // 2, batch_size=4, schedule="cosine", warmup=0.1, clip=0.5)
    optimizer = optimizer_of(config, list(parameters.values()), lr)
    curves = train(adapter, parameters, data, stage, optimizer, lr, seeds, record_every=1)
    return adapter, curves


@EVERY
def test_starts_as_the_frozen_backbone(name: str) -> None:
    config = of_method(name)
    x = inputs(config, SEEDS)
    start = adapted(config, SEEDS)(*x)
    torch.testing.assert_close(start, network(SEEDS)(*x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", BITWISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_starts_as_the_frozen_backbone_to_the_bit(name: str, dtype: torch.dtype) -> None:
    config = of_method(name)
    x = inputs(config, SEEDS, dtype=dtype)
    start = adapted(config, SEEDS, dtype)(*x)
    assert torch.equal(start, network(SEEDS, dtype=dtype)(*x))


@TRAINED
def test_every_tensor_has_a_gradient_by_the_second_step(name: str) -> None:
    config = of_method(name)
    adapter, data = adapted(config, SEEDS), samples(SEEDS, config=config)
    tensors = adapter.trainable()
    reached = {key: torch.zeros(len(SEEDS), dtype=torch.bool) for key in tensors}
    for _ in range(2):
        loss = lane_losses(adapter, data.x, data.y, data.instruction)
        gradients = torch.autograd.grad(loss.sum(), list(tensors.values()))
        for key, gradient in zip(tensors, gradients, strict=True):
            reached[key] |= gradient.reshape(len(SEEDS), -1).ne(0).any(1)
            tensors[key].data.sub_(0.1 * gradient)
    assert [key for key, lanes in reached.items() if not lanes.all()] == []


@EVERY
def test_counts_are_exact(name: str, tmp_path: Path) -> None:
    config = of_method(name)
    adapter = adapted(config, SEEDS)
    count = count_trainable(config.method.kind, config.method.config, config.backbone)
    assert count == sum(p[1].numel() for p in adapter.trainable().values())
    adapter.save(tmp_path / "lane", lane=1)
    assert count == sum(tensor.numel() for tensor in load_file(tmp_path / "lane").values())
    assert (count > 0) == config.method.kind.trains


@EVERY
def test_a_lane_is_read_back_as_it_was_saved(name: str, tmp_path: Path) -> None:
    config = of_method(name)
    adapter = adapted(config, SEEDS)
    jolt(adapter, SEEDS)
    adapter.save(tmp_path / "lane", lane=1)

    solo = adapted(config, SEEDS[1:2])
    solo.load(tmp_path / "lane", lane=0)
    before, after = adapter.trainable(), solo.trainable()
    assert list(before) == list(after)
    assert all(torch.equal(before[key][1], after[key][0]) for key in before)
    y, expected = solo(*inputs(config, SEEDS[1:2])), adapter(*inputs(config, SEEDS))
    torch.testing.assert_close(y, expected[1:2], rtol=0, atol=1e-12)

    batch = adapted(config, SEEDS)
    start = values(batch)
    batch.load(tmp_path / "lane", lane=2)
    assert all(torch.equal(p[2], before[key][1]) for key, p in batch.trainable().items())
    for key, value in values(batch).items():
        assert torch.equal(value[:2], start[key][:2])


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
def test_lanes_equal_solo_runs(name: str) -> None:
    config = of_method(name)
    data = samples(SEEDS, 8, config=config)
    tolerance = 1e-8 if config.optimizer.name == "soap" else 1e-10  # its bases amplify rounding

    def close(one: Tensor, other: Tensor) -> None:
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)

    batch, curves = trained(config, data)
    for lane, seed in enumerate(SEEDS):
        own = samples([seed], 8, config=config)
        solo, solo_curves = trained(config, own, (seed,), RATES[lane : lane + 1])
        close(curves.loss[:, lane], solo_curves.loss[:, 0])
        for layer, norms in solo_curves.gradient_norms.items():
            close(curves.gradient_norms[layer][:, lane], norms[:, 0])
        for key, value in solo.trainable().items():
            close(batch.trainable()[key][lane], value[0])


@TRAINED
@pytest.mark.parametrize("broken", ["x", "y"])
def test_a_neighbour_that_is_infinite_from_the_start_changes_nothing(
    name: str, broken: str
) -> None:
    config = of_method(name)
    data = samples(SEEDS, 8, config=config)
    start = values(adapted(config, SEEDS))
    expected, quiet = trained(config, data, updates=6)
    getattr(data, broken)[1] = torch.inf
    found, disturbed = trained(config, data, updates=6)
    assert disturbed.alive.tolist() == [True, False, True]
    for lane in (0, 2):
        assert torch.equal(quiet.loss[:, lane], disturbed.loss[:, lane])
    for key, value in values(found).items():
        assert torch.equal(value[1], start[key][1]), key
        for lane in (0, 2):
            assert torch.equal(value[lane], values(expected)[key][lane]), key


@EVERY
def test_merging_keeps_the_function_or_is_refused(name: str) -> None:
    config = of_method(name)
    adapter, x = adapted(config, SEEDS), inputs(config, SEEDS)
    jolt(adapter, SEEDS)
    expected = adapter(*x)
    try:
        merged = adapter.merge()
    except UsageError:
        assert name not in MERGE
        assert torch.equal(adapter(*x), expected)
        return
    assert not any(isinstance(module, AdaptedLinear) for module in merged.modules())
    assert values(merged).keys() == values(network(SEEDS)).keys()
    torch.testing.assert_close(merged(*x), expected, rtol=0, atol=1e-10)


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
