"""AdamW and SOAP over lanes against their published single-run implementations."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import pytorch_optimizer
import torch
from omegaconf import OmegaConf
from torch import Tensor

from qlexp.errors import UsageError
from qlexp.optim.adamw import AdamW
from qlexp.optim.base import LaneOptimizer
from qlexp.optim.soap import SOAP

LANES, STEPS = 3, 50
SHAPES = ((4, 4), (6, 3), (5,), ())  # of one lane: square, tall, vector, scalar
Make = Callable[..., LaneOptimizer]
MAKES: list[Make] = [
    lambda params, lr, **c: AdamW(params, lr, AdamW.Config(**c)),
    lambda params, lr, **c: SOAP(params, lr, SOAP.Config(**c)),
]
both = pytest.mark.parametrize("make", MAKES, ids=["adamw", "soap"])


def normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def start(lanes: int = LANES, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> list[Tensor]:
    return [normal(lanes, *s, seed=i).requires_grad_() for i, s in enumerate(shapes)]


def give_gradients(params: list[Tensor], step: int) -> None:
    """Noisy gradients of a quadratic: they depend on the parameters, so that errors compound."""
    for i, p in enumerate(params):
        p.grad = 0.3 * p.detach() + normal(*p.shape, seed=100 * (step + 1) + i)


def solo(params: list[Tensor], lane: int) -> list[Tensor]:
    """Copies of one lane without its lane axis."""
    return [p.detach()[lane].clone().requires_grad_() for p in params]


def take_lane(params: list[Tensor], lanes: list[Tensor], lane: int) -> None:
    """Gives the one-lane `lanes` the gradient of `params`' lane."""
    for p, q in zip(params, lanes, strict=True):
        q.grad = p.grad[lane].reshape(q.shape).clone()


def worst(params: list[Tensor], others: list[Tensor]) -> float:
    return max(float((p - q).detach().abs().max()) for p, q in zip(params, others, strict=True))


@pytest.mark.parametrize("lr", [0.01, torch.tensor([0.01, 0.003, 0.03], dtype=torch.float64)])
def test_adamw_is_torchs_adamw_in_every_lane(lr: float | Tensor) -> None:
    params = start()
    rates = lr.tolist() if isinstance(lr, Tensor) else [lr] * LANES
    runs = [solo(params, lane) for lane in range(LANES)]
    oracles = [torch.optim.AdamW(r, rate) for r, rate in zip(runs, rates, strict=True)]
    ours = AdamW(params, lr, AdamW.Config())
    for step in range(STEPS):
        give_gradients(params, step)
        for lane in range(LANES):
            take_lane(params, runs[lane], lane)
            oracles[lane].step()
        ours.step()
    for lane in range(LANES):
        assert worst([p[lane] for p in params], runs[lane]) < 1e-12


def test_soap_without_rotation_is_adamw_in_soaps_convention() -> None:
    """torch's Adam with eps added before bias correction and decay after the update."""
    params, lr, decay = start(), 0.01, 0.1
    theirs = [p.detach().clone().requires_grad_() for p in params]
    oracle = torch.optim.AdamW(theirs, lr, betas=(0.95, 0.95), weight_decay=0.0)
    ours = SOAP(params, lr, SOAP.Config(weight_decay=decay, eps=1e-3, max_precondition_dim=2))
    for step in range(STEPS):
        give_gradients(params, step)
        for p, q in zip(params, theirs, strict=True):
            q.grad = p.grad.clone()
        ours.step()
        if step:  # the first call moves nothing
            oracle.param_groups[0]["eps"] = 1e-3 / math.sqrt(1 - 0.95**step)
            oracle.step()
            for q in theirs:
                q.data.mul_(1 - lr * decay)
    assert worst(params, theirs) < 1e-12


