"""rsLoRA, VeRA, VB-LoRA, Lily and HiRA: peft's numbers with the same weights, and the contract."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from peft import (
    HiraConfig,
    LilyConfig,
    LoraConfig,
    PeftConfig,
    VBLoRAConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.peft_twin import Twin, trainable
from qlexp.adapters.base import ALL_LINEARS, Adapter, AdapterConfig, LowRankConfig, count_trainable
from qlexp.adapters.budget import reference_count, with_budget
from qlexp.adapters.lora import LoRA
from qlexp.config.schema import (
    BackboneConfig,
    BudgetConfig,
    Component,
    Config,
    DataConfig,
    FunctionConfig,
    ShiftConfig,
    TrackingConfig,
    TrainerConfig,
)
from qlexp.errors import UsageError
from qlexp.main import CONF
from qlexp.model.backbone import Backbone
from qlexp.model.evaluate import predict
from qlexp.model.initial import Draw
from qlexp.optim.adamw import AdamW
from qlexp.train.loop import lane_losses

BACKBONE = BackboneConfig(depth=3, width=8, heads=2, frequencies=2)
LANES, POINTS = 2, 11
METHODS: dict[str, dict[str, Any]] = {
    "rslora": {"rank": 3},
    "vera": {"rank": 6},
    "vb_lora": {"rank": 2, "alpha": 2.0, "vectors": 5, "vector_length": 4},
    "lily": {"rank": 3, "experts": 3},
    "hira": {"rank": 3, "alpha": 3.0},
}
every = pytest.mark.parametrize("method", METHODS)


def component(name: str, **overrides: Any) -> tuple[type[Adapter], Any]:
    """The class and config of a method's YAML, shrunk."""
    values = OmegaConf.to_container(OmegaConf.load(CONF / "method" / f"{name}.yaml"))
    assert isinstance(values, dict)
    kind = resolve_name(values.pop("_target_"))
    return kind, kind.Config(**{**values, **METHODS.get(name, {}), **overrides})


def backbone(lanes: int = LANES) -> Backbone:
    """Random, biases included; lane i is the same whatever the number of lanes."""
    model = Backbone(BACKBONE, Draw(range(lanes), torch.float64))
    for lane, generator in enumerate(generators(lanes)):
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape[1:], generator=generator, dtype=torch.float64)
            parameter.data[lane] += 0.3 * noise
    return model


def adapter(name: str, lanes: int = LANES, moved: float = 0.0, **overrides: Any) -> Adapter:
    """A method around `backbone`, its trainable tensors moved away from their start."""
    kind, config = component(name, **overrides)
    config.check(BACKBONE)
    model = kind(backbone(lanes), config, Draw(range(lanes), torch.float64))
    for lane, generator in enumerate(generators(lanes)):
        for parameter in model.trainable().values():
            noise = torch.randn(parameter.shape[1:], generator=generator, dtype=torch.float64)
            parameter.data[lane] += moved * noise
    return model


def generators(lanes: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + lane) for lane in range(lanes)]


def samples(lanes: int = LANES) -> tuple[Tensor, Tensor]:
    values = [
        torch.rand(POINTS, 3, generator=generator, dtype=torch.float64) * 2 - 1
        for generator in generators(lanes)
    ]
    points = torch.stack(values)
    return points[..., :2], points[..., 2]


def gradients(model: nn.Module, parameters: list[Tensor], lanes: int = LANES) -> list[Tensor]:
    return list(torch.autograd.grad(lane_losses(model, *samples(lanes)).sum(), parameters))


# peft as the oracle

Piece = tuple[Callable[[Tensor], Tensor], nn.Parameter, Callable[[Tensor], Tensor]]


def same(tensor: Tensor) -> Tensor:
    return tensor


def peft_config(name: str, config: Any) -> PeftConfig:
    shared: dict[str, Any] = {"r": config.rank, "target_modules": list(config.targets)}
    if name == "rslora":
        return LoraConfig(**shared, lora_alpha=config.alpha, use_rslora=True)
    if name == "hira":
        return HiraConfig(**shared)
    if name == "vera":
        return VeraConfig(**shared, d_initial=config.d_initial)
    if name == "vb_lora":
        return VBLoRAConfig(
            **shared,
            num_vectors=config.vectors,
            vector_length=config.vector_length,
            topk=config.top_k,
        )
    return LilyConfig(**shared, stride_A=config.stride, num_B=config.experts, scaling=config.scale)


