"""The routed and the generated rivals of LoRA against loops over plain numbers, and in limits."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from qlexp.adapters.base import Adapter, LowRankConfig, count_trainable
from qlexp.adapters.comol import CoMoL
from qlexp.adapters.core import Core
from qlexp.adapters.dora import DoRA
from qlexp.adapters.doran import DoRAN
from qlexp.adapters.hira import HiRA
from qlexp.adapters.hyra import HyRA
from qlexp.adapters.ld_mole import LDMoLE, least_strength, sparsegen
from qlexp.adapters.lora import LoRA
from qlexp.adapters.lora_xs import LoRAXS
from qlexp.adapters.mix_lora import MixLoRA
from qlexp.adapters.moe_lora import MoELoRA, load_imbalance
from qlexp.adapters.nara import NaRA
from qlexp.adapters.queryable import Queryable
from qlexp.adapters.rep_lora import RepLoRA
from qlexp.adapters.shared_lora import SharedLoRA
from qlexp.adapters.text_to_lora import TextToLoRA
from qlexp.config.schema import BackboneConfig, StageConfig
from qlexp.errors import UsageError
from qlexp.model.backbone import Backbone, linear_shapes
from qlexp.model.context import Context
from qlexp.model.evaluate import Samples
from qlexp.model.initial import Draw, Shapes
from qlexp.optim.adamw import AdamW
from qlexp.train.loop import Curves, lane_losses, train

SMALL = BackboneConfig(depth=2, width=8, heads=2, frequencies=3)
PAPER_SMALL = BackboneConfig(depth=8, width=32)
TYPES = ("qkv", "out", "up", "down")
READINGS = [MixLoRA, MoELoRA, RepLoRA, DoRAN, HyRA, TextToLoRA, NaRA]
RIVALS = [*READINGS, CoMoL, LDMoLE, HiRA, LoRAXS, Core]
MERGING = [RepLoRA, DoRAN, HyRA, TextToLoRA, HiRA, LoRAXS, Core]
TEXT = 5
every_rival = pytest.mark.parametrize("kind", RIVALS, ids=lambda kind: kind.__name__)
every_linear = pytest.mark.parametrize("name", TYPES)
Vector, Matrix = list[float], list[list[float]]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def build(kind: type[Adapter], seeds: Sequence[int] = (0, 1), **fields: Any) -> Adapter:
    """The method at its start on fresh backbones with biases, one lane a seed, in float64."""
    backbone = Backbone(SMALL, Draw(seeds, torch.float64))
    for parameter_index, parameter in enumerate(backbone.parameters()):
        for lane, seed in enumerate(seeds):
            noise = normal(*parameter.shape[1:], seed=1000 * seed + parameter_index)
            parameter.data[lane] += 0.1 * noise
    config = kind.Config(**{"rank": 2, "alpha": 3.0, **fields})
    config.check(SMALL)
    return kind(backbone, config, Draw([seed + 50 for seed in seeds], torch.float64))


def stirred(model: Adapter) -> Adapter:
    """Away from the start, where much is zero."""
    for index, parameter in enumerate(model.trainable().values()):
        parameter.data += 0.3 * normal(*parameter.shape, seed=index)
    return model


def linear_of(model: Adapter, layer: int, name: str) -> Any:
    return getattr(model.backbone.layers[layer], name)


def points(lanes: int = 2, n: int = 7) -> tuple[Tensor, Tensor]:
    return normal(lanes, n, 2, seed=5).tanh(), normal(lanes, n, seed=6)


# --- The methods once more, in loops over the numbers of one lane --------------------------------


def matvec(M: Matrix, v: Vector) -> Vector:
    return [sum(m * x for m, x in zip(row, v, strict=True)) for row in M]


def product(M: Matrix, N: Matrix) -> Matrix:
    return [[sum(m * n for m, n in zip(row, c, strict=True)) for c in flip(N)] for row in M]


def flip(M: Matrix) -> Matrix:
    return [list(column) for column in zip(*M, strict=True)]


def added(*vectors: Vector) -> Vector:
    return [sum(values) for values in zip(*vectors, strict=True)]


def softmax(v: Vector) -> Vector:
    powers = [math.exp(x) for x in v]
    return [p / sum(powers) for p in powers]


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def largest(v: Vector, k: int) -> list[int]:
    return sorted(range(len(v)), key=lambda i: -v[i])[:k]


class Lane:
    """The tensors of one lane of a module as lists, by attribute or key."""

    def __init__(self, module: Any, lane: int) -> None:
        self.module, self.lane = module, lane

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)[self.lane].tolist()


def frozen(linear: Lane, h: Vector) -> Vector:
    base = Lane(linear.module.base, linear.lane)
    return added(matvec(base.weight, h), base.bias)


def updated(linear: Lane, h: Vector, A: Matrix, B: Matrix) -> Vector:
    low = matvec(B, matvec(A, h))
    return added(frozen(linear, h), [linear.module.scale * x for x in low])


def mix_lora(model: Any, lane: int, layer: int, name: str, tokens: Matrix) -> Matrix:
    linear = Lane(linear_of(model, layer, name), lane)
    rank = model.config.rank
    mean = [x / len(tokens) for x in added(*tokens)]
    picked_A = largest(softmax(matvec(linear.R_A, mean)), rank)
    choice = [float(i in picked_A) for i in range(2 * rank)]
    p_B = added(softmax(matvec(linear.R_B, mean)), softmax(matvec(linear.C, choice)))
    picked_B = largest(p_B, rank)
    A = [linear.A[i] for i in picked_A]
    B = flip([flip(linear.B)[i] for i in picked_B])
    return [updated(linear, h, A, B) for h in tokens]


def moe_lora(model: Any, lane: int, layer: int, name: str, tokens: Matrix) -> Matrix:
    linear = Lane(linear_of(model, layer, name), lane)
    rank, outputs = model.config.rank, []
    for h in tokens:
        gates, y = softmax(matvec(linear.W_g, h)), frozen(linear, h)
        for i in largest(gates, model.config.top_k):
            own = slice(i * rank, (i + 1) * rank)
            expert = matvec([row[own] for row in linear.B], matvec(linear.A[own], h))
            y = added(y, [linear.module.scale * gates[i] * x for x in expert])
        outputs.append(y)
    return outputs


def reparametrised(U: Matrix, V: Matrix, X: Matrix) -> Matrix:
    hidden = [[silu(x) for x in row] for row in product(U, X)]
    return [added(x, y) for x, y in zip(X, product(V, hidden), strict=True)]


def rep_factors(model: Any, lane: int, group: int, linear: Lane) -> tuple[Matrix, Matrix]:
    g_A, g_B = Lane(model.g_A, lane), Lane(model.g_B, lane)
    A = reparametrised(g_A.U[group], g_A.V[group], linear.A)
    return A, flip(reparametrised(g_B.U[group], g_B.V[group], flip(linear.B)))


def rep_lora(model: Any, lane: int, layer: int, name: str, tokens: Matrix) -> Matrix:
    linear = Lane(linear_of(model, layer, name), lane)
    A, B = rep_factors(model, lane, layer, linear)
    return [updated(linear, h, A, B) for h in tokens]


def doran(model: Any, lane: int, layer: int, name: str, tokens: Matrix) -> Matrix:
    linear = Lane(linear_of(model, layer, name), lane)
    A, B = rep_factors(model, lane, 0, linear)
    base = Lane(linear.module.base, lane)
    rows = []
    for w, change, m in zip(base.weight, product(B, A), linear.magnitude, strict=True):
        row = added(w, [linear.module.scale * x for x in change])
        norm = math.sqrt(sum(x * x for x in row)) + math.exp(linear.log_tau)
        rows.append([m * x / norm for x in row])
    return [added(matvec(rows, h), base.bias) for h in tokens]


def hyra(model: Any, lane: int, layer: int, name: str, tokens: Matrix) -> Matrix:
    linear, network = Lane(linear_of(model, layer, name), lane), model.hypernetwork
    A, B = [], []
    for embedding in Lane(network, lane).embeddings[TYPES.index(name)][layer]:
        z = [math.tanh(x) for x in matvec(Lane(network, lane).W_1, embedding)]
        A.append(matvec(network.W_A[name][lane].tolist(), z))
        B.append(matvec(network.W_B[name][lane].tolist(), z))
    return [updated(linear, h, A, flip(B)) for h in tokens]


def text_to_lora(
    model: Any, lane: int, layer: int, name: str, tokens: Matrix, text: Vector | None = None
) -> Matrix:
    linear, network = Lane(linear_of(model, layer, name), lane), model.hypernetwork
    own = Lane(network, lane)
    t = own.text if text is None else matvec(own.encoder, text)
    seen = t + own.type_embeddings[TYPES.index(name)] + own.layer_embeddings[layer]
    z = [silu(x) for x in matvec(own.W_2, [silu(x) for x in matvec(own.W_1, seen)])]

    def factor(head: Tensor) -> Matrix:
        numbers = head[lane].tolist()  # (hidden + 1, rank, d)
        scaled = [
            [[p * x for x in row] for row in M] for p, M in zip([*z, 1.0], numbers, strict=True)
        ]
        return [added(*rows) for rows in zip(*scaled, strict=True)]

    A, B = factor(network.H_A[name]), flip(factor(network.H_B[name]))
    return [updated(linear, h, A, B) for h in tokens]


def comol(model: Any, lane: int, layer: int, name: str, tokens: Matrix) -> Matrix:
    linear, outputs = Lane(linear_of(model, layer, name), lane), []
    for h in tokens:
        low = matvec(linear.A, h)
        parts = [
            [p * x for x in matvec(M, low)]
            for p, M in zip(softmax(matvec(linear.R, low)), linear.M, strict=True)
        ]
        change = matvec(linear.B, added(*parts))
        outputs.append(added(frozen(linear, h), [linear.module.scale * x for x in change]))
    return outputs


def projected(u: Vector, strength: float) -> Vector:
    """Sparsegen's weights, by trying every number of experts."""
    ordered = sorted(u, reverse=True)
    for k in range(len(u), 0, -1):
        tau = (sum(ordered[:k]) - 1 + strength) / k
        if ordered[k - 1] > tau:
            return [max(x - tau, 0) / (1 - strength) for x in u]
    raise AssertionError