class Reference:
    """`pytorch_optimizer.SOAP` on one run, with its QR in float64 instead of float32."""

    def __init__(self, params: list[Tensor], lr: float, **config: Any) -> None:
        self.params = params
        self.soap = pytorch_optimizer.SOAP(params, lr, **config)

    def step(self) -> None:
        with patch.object(torch, "float32", torch.float64):
            self.soap.step()

    def share_bases(self, ours: SOAP, params: list[Tensor], lane: int) -> None:
        """Takes over our first basis where the gradient's null space leaves the choice free."""
        for p, q in zip(params, self.params, strict=True):
            state = self.soap.state[q]
            for axis, basis in ours.state[p]["bases"].items():
                covariance, mine = state["GG"][axis - 1], basis[lane]
                if torch.linalg.matrix_rank(covariance) == len(covariance):
                    continue
                values = torch.linalg.eigvalsh(covariance).flip(0)
                torch.testing.assert_close(mine.mT @ covariance @ mine, values.diag())
                state["Q"][axis - 1] = mine.clone()


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"shampoo_beta": 0.8, "precondition_frequency": 1, "weight_decay": 0.1},
        {"max_precondition_dim": 5, "precondition_frequency": 3, "eps": 1e-4},  # one side of (6, 3)
    ],
    ids=["default", "every-step", "one-sided"],
)
def test_soap_is_the_published_soap(config: dict[str, Any]) -> None:
    params = start()
    runs = [solo(params, lane) for lane in range(LANES)]
    oracles = [Reference(run, 0.01, **config) for run in runs]
    ours = SOAP(params, 0.01, SOAP.Config(damping=0.0, **config))
    for step in range(STEPS):
        give_gradients(params, step)
        for lane in range(LANES):
            take_lane(params, runs[lane], lane)
            oracles[lane].step()
        ours.step()
        if step == 0:
            for lane in range(LANES):
                oracles[lane].share_bases(ours, params, lane)
    for lane in range(LANES):
        assert worst([p[lane] for p in params], runs[lane]) < 1e-10


def test_soap_is_the_published_soap_where_lora_starts_with_b_zero() -> None:
    rank, d_in, d_out = 2, 5, 4
    params = [normal(1, rank, d_in, seed=0), torch.zeros(1, d_out, rank, dtype=torch.float64)]
    for p in params:
        p.requires_grad_()
    run = solo(params, 0)
    ours, oracle = SOAP(params, 0.01, SOAP.Config(damping=0.0)), Reference(run, 0.01)
    target = normal(d_out, d_in, seed=2)
    for step in range(STEPS):
        x = normal(16, d_in, seed=10 + step)
        for (a, b), optimizer in ((params, ours), (run, oracle)):
            a.grad = b.grad = None
            (x @ (b @ a - target).mT).square().mean().backward()
            optimizer.step()
        if step == 0:
            assert params[0].grad.count_nonzero() == 0
            oracle.share_bases(ours, params, 0)
    assert worst(params, [q[None] for q in run]) < 1e-10


def test_soap_damping_settles_the_directions_that_no_gradient_reached() -> None:
    """Rounding in a rank-deficient gradient reaches the updates without damping, not with it."""

    def moved(damping: float, rounding: float) -> Tensor:
        p = torch.zeros(1, 12, 3, dtype=torch.float64, requires_grad=True)
        optimizer = SOAP([p], 0.01, SOAP.Config(damping=damping, precondition_frequency=2))
        for step in range(12):
            p.grad = normal(1, 12, 3, seed=step) * (1 + rounding * normal(1, 12, 3, seed=99))
            optimizer.step()
        return p.detach()

    def sensitivity(damping: float) -> float:
        return worst([moved(damping, 1e-15)], [moved(damping, 0.0)])

    assert sensitivity(1e-6) < 1e-9
    assert sensitivity(0.0) > 1e-4