def pieces(name: str, tensor: str, twin: Twin) -> Iterator[Piece]:
    """How a trainable tensor is cut, and where peft holds each piece, in which layout."""
    path = tensor.split(".")
    index, linear = (int(path[1]), path[2]) if path[0] == "layers" else (0, path[-1])
    module: Any = getattr(twin.layers[index], linear if linear in ALL_LINEARS else "qkv")
    if name == "rslora":
        yield same, getattr(module, f"lora_{path[-1]}")["default"].weight, same
    elif name == "hira":
        yield same, getattr(module, f"hira_{path[-1]}")["default"], same
    elif name == "vera":
        yield same, getattr(module, f"vera_lambda_{path[-1]}")["default"], same
    elif tensor == "bank":
        yield same, module.vblora_vector_bank["default"], same
    elif name == "vb_lora":
        of_a, of_b = module.vblora_logits_A["default"], module.vblora_logits_B["default"]
        cut = of_a.shape[1]
        yield (lambda t: t[:, :cut]), of_a, same
        yield (lambda t: t[:, cut:]), of_b, lambda t: t.transpose(0, 1)
    elif path[0] == "experts":
        count = module.num_B["default"]
        yield same, module.lily_B["default"].weight, lambda t: t.unflatten(0, (count, -1)).mT
    else:
        held = module.lily_A if path[-1] == "A" else module.lily_router
        yield same, held["default"].weight, same


def peft_twin(name: str, model: Adapter, lane: int) -> tuple[nn.Module, Twin]:
    """Lane `lane` of `model` under peft, with the same values in every tensor."""
    twin = Twin(backbone(), lane).requires_grad_(False)
    if name == "vb_lora":  # peft does not take the starting change off
        for layer, plain in zip(model.backbone.layers, twin.layers, strict=True):
            for linear in ALL_LINEARS:
                A, Bt = (
                    getattr(layer, linear)
                    .start[lane]
                    .split(
                        [getattr(layer, linear).base.d_in, getattr(layer, linear).base.d_out], -1
                    )
                )
                getattr(plain, linear).weight -= Bt.mT @ A
    other = get_peft_model(twin, peft_config(name, model.config)).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for tensor, value in model.trainable().items():
            for cut, parameter, layout in pieces(name, tensor, twin):
                layout(parameter).copy_(cut(value[lane]))
        if name == "vera":
            own: Any = model.backbone.layers[0].qkv
            module: Any = twin.layers[0].qkv
            module.vera_A["default"].copy_(own.A[lane])
            module.vera_B["default"].copy_(own.B[lane])
    return other, twin


@every
@pytest.mark.parametrize("lane", range(LANES))
def test_outputs_and_gradients_are_pefts(method: str, lane: int) -> None:
    model = adapter(method, moved=0.3)
    own = model.trainable()
    own_gradients = dict(zip(own, gradients(model, list(own.values())), strict=True))
    other, twin = peft_twin(method, model, lane)
    x, y = samples()
    found = other(x[lane])
    torch.testing.assert_close(found, model(x)[lane], rtol=0, atol=1e-10)
    (found - y[lane]).square().mean().backward()
    for tensor, gradient in own_gradients.items():
        for cut, parameter, layout in pieces(method, tensor, twin):
            assert parameter.grad is not None
            expected = layout(parameter.grad)
            torch.testing.assert_close(cut(gradient[lane]), expected, rtol=0, atol=1e-10)
            assert expected.abs().max() > 1e-6


@every
def test_counts_are_pefts(method: str) -> None:
    kind, config = component(method)
    other = get_peft_model(Twin(backbone(), 0), peft_config(method, config))  # type: ignore[arg-type]
    expected = sum(parameter.numel() for parameter in trainable(other))
    assert count_trainable(kind, config, BACKBONE) == expected


# The contract


@every
def test_the_start_is_the_frozen_backbone(method: str) -> None:
    x, _ = samples()
    assert torch.equal(adapter(method)(x), backbone()(x))


@every
def test_every_tensor_has_a_gradient_by_the_second_step(method: str) -> None:
    model = adapter(method)
    parameters = list(model.trainable().values())
    optimizer = AdamW(parameters, lr=1e-2, config=AdamW.Config())
    seen = torch.zeros(len(parameters), LANES)
    for _ in range(2):
        for index, gradient in enumerate(gradients(model, parameters)):
            parameters[index].grad = gradient
            seen[index] = seen[index].maximum(gradient.flatten(1).norm(dim=1))
        optimizer.step()
    assert seen.min() > 1e-13  # Lily's routers: Adam's first step leaves its experts almost alike


@every
def test_lanes_equal_solo_runs(method: str) -> None:
    def trained(lanes: int) -> Adapter:
        model = adapter(method, lanes)
        parameters = list(model.trainable().values())
        optimizer = AdamW(parameters, lr=1e-2, config=AdamW.Config())
        for _ in range(20):
            found = gradients(model, parameters, lanes)
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.grad = gradient
            optimizer.step()
        return model

    together, alone = trained(3), trained(1)
    for name, value in alone.trainable().items():
        torch.testing.assert_close(together.trainable()[name][:1], value, rtol=0, atol=1e-9)