def ld_mole(model: Any, lane: int, layer: int, name: str, tokens: Matrix) -> Matrix:
    linear = Lane(linear_of(model, layer, name), lane)
    own = Lane(model.networks[str(linear.module.base.d_in)], lane)
    rank, outputs = model.config.rank, []
    for h in tokens:
        hidden = [max(x, 0) for x in added(matvec(own.W_1, h), own.b_1)]
        (score,) = added(matvec(own.W_2, hidden), own.b_2)
        gates = projected(matvec(linear.W_g, h), 0.99 - math.log(1 + math.exp(-score)))
        y = frozen(linear, h)
        for i, gate in enumerate(gates):
            rows = slice(i * rank, (i + 1) * rank)
            expert = matvec([row[rows] for row in linear.B], matvec(linear.A[rows], h))
            y = added(y, [linear.module.scale * gate * x for x in expert])
        outputs.append(y)
    return outputs


def nara(model: Any, lane: int, layer: int, name: str, tokens: Matrix) -> Matrix:
    """Of the linear whose own A h is the state."""
    assert linear_of(model, layer, name).first
    linear, own = Lane(linear_of(model, layer, name), lane), Lane(model.hypernetwork, lane)
    lows = [matvec(linear.A, h) for h in tokens]
    state = [x / len(tokens) for x in added(*lows)]
    hidden = [silu(x) for x in added(matvec(own.W_1, state), own.b_1)]
    numbers, rank = added(matvec(own.W_2, hidden), own.b_2), model.config.rank
    core = [[model.config.eta * x for x in numbers[i * rank : (i + 1) * rank]] for i in range(rank)]
    return [
        added(
            frozen(linear, h),
            [linear.module.scale * x for x in matvec(linear.B, added(low, matvec(core, low)))],
        )
        for h, low in zip(tokens, lows, strict=True)
    ]


