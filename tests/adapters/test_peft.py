"""LoRA and DoRA against peft, ShareLoRA against LoRA with tied tensors."""

from typing import Any

import pytest
import torch
from build import F64, TINY, network, points
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from qlexp.adapters.base import LowRankConfig
from qlexp.adapters.dora import DoRALinear
from qlexp.adapters.lora import LoRA, LoRALinear
from qlexp.adapters.shared_lora import SharedLoRA, SharedLoRAConfig
from qlexp.model.context import Context
from qlexp.model.initial import Draw
from qlexp.model.linear import LaneLinear

LANES = (1, 2)
CONFIG = LowRankConfig(rank=3, alpha=5.0)
SHAPES = {"first": (10, 6), "second": (4, 10)}  # (out, in)
LINEARS = {"lora": LoRALinear, "dora": DoRALinear}


class Lanes(nn.Module):
    """Two linears and a tanh, under one of our methods; every tensor random."""

    def __init__(self, method: str) -> None:
        super().__init__()
        draw = Draw(LANES, F64)
        for name, shape in SHAPES.items():
            base = LaneLinear(*shape, draw)
            base.bias.data = draw.normal(shape[0]).data
            base.requires_grad_(False)
            linear = LINEARS[method](base, CONFIG, draw)
            linear.B.data = draw.normal(*linear.B.shape[1:]).data
            if isinstance(linear, DoRALinear):
                linear.magnitude.data *= 1 + draw.uniform(shape[0], bound=0.5).data
            setattr(self, name, linear)

    def forward(self, x: Tensor) -> Tensor:
        hidden, context = self.get_submodule("first")(x, Context())
        return self.get_submodule("second")(hidden.tanh(), context)[0]


class Plain(nn.Module):
    """The same network of one lane, for peft."""

    def __init__(self, lanes: Lanes, lane: int) -> None:
        super().__init__()
        for name, (d_out, d_in) in SHAPES.items():
            linear, base = nn.Linear(d_in, d_out, dtype=F64), getattr(lanes, name).base
            linear.weight.data, linear.bias.data = (
                base.weight[lane].clone(),
                base.bias[lane].clone(),
            )
            setattr(self, name, linear)

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule("second")(self.get_submodule("first")(x).tanh())


def peft_tensors(linear: Any) -> dict[str, nn.Parameter]:
    """peft's tensors of a linear, by our names."""
    tensors = {"A": linear.lora_A["default"].weight, "B": linear.lora_B["default"].weight}
    if linear.lora_magnitude_vector:
        tensors["magnitude"] = linear.lora_magnitude_vector["default"].weight
    return tensors


@pytest.mark.parametrize("lane", range(len(LANES)))
@pytest.mark.parametrize("method", LINEARS)
def test_outputs_and_gradients_are_those_of_peft(method: str, lane: int) -> None:
    ours = Lanes(method)
    theirs = get_peft_model(
        Plain(ours, lane),
        LoraConfig(
            r=CONFIG.rank,
            lora_alpha=int(CONFIG.alpha),
            target_modules=list(SHAPES),
            use_dora=method == "dora",
        ),
    ).double()
    pairs = {}
    for name in SHAPES:
        for factor, theirs_tensor in peft_tensors(theirs.get_submodule(name)).items():
            tensor = getattr(getattr(ours, name), factor)
            theirs_tensor.data.copy_(tensor[lane])
            pairs[f"{name}.{factor}"] = (tensor, theirs_tensor)
    assert len(pairs) == (6 if method == "dora" else 4)

    x = Draw(LANES, F64).normal(7, 2, 6)  # (L, N, T, in)
    weight = Draw([9], F64).normal(7, 2, 4).data[0]
    y, expected = ours(x), theirs(x[lane])
    torch.testing.assert_close(y[lane], expected, rtol=1e-10, atol=1e-10)
    found = torch.autograd.grad((y[lane] * weight).sum(), [x, *(p for p, _ in pairs.values())])
    wanted = torch.autograd.grad((expected * weight).sum(), [x, *(q for _, q in pairs.values())])
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-10, atol=1e-10)
    for one, other in zip(found[1:], wanted[1:], strict=True):
        torch.testing.assert_close(one[lane], other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("share", ["A", "B", "both"])
def test_shared_lora_is_lora_with_tied_tensors(share: str) -> None:
    x = points(LANES)
    shared = SharedLoRA(network(LANES), SharedLoRAConfig(share=share), Draw(LANES, F64))
    plain = LoRA(network(LANES), LowRankConfig(), Draw(LANES, F64))
    tied = ("A", "B") if share == "both" else (share,)
    draw = Draw(LANES, F64)
    for tensor in shared.trainable().values():
        tensor.data = draw.normal(*tensor.shape[1:], std=0.3).data
    owners = {  # of every tensor of plain LoRA, the one of ShareLoRA that it must equal
        name: f"shared.{name.split('.', 2)[2]}" if name.rpartition(".")[2] in tied else name
        for name in plain.trainable()
    }
    assert set(owners.values()) == shared.trainable().keys()
    for name, owner in owners.items():
        plain.trainable()[name].data = shared.trainable()[owner].data.clone()

    y, expected = shared(x), plain(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    y.square().sum().backward()
    expected.square().sum().backward()
    for owner, tensor in shared.trainable().items():
        copies = [name for name in owners if owners[name] == owner]
        assert len(copies) == (TINY.depth if owner.rpartition(".")[2] in tied else 1)
        gradients = [plain.get_parameter(f"backbone.{name}").grad for name in copies]
        assert tensor.grad is not None
        expected_sum = sum(gradient for gradient in gradients if gradient is not None)
        torch.testing.assert_close(tensor.grad, expected_sum, rtol=1e-10, atol=1e-10)