def test_soap_a_zero_first_gradient_does_not_lock_the_basis() -> None:
    p = torch.zeros(1, 4, 6, dtype=torch.float64, requires_grad=True)
    mixing = normal(4, 4, seed=0)
    optimizer = SOAP([p], 0.01, SOAP.Config(precondition_frequency=5, shampoo_beta=0.99))

    def off_diagonal() -> float:
        state = optimizer.state[p]
        energy = state["bases"][1].mT @ state["covariances"][1] @ state["bases"][1]
        return float(energy.tril(-1).norm() / energy.norm())

    seen = []
    for step in range(401):
        p.grad = torch.zeros_like(p) if step == 0 else mixing @ normal(1, 4, 6, seed=step)
        optimizer.step()
        seen.append(off_diagonal() if step else 0.0)
    assert seen[4] > 0.1  # the coordinate axes are not the eigenvectors
    assert max(seen[-100:]) < 0.05
    assert p.isfinite().all()


def test_soap_sorts_the_second_moment_with_the_basis() -> None:
    """Energy moves from the first row to the last: each moment stays with its direction."""
    p = torch.zeros(1, 3, 3, dtype=torch.float64, requires_grad=True)
    optimizer = SOAP([p], 0.0, SOAP.Config(precondition_frequency=4))
    scales = [torch.tensor(s, dtype=torch.float64) for s in ((3.0, 2.0, 1.0), (1.0, 2.0, 30.0))]
    expected = torch.zeros(3, dtype=torch.float64)  # of each row, beyond rotation
    for step in range(5):
        p.grad = torch.diag(scales[step > 0])[None]
        optimizer.step()
        if step:
            expected = 0.95 * expected + 0.05 * scales[1].square()
    state = optimizer.state[p]
    strength = state["bases"][1][0].square() @ state["exp_avg_sq"][0].sum(1)
    torch.testing.assert_close(strength, expected)
    assert state["bases"][1][0, :, 0].square().argmax() == 2  # sorted: the last row leads


def test_soap_turns_with_the_problem() -> None:
    """Rotating every gradient rotates every update: SOAP has no preferred axes."""
    left, right = (torch.linalg.qr(normal(4, 4, seed=s)).Q for s in (1, 2))
    p, q = (torch.zeros(1, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizers = [SOAP([x], 0.01, SOAP.Config()) for x in (p, q)]
    for step in range(STEPS):
        p.grad = normal(1, 4, 4, seed=step)
        q.grad = left @ p.grad @ right.mT
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(q, left @ p @ right.mT, rtol=0, atol=1e-9)


@both
def test_lanes_are_solo_runs_and_rate_zero_stays(make: Make) -> None:
    shapes = ((4, 4), (3, 3), (5,), ())
    params = start(shapes=shapes)
    initial = [p.detach().clone() for p in params]
    base = torch.tensor([0.01, 0.0, 0.03], dtype=torch.float64)
    ours = make(params, base)
    runs = [[p.detach()[i : i + 1].clone().requires_grad_() for p in params] for i in range(LANES)]
    solos = [make(run, rate) for run, rate in zip(runs, base.tolist(), strict=True)]
    for step in range(STEPS):
        schedule = 1 - step / STEPS
        ours.param_groups[0]["lr"] = base * schedule
        give_gradients(params, step)
        for lane in range(LANES):
            solos[lane].param_groups[0]["lr"] = float(base[lane]) * schedule
            take_lane(params, runs[lane], lane)
            solos[lane].step()
        ours.step()
    for lane in range(LANES):
        assert worst([p[lane : lane + 1] for p in params], runs[lane]) < 1e-10
    assert all(torch.equal(p[1], q[1]) for p, q in zip(params, initial, strict=True))


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e200])
@pytest.mark.parametrize("when", [0, 7])
def test_soap_neighbours_of_a_dead_lane_are_bit_identical(poison: float, when: int) -> None:
    healthy, infected = start(), start()
    optimizers = [SOAP(x, 0.01, SOAP.Config(precondition_frequency=2)) for x in (healthy, infected)]
    for step in range(15):
        for params, optimizer in zip((healthy, infected), optimizers, strict=True):
            give_gradients(params, step)
            if params is infected and step >= when:
                for p in params:
                    p.grad[1] = poison
            optimizer.step()
    for p, q in zip(healthy, infected, strict=True):
        assert torch.equal(p[[0, 2]], q[[0, 2]])
        assert q.isfinite().all()