def hira(model: Any, lane: int, layer: int, name: str, tokens: Matrix) -> Matrix:
    linear = Lane(linear_of(model, layer, name), lane)
    base, change = Lane(linear.module.base, lane), product(linear.B, linear.A)
    rows = [
        [w * (1 + linear.module.scale * x) for w, x in zip(own, row, strict=True)]
        for own, row in zip(base.weight, change, strict=True)
    ]
    return [added(matvec(rows, h), base.bias) for h in tokens]


def lora_xs(model: Any, lane: int, layer: int, name: str, tokens: Matrix) -> Matrix:
    linear = Lane(linear_of(model, layer, name), lane)
    return [updated(linear, h, product(linear.R, linear.A), linear.B) for h in tokens]


def core(model: Any, lane: int, layer: int, name: str, tokens: Matrix) -> Matrix:
    linear = Lane(linear_of(model, layer, name), lane)
    A = [added(row, more) for row, more in zip(linear.A, product(linear.C, linear.A), strict=True)]
    return [updated(linear, h, A, linear.B) for h in tokens]


LOOPS: dict[type[Adapter], Callable[..., Matrix]] = {
    MixLoRA: mix_lora,
    MoELoRA: moe_lora,
    RepLoRA: rep_lora,
    DoRAN: doran,
    HyRA: hyra,
    TextToLoRA: text_to_lora,
    CoMoL: comol,
    LDMoLE: ld_mole,
    NaRA: nara,
    HiRA: hira,
    LoRAXS: lora_xs,
    Core: core,
}