@every
def test_saved_tensors_come_back(method: str, tmp_path: Path) -> None:
    model, other = adapter(method, moved=0.3), adapter(method)
    for lane in range(LANES):
        model.save(tmp_path / "adapter.safetensors", lane)
        stored = load_file(tmp_path / "adapter.safetensors")
        assert sum(t.numel() for t in stored.values()) == count_trainable(
            type(model), model.config, BACKBONE
        )
        other.load(tmp_path / "adapter.safetensors", lane)
    x, _ = samples()
    assert torch.equal(other(x), model(x))


@every
def test_merging_keeps_the_function_or_is_refused(method: str) -> None:
    model = adapter(method, moved=0.3)
    x, _ = samples()
    expected = model(x)
    if method == "lily":
        with pytest.raises(UsageError, match="cannot be merged"):
            model.merge()
    else:
        torch.testing.assert_close(model.merge()(x), expected, rtol=0, atol=1e-10)


def test_lilys_routing_leaves_padding_out_and_lanes_apart() -> None:
    model = adapter("lily", moved=0.3)
    linear: Any = model.backbone.layers[0].qkv
    h = torch.randn(LANES, 5, 4, 8, generator=generators(1)[0], dtype=torch.float64)
    mask = torch.ones(LANES, 5, 4, dtype=torch.bool)
    mask[0, :3, 2:] = False
    changed = torch.where(mask.unsqueeze(-1), h, 9.0)
    changed[1] += 1.0
    with torch.no_grad():
        before, after = (linear(t, model.context(mask))[0] for t in (h, changed))
    torch.testing.assert_close(before[0][mask[0]], after[0][mask[0]], rtol=0, atol=1e-12)


def test_lilys_predictions_are_of_fixed_batches() -> None:
    model = adapter("lily", moved=0.3)
    x, _ = samples()
    parts = [model(part) for part in x.split(4, dim=1)]
    assert torch.equal(predict(model, x, chunk=4), torch.cat(parts, dim=1))
    assert not torch.allclose(predict(model, x, chunk=4), model(x), atol=1e-6)


@pytest.mark.parametrize(
    ("method", "overrides", "complaint"),
    [
        ("vb_lora", {"vector_length": 3}, "must divide 8"),
        ("vb_lora", {"vectors": 2, "top_k": 3}, "at most method.vectors=2"),
        ("vb_lora", {"top_k": 1}, "top_k=1 is out of range"),
        ("vera", {"targets": []}, "at least one of qkv, out, up, down"),
        ("lily", {"experts": 1}, "experts=1 is out of range"),
        ("lily", {"rank": 9}, "rank must be at most 8"),
    ],
)
def test_what_does_not_fit_is_refused(
    method: str, overrides: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        component(method, **overrides)[1].check(BACKBONE)


# Equal counts


def budgeted(name: str, budget: int | None, width: int = 32, **overrides: Any) -> Config:
    kind, config = component(name, **overrides)
    return with_budget(
        Config(
            function=FunctionConfig("matyas", {}, [[-1, 1], [-1, 1]]),
            shift=ShiftConfig(),
            data=DataConfig(),
            backbone=BackboneConfig(depth=8, width=width),
            method=Component(kind, config),
            optimizer=None,
            pretrain_optimizer=None,
            trainer=TrainerConfig(),
            tracking=TrackingConfig(),
            budget=BudgetConfig(rank=budget),
        )
    )


@pytest.mark.parametrize("method", [*METHODS, "lora", "dora", "shared_lora", "queryable"])
@pytest.mark.parametrize("rank", [2, 5])
def test_a_budget_chooses_the_nearest_count(method: str, rank: int) -> None:
    found = budgeted(method, rank)
    kind, config = found.method.kind, found.method.config
    lora = LowRankConfig(rank=rank)
    wanted = count_trainable(LoRA, lora, found.backbone)
    assert reference_count(found) == wanted

    def distance(candidate: AdapterConfig) -> int:
        return abs(count_trainable(kind, candidate, found.backbone) - wanted)

    size = getattr(config, config.sized_by)
    allowed = config.sizes(found.backbone)
    for neighbour in (size - 1, size + 1):
        if neighbour in allowed:
            assert distance(config) <= distance(config.sized(neighbour))


def test_a_budget_keeps_the_scale_that_is_the_methods_own() -> None:
    for name in ("lora", "lily"):
        config = budgeted(name, 6).method.config
        assert config.scale == pytest.approx(component(name)[1].scale)
    assert budgeted("rslora", 6).method.config.alpha == component("rslora")[1].alpha
    start = component("vb_lora")[1]
    assert budgeted("vb_lora", 6).method.config == replace(
        start, vectors=budgeted("vb_lora", 6).method.config.vectors
    )


def test_without_a_budget_only_a_rank_like_loras_has_a_reference() -> None:
    assert reference_count(budgeted("vera", None)) is None
    assert reference_count(budgeted("vb_lora", None)) == count_trainable(
        LoRA, LowRankConfig(rank=2), BackboneConfig(depth=8, width=32)
    )