@both
def test_a_saved_state_continues_identically(make: Make) -> None:
    params = start()
    optimizer = make(params, 0.01)
    for step in range(13):
        give_gradients(params, step)
        optimizer.step()
    buffer = io.BytesIO()
    torch.save({"params": params, "optimizer": optimizer.state_dict()}, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    resumed = [p.detach().clone().requires_grad_() for p in loaded["params"]]
    other = make(resumed, 0.5)
    other.load_state_dict(loaded["optimizer"])
    for step in range(13, 31):
        for side, opt in ((params, optimizer), (resumed, other)):
            give_gradients(side, step)
            opt.step()
    assert all(torch.equal(p, q) for p, q in zip(params, resumed, strict=True))


@both
def test_trailing_axes_and_parameters_without_gradient(make: Make) -> None:
    merged, apart, idle = start(shapes=((4, 6), (4, 6), (2,)))
    apart = merged.detach().clone().view(LANES, 4, 2, 3).requires_grad_()
    before = idle.detach().clone()
    optimizer = make([merged, apart, idle], 0.01)
    for step in range(12):
        give_gradients([merged], step)
        apart.grad = merged.grad.clone().view_as(apart)
        optimizer.step()
    assert torch.equal(merged, apart.view_as(merged))
    assert torch.equal(idle, before)


@both
def test_a_step_reads_nothing_back_to_the_host(make: Make) -> None:
    """Meta tensors have no values: any attempt to look at one raises."""
    params = [torch.empty(LANES, *s, device="meta", requires_grad=True) for s in SHAPES]
    optimizer = make(params, torch.empty(LANES, device="meta"))
    for _ in range(12):
        for p in params:
            p.grad = torch.empty_like(p)
        optimizer.step()


@both
def test_a_closure_is_evaluated_with_gradients(make: Make) -> None:
    p = torch.ones(1, 2, 2, requires_grad=True)

    def closure() -> Tensor:
        p.grad = None
        loss = p.square().sum()
        loss.backward()
        return loss

    assert make([p], 0.1).step(closure) == 4


@pytest.mark.parametrize("cls", [AdamW, SOAP])
def test_yaml_holds_the_defaults_and_comments_on_every_key(cls: type[LaneOptimizer]) -> None:
    path = Path(__file__).parents[2] / "conf" / "optimizer" / f"{cls.__name__.lower()}.yaml"
    node = OmegaConf.load(path)
    assert node.pop("_target_") == f"{cls.__module__}.{cls.__qualname__}"
    assert node == OmegaConf.structured(cls.Config)
    assert all("#" in line for line in path.read_text().splitlines()[1:])


@pytest.mark.parametrize(
    "bad", [{"beta1": 1.0}, {"beta2": -0.1}, {"eps": 0.0}, {"weight_decay": -1.0}]
)
@both
def test_values_out_of_range_are_refused(make: Make, bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        make(start(), 0.1, **bad)


@pytest.mark.parametrize(("shape", "full_rank"), [((4, 4), True), ((4, 7), False)])
def test_damping_departs_from_the_published_form_where_gradients_lack_rank(
    shape: tuple[int, int], full_rank: bool
) -> None:
    params, damped = start(1, (shape,)), start(1, (shape,))
    forms = [
        SOAP(own, 0.01, SOAP.Config(damping=damping))
        for own, damping in ((params, 0.0), (damped, SOAP.Config().damping))
    ]
    for step in range(30):
        for own, form in zip((params, damped), forms, strict=True):
            give_gradients(own, step)
            form.step()
    assert (worst(params, damped) < 1e-6) == full_rank