@every_linear
@every_rival
def test_a_linear_does_what_the_loop_over_one_example_does(kind: type[Adapter], name: str) -> None:
    fields, layer = ({"targets": [name]}, 0) if kind is NaRA else ({}, 1)
    model = stirred(build(kind, **fields))
    h = normal(2, 4, 3, linear_shapes(SMALL)[name][1], seed=9)  # 4 examples of 3 tokens
    given, _ = linear_of(model, layer, name)(h, model.context())
    for lane in range(2):
        for example in range(4):
            wanted = LOOPS[kind](model, lane, layer, name, h[lane, example].tolist())
            torch.testing.assert_close(
                given[lane, example], torch.tensor(wanted, dtype=h.dtype), rtol=0, atol=1e-10
            )


@every_linear
def test_every_text_writes_the_factors_of_its_own_example(name: str) -> None:
    model = stirred(build(TextToLoRA, text_dim=TEXT))
    texts = normal(2, 4, TEXT, seed=3)
    h = normal(2, 4, 3, linear_shapes(SMALL)[name][1], seed=9)
    given, _ = linear_of(model, 1, name)(h, model.context(instruction=texts))
    for example in range(4):
        wanted = text_to_lora(model, 0, 1, name, h[0, example].tolist(), texts[0, example].tolist())
        torch.testing.assert_close(
            given[0, example], torch.tensor(wanted, dtype=h.dtype), rtol=0, atol=1e-10
        )


def test_the_factors_that_mix_lora_picks_do_not_see_padding() -> None:
    model = stirred(build(MixLoRA))
    h = normal(2, 4, 3, 8, seed=9)
    mask = torch.tensor([True, True, False]).expand(2, 4, 3)
    short, _ = linear_of(model, 0, "qkv")(h[:, :, :2], model.context())
    padded, _ = linear_of(model, 0, "qkv")(h, model.context(mask))
    torch.testing.assert_close(padded[:, :, :2], short, rtol=0, atol=1e-12)


def test_the_routers_of_mix_lora_learn_from_the_weights_of_what_they_chose() -> None:
    model: Any = stirred(build(MixLoRA, seeds=(0,)))
    linear, h = linear_of(model, 0, "qkv"), normal(1, 1, 3, 8, seed=9)
    towards = normal(1, 1, 3, 24, seed=4)
    routers = [linear.R_A, linear.R_B, linear.C]
    given = torch.autograd.grad((linear(h, model.context())[0] * towards).sum(), routers)

    A, B, R_A, R_B, C = (
        p.detach()[0].requires_grad_()
        for p in (linear.A, linear.B, linear.R_A, linear.R_B, linear.C)
    )
    tokens = h[0, 0]

    def weighed(p: Tensor) -> tuple[Tensor, Tensor]:
        best, chosen = p.sort(descending=True)
        return chosen[:2], best[:2] + (1 - best[:2]).detach()

    chosen_A, weight_A = weighed((R_A @ tokens.mean(0)).softmax(0))
    condition = (C[:, chosen_A] * weight_A).sum(1).softmax(0)
    chosen_B, weight_B = weighed(((R_B @ tokens.mean(0)).softmax(0) + condition) / 2)
    change = (B[:, chosen_B] * weight_B) @ (A[chosen_A] * weight_A.unsqueeze(1))  # (24, 8)
    loss = (linear.scale * (tokens @ change.mT) * towards[0, 0]).sum()
    for gradient, wanted in zip(given, torch.autograd.grad(loss, [R_A, R_B, C]), strict=True):
        torch.testing.assert_close(gradient[0], wanted, rtol=0, atol=1e-12)


# --- What they become in a limit -----------------------------------------------------------------


def outputs_and_gradients(model: Adapter, names: Sequence[str]) -> list[Tensor]:
    x, y = points()
    parameters = model.trainable()
    gradients = torch.autograd.grad(lane_losses(model, x, y).sum(), [parameters[n] for n in names])
    return [model(x).detach(), *gradients]


def same_linears(model: Adapter, other: Adapter) -> list[str]:
    """Gives `other` the factors of `model`; returns the names that both have."""
    own, others = model.trainable(), other.trainable()
    shared = [name for name in own if name in others]
    for name in shared:
        others[name].data.copy_(own[name].data)
    return shared


@pytest.mark.parametrize(("kind", "plain"), [(RepLoRA, LoRA), (DoRAN, DoRA)])
def test_without_its_networks_it_is_the_plain_method(
    kind: type[Adapter], plain: type[Adapter]
) -> None:
    fields = {"tau": 0.0} if kind is DoRAN else {}
    model: Any = stirred(build(kind, **fields))
    model.g_A.V.data.zero_()
    model.g_B.V.data.zero_()
    other = build(plain)
    shared = same_linears(model, other)
    assert set(shared) == set(other.trainable())
    for given, wanted in zip(
        outputs_and_gradients(model, shared), outputs_and_gradients(other, shared), strict=True
    ):
        torch.testing.assert_close(given, wanted, rtol=0, atol=1e-12)


def test_a_tau_of_zero_is_not_built() -> None:
    assert not any("tau" in name for name in build(DoRAN, tau=0.0).trainable())


def test_an_even_mixture_of_all_experts_is_one_lora_of_their_joint_rank() -> None:
    model = stirred(build(MoELoRA, experts=3, top_k=3, balance=0.0))
    for name, parameter in model.trainable().items():
        if name.endswith("W_g"):
            parameter.data.zero_()
    other = build(LoRA, rank=6, alpha=3.0)  # alpha / 6 = (alpha / 2) / 3 experts
    same_linears(model, other)
    x, _ = points()
    torch.testing.assert_close(model(x), other(x), rtol=0, atol=1e-12)


def test_pools_of_equal_vectors_leave_nothing_to_route() -> None:
    model, other = stirred(build(MixLoRA)), build(LoRA)
    for name, parameter in other.trainable().items():
        pool = model.trainable()[name].data
        axis = 1 if name.endswith("A") else 2
        pool.copy_(pool.narrow(axis, 0, 1).expand_as(pool))
        parameter.data.copy_(pool.narrow(axis, 0, 2))
    x, _ = points()
    torch.testing.assert_close(model(x), other(x), rtol=0, atol=1e-12)


def test_heads_with_biases_alone_are_one_lora_for_all_layers() -> None:
    model: Any = stirred(build(TextToLoRA))
    other: Any = build(SharedLoRA, share="both")
    network = model.hypernetwork
    for name in TYPES:
        network.H_A[name].data[:, :-1] = 0
        network.H_B[name].data[:, :-1] = 0
        linear_of(other, 0, name).A.data.copy_(network.H_A[name][:, -1])
        linear_of(other, 0, name).B.data.copy_(network.H_B[name][:, -1].mT)
    x, _ = points()
    torch.testing.assert_close(model(x), other(x), rtol=0, atol=1e-12)


def test_one_text_for_all_is_the_learned_constant() -> None:
    texted: Any = stirred(build(TextToLoRA, text_dim=TEXT))
    constant: Any = build(TextToLoRA)
    same_linears(texted, constant)
    text = normal(2, 1, TEXT, seed=3)
    constant.hypernetwork.text.data.copy_((text @ texted.hypernetwork.encoder.mT).squeeze(1))
    x, _ = points()
    context = texted.context(instruction=text.expand(2, 7, TEXT))
    given, _ = texted.backbone.run(x, context)
    torch.testing.assert_close(given, constant(x), rtol=0, atol=1e-12)


def test_one_core_for_all_experts_leaves_nothing_to_route() -> None:
    model: Any = stirred(build(CoMoL))
    other: Any = build(Core)
    for linear, plain in zip(adapted_of(model), adapted_of(other), strict=True):
        linear.M.data[:] = linear.M[:, :1]
        plain.A.data.copy_(linear.A)
        plain.B.data.copy_(linear.B)
        plain.C.data.copy_(linear.M[:, 0] - torch.eye(2))
    x, _ = points()
    torch.testing.assert_close(model(x), other(x), rtol=0, atol=1e-12)


def test_a_hypernetwork_with_a_bias_alone_makes_one_core_for_the_network() -> None:
    model: Any = stirred(build(NaRA))
    other: Any = build(Core, shared_by="network")
    same_linears(model, other)
    model.hypernetwork.W_2.data.zero_()
    C = model.config.eta * model.hypernetwork.b_2.unflatten(1, (2, 2))
    linear_of(other, 0, "qkv").C.data.copy_(C)
    x, _ = points()
    torch.testing.assert_close(model(x), other(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("bank", "shared_by"), [("network", "block"), ("block", "block")])
def test_static_routes_are_cores_of_the_blocks(bank: str, shared_by: str) -> None:
    fields = {"routing": "static", "bank": bank, "block_size": 1, "atoms": 6, "top_k": 2}
    model: Any = stirred(build(Queryable, gated=False, **fields))
    other: Any = build(Core, shared_by=shared_by, block_size=1)
    same_linears(model, other)
    x, _ = points()
    routes = model.routes(x)  # (L, N, N_b, K)
    assert torch.equal(routes, routes[:, :1].expand_as(routes))
    for block, weights in enumerate(routes[:, 0].unbind(1)):
        assert (weights.ne(0).sum(-1) == 2).all()
        if bank == "block":
            assert (weights.unflatten(1, (2, 3)).sum(-1)[:, block] == 1).all()
        C = torch.einsum("lk,lkij->lij", weights, model.router.atoms)
        linear_of(other, block, "qkv").C.data.copy_(C)
    torch.testing.assert_close(model(x), other(x), rtol=0, atol=1e-12)
    assert {"U", "S", "V"}.isdisjoint(name for name, _ in model.router.named_parameters())
    torch.testing.assert_close(model.merge()(x), other(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("shared_by", "cores"), [("linear", 8), ("block", 2), ("network", 1)])
def test_a_core_is_counted_once_for_all_that_share_it(shared_by: str, cores: int) -> None:
    config = Core.Config(rank=2, shared_by=shared_by, block_size=1)
    plain = count_trainable(LoRA, LowRankConfig(rank=2), SMALL)
    assert count_trainable(Core, config, SMALL) == plain + cores * 4


def adapted_of(model: Adapter) -> list[Any]:
    return [linear_of(model, layer, name) for layer in range(SMALL.depth) for name in TYPES]


# --- Their parts ---------------------------------------------------------------------------------


def test_the_factors_of_lora_xs_are_the_best_of_their_rank() -> None:
    model = build(LoRAXS)
    for linear in adapted_of(model):
        W, A, B = linear.base.weight, linear.A, linear.B
        S = torch.linalg.svdvals(W)
        left = torch.linalg.matrix_norm(W - B @ A).square()
        torch.testing.assert_close(left, S[:, 2:].square().sum(1))
        torch.testing.assert_close(B.mT @ B, torch.eye(2).double().expand(2, 2, 2))
        torch.testing.assert_close(A @ A.mT, torch.diag_embed(S[:, :2].square()))
        assert (A.gather(-1, A.abs().argmax(-1, keepdim=True)) > 0).all()


@pytest.mark.parametrize("strength", [-3.0, 0.0, 0.9])
def test_sparsegen_solves_its_problem(strength: float) -> None:
    scores = normal(40, 5).requires_grad_()
    lam = torch.full((40, 1), strength, dtype=scores.dtype, requires_grad=True)
    p = sparsegen(scores, lam)
    torch.testing.assert_close(p.sum(-1), torch.ones(40).double())
    assert (p >= 0).all()
    with torch.no_grad():
        others = torch.cat([normal(300, 5, seed=1).softmax(-1), torch.eye(5).double()])
        others = torch.cat([others, *(0.999 * p + 0.001 * q for q in others[-5:])])

        def value(q: Tensor) -> Tensor:
            away = (q.unsqueeze(0) - scores.unsqueeze(1)).square().sum(-1)
            return away - strength * q.square().sum(-1)

        own = (p - scores).square().sum(-1) - strength * p.square().sum(-1)
        assert (value(others) >= own.unsqueeze(1) - 1e-12).all()
    assert torch.autograd.gradcheck(sparsegen, (scores, lam))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_from_the_least_strength_on_no_more_experts_are_active(k: int) -> None:
    scores = normal(40, 5)
    least = least_strength(scores, k)
    assert (sparsegen(scores, least + 1e-9).gt(0).sum(-1) <= k).all()
    assert (sparsegen(scores, least - 1e-6).gt(0).sum(-1) > k).all()


def test_the_losses_of_ld_mole_join_the_training_loss() -> None:
    model: Any = stirred(build(LDMoLE, balance=0.3, sparsity=0.2, most_active=1))
    bare: Any = build(LDMoLE, balance=0.0)
    for name, parameter in bare.trainable().items():
        parameter.data.copy_(model.trainable()[name])
    x, y = points()
    seen: list[tuple[Tensor, Tensor]] = []

    def note(linear: Any, inputs: tuple[Tensor, Any]) -> None:
        h, context = inputs
        u = h @ linear.W_g.mT.unsqueeze(1)
        seen.append((u, context.networks[linear.base.d_in](h)))

    hooks = [linear.register_forward_pre_hook(note) for linear in adapted_of(model)]
    found = lane_losses(model, x, y)
    for hook in hooks:
        hook.remove()
    wanted = lane_losses(bare, x, y)
    for u, strength in seen:
        p = sparsegen(u, strength)
        excess = (least_strength(u, 1) - strength).clamp_min(0)
        penalty = 0.3 * load_imbalance(p, p, None) + 0.2 * excess.mean((1, 2, 3))
        wanted = wanted + penalty / len(seen)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_the_core_of_nara_does_not_see_padding() -> None:
    model = stirred(build(NaRA))
    h = normal(2, 4, 3, 8, seed=9)
    mask = torch.tensor([True, True, False]).expand(2, 4, 3)
    short, _ = linear_of(model, 0, "qkv")(h[:, :, :2], model.context())
    padded, _ = linear_of(model, 0, "qkv")(h, model.context(mask))
    torch.testing.assert_close(padded[:, :, :2], short, rtol=0, atol=1e-12)


# --- What every method promises ------------------------------------------------------------------


@every_rival
def test_it_starts_as_the_frozen_backbone(kind: type[Adapter]) -> None:
    x, _ = points()
    bare = build(LoRA).merge()(x)
    assert torch.equal(build(kind)(x), bare)


def trained(model: Adapter, steps: int, x: Tensor, y: Tensor) -> Curves:
    parameters = model.trainable()
    rates = torch.full((len(y),), 1e-2, dtype=y.dtype)
    optimizer = AdamW(list(parameters.values()), lr=rates, config=AdamW.Config())
    stage = StageConfig(epochs=steps, schedule="constant", warmup=0.0, clip=1.0)
    order = list(range(len(y)))
    return train(model, parameters, Samples(x, y), stage, optimizer, rates, order, record_every=1)


@every_rival
def test_every_tensor_has_a_gradient_by_the_second_step(kind: type[Adapter]) -> None:
    model = build(kind)
    x, y = points(n=40)
    trained(model, 1, x, y)
    parameters = model.trainable()
    gradients = torch.autograd.grad(lane_losses(model, x, y).sum(), list(parameters.values()))
    starved = [
        name
        for name, gradient in zip(parameters, gradients, strict=True)
        if not gradient.reshape(len(gradient), -1).abs().amax(1).all()
    ]
    assert starved == []


@every_rival
def test_a_lane_trains_as_it_does_alone(kind: type[Adapter]) -> None:
    x, y = points(lanes=3)
    together = build(kind, seeds=(0, 1, 2))
    trained(together, 20, x, y)
    alone = build(kind, seeds=(1,))
    trained(alone, 20, x[1:2], y[1:2])
    for name, parameter in alone.trainable().items():
        torch.testing.assert_close(
            together.trainable()[name][1], parameter[0], rtol=1e-9, atol=1e-9, msg=name
        )


@pytest.mark.parametrize("kind", MERGING, ids=lambda kind: kind.__name__)
def test_merging_changes_nothing(kind: type[Adapter]) -> None:
    model = stirred(build(kind))
    x, _ = points()
    before = model(x)
    torch.testing.assert_close(model.merge()(x), before, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "fields"), [(MixLoRA, {}), (MoELoRA, {}), (TextToLoRA, {"text_dim": TEXT})]
)
def test_a_change_that_depends_on_the_input_is_not_merged(
    kind: type[Adapter], fields: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="cannot be merged"):
        build(kind, **fields).merge()


@every_rival
def test_some_linears_may_be_left_out(kind: type[Adapter]) -> None:
    model = stirred(build(kind, targets=["down", "out"]))
    h = normal(2, 4, 3, 8, seed=9)
    given, _ = linear_of(model, 0, "out")(h, model.context())
    assert given.shape == (2, 4, 3, 8)
    assert all(".qkv" not in name and ".up" not in name for name in model.trainable())


@every_rival
def test_its_step_can_be_counted_without_numbers(kind: type[Adapter]) -> None:
    model = kind(Backbone(SMALL, Shapes()), kind.Config(rank=2), Shapes()).to("meta")
    loss = lane_losses(model, torch.empty(1, 5, 2, device="meta"), torch.empty(1, 5, device="meta"))
    assert loss.shape == (1,)


def count(kind: type[Adapter], **fields: Any) -> int:
    return count_trainable(kind, kind.Config(**fields), PAPER_SMALL)


def test_counts() -> None:
    shapes = linear_shapes(PAPER_SMALL).values()
    both = sum(o + i for o, i in shapes)  # 512 numbers a layer and rank
    d_in, d_out = sum(i for _, i in shapes), sum(o for o, _ in shapes)
    lora = 8 * 4 * both
    assert count(LoRA, rank=4) == lora == 16384
    assert count(MixLoRA, rank=4) == 8 * (8 * (both + 2 * d_in) + 4 * 8 * 8)
    assert count(MoELoRA, rank=4) == 8 * 3 * (4 * both + d_in)
    assert count(RepLoRA, rank=4) == lora + 8 * 4 * 4 * 8
    assert count(DoRAN, rank=4) == lora + 4 * 4 * 8 + 8 * (d_out + 4)
    assert count(HyRA, rank=4) == 8 * both + 32 * 4 * 32 + 8 * 32
    assert count(TextToLoRA, rank=4) == 8 * 4 * both + 8 * (1 + 4 + 8) + 7 * (24 + 7)
    assert count(CoMoL, rank=4) == lora + 8 * 4 * 3 * (4 + 16)
    assert count(LDMoLE, rank=4) == 8 * 3 * (4 * both + d_in) + 4 * (32 + 128) + 2 * (4 + 4 + 1)
    assert count(NaRA, rank=4) == lora + 32 * (4 + 16) + 32 + 16
    assert count(HiRA, rank=4) == lora
    assert count(LoRAXS, rank=4) == 8 * 4 * 16


@every_rival
def test_some_rank_comes_near_loras_count(kind: type[Adapter]) -> None:
    for reference in (4, 8):
        wanted = count(LoRA, rank=reference)
        ratios = [count(kind, rank=rank) / wanted for rank in range(1, 33)]
        assert min(abs(ratio - 1) for ratio in ratios) < 0.12


# --- The loss that balances a mixture ------------------------------------------------------------


def test_the_load_is_balanced_as_the_loop_says() -> None:
    gates = normal(2, 4, 3, 3, seed=1).softmax(-1)
    kept = torch.zeros_like(gates)
    shares, means, tokens = [0.0] * 3, [0.0] * 3, 0
    mask = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(2)) < 0.7
    for lane in range(2):
        for n in range(4):
            for t in range(3):
                chosen = largest(gates[lane, n, t].tolist(), 2)
                kept[lane, n, t, chosen] = gates[lane, n, t, chosen]
                if lane == 1 and mask[lane, n, t]:
                    tokens += 1
                    for i in range(3):
                        shares[i] += float(i in chosen)
                        means[i] += gates[lane, n, t, i].item()
    wanted = 3 * sum(s / (2 * tokens) * m / tokens for s, m in zip(shares, means, strict=True))
    assert load_imbalance(gates, kept, mask)[1].item() == pytest.approx(wanted, abs=1e-12)


def test_an_even_load_is_1_and_a_lone_expert_the_number_of_experts() -> None:
    even = torch.full((1, 1, 4, 4), 0.25, dtype=torch.float64)
    lone = torch.eye(4, dtype=torch.float64)[:1].expand(1, 1, 4, 4)
    assert load_imbalance(even, even * torch.eye(4), None).item() == pytest.approx(1.0)
    assert load_imbalance(lone, lone, None).item() == pytest.approx(4.0)


def test_the_balancing_loss_joins_the_loss_of_its_own_lane() -> None:
    x, y = points()
    model = stirred(build(MoELoRA, balance=0.5))
    prediction, context = model.run(x)
    assert context.penalty is not None
    assert context.penalty.shape == (2,)
    assert (context.penalty > 0).all()
    error = (prediction - y).square().mean(1)
    torch.testing.assert_close(lane_losses(model, x, y), error + context.penalty)
    quiet = stirred(build(MoELoRA, balance=0.0))
    assert quiet.run(x)[1].penalty is None
    assert torch.equal(lane_losses(quiet, x, y), error)


def test_penalties_add_up() -> None:
    one = torch.ones(2)
    assert torch.equal(Context().penalised(one).penalised(2 * one).penalty, 3 * one)  # type: ignore


# --- What they refuse ----------------------------------------------------------------------------


def test_more_choices_than_experts_are_refused() -> None:
    with pytest.raises(UsageError, match=r"method\.top_k=4 exceeds"):
        build(MoELoRA, top_k=4)
    with pytest.raises(UsageError, match=r"method\.most_active=3 spares no expert"):
        build(LDMoLE, most_active=3)


@pytest.mark.parametrize("kind", MERGING, ids=lambda kind: kind.__name__)
def test_a_network_without_linears_is_refused(kind: type[Adapter]) -> None:
    with pytest.raises(UsageError, match=r"method\.targets is empty"):
        build(kind, targets=[])


@pytest.mark.parametrize("given", [None, TEXT + 1])
def test_texts_must_have_the_length_that_was_named(given: int | None) -> None:
    model = build(TextToLoRA, text_dim=TEXT)
    with pytest.raises(UsageError, match=r"method\.text_dim=5"):
        model.context(instruction=None if given is None else normal(2, 7, given))


def test_a_rank_keeps_its_meaning() -> None:
    assert all(issubclass(kind.Config, LowRankConfig) for kind in RIVALS)
    assert [kind for kind in RIVALS if kind.reading] == READINGS
