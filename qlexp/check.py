"""What every method promises, tried on the method of a config.

    qlexp check method=mine [KEY=VALUE ...] [--config-dir FOLDER]

In float64 and in three lanes, on the network of the config: pick a small one, such as
backbone.depth=4. The exit code is 1 where a promise is broken.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from qlexp import extensions
from qlexp.adapters.base import AdaptedLinear, Adapter, count_trainable
from qlexp.adapters.budget import reference_count
from qlexp.adapters.probe import (
    adapted,
    inputs,
    jolt,
    network,
    optimizer_of,
    samples,
    values,
)
from qlexp.config.schema import Config, StageConfig
from qlexp.errors import UsageError
from qlexp.model.evaluate import Samples
from qlexp.train.loop import Curves, lane_losses, train

SEEDS = (3, 5, 8)
RATES = (1e-3, 4e-3, 2e-3)


class BrokenPromiseError(AssertionError):
    """A method does not do what every method promises; the sentence says what it does instead."""


def starts_as_the_backbone(config: Config) -> None:
    """Before its first step the adapted network is the frozen one."""
    x = inputs(config, SEEDS)
    away = _furthest(adapted(config, SEEDS)(*x), network(SEEDS, config.backbone)(*x))
    _promise(
        away <= 1e-12,
        f"at its start the adapted network is {away:.1e} away from the frozen one: let one factor "
        "of the change start at zero.",
    )


def every_tensor_has_a_gradient(config: Config) -> None:
    """Every trainable tensor of every lane has received a gradient by the second step."""
    adapter, data = adapted(config, SEEDS), samples(config, SEEDS)
    tensors = adapter.trainable()
    if not tensors:
        return
    reached = {key: torch.zeros(len(SEEDS), dtype=torch.bool) for key in tensors}
    for _ in range(2):
        loss = lane_losses(adapter, data.x, data.y, data.instruction)
        gradients = torch.autograd.grad(loss.sum(), list(tensors.values()), allow_unused=True)
        for key, gradient in zip(tensors, gradients, strict=True):
            if gradient is not None:
                reached[key] |= gradient.reshape(len(SEEDS), -1).ne(0).any(1)
                tensors[key].data.sub_(0.1 * gradient)
    still = [key for key, lanes in reached.items() if not lanes.all()]
    _promise(
        not still,
        f"no gradient has reached {', '.join(still[:3])} after two steps: it would never train.",
    )


def the_count_is_exact(config: Config) -> None:
    """The parameters that are counted are those that train, and those that are saved."""
    adapter = adapted(config, SEEDS)
    count = count_trainable(config.method.kind, config.method.config, config.backbone)
    own = sum(parameter[1].numel() for parameter in adapter.trainable().values())
    with tempfile.TemporaryDirectory() as folder:
        adapter.save(Path(folder) / "lane", lane=1)
        saved = sum(tensor.numel() for tensor in load_file(Path(folder) / "lane").values())
    _promise(
        count == own == saved,
        f"{count:,} parameters are counted, {own:,} train and {saved:,} are saved: a tensor is "
        "shared and counted twice, or its size depends on what is drawn.",
    )
    trains = config.method.kind.trains
    _promise((count > 0) == trains, f"its class says trains={trains} and it trains {count:,}.")


def a_lane_is_read_back(config: Config) -> None:
    """What a lane saves another batch loads, into its own lane alone."""
    adapter = adapted(config, SEEDS)
    jolt(adapter, SEEDS)
    batch, solo = adapted(config, SEEDS), adapted(config, SEEDS[1:2])
    start = values(batch)
    with tempfile.TemporaryDirectory() as folder:
        adapter.save(Path(folder) / "lane", lane=1)
        solo.load(Path(folder) / "lane", lane=0)
        batch.load(Path(folder) / "lane", lane=2)
    saved = {key: parameter[1] for key, parameter in adapter.trainable().items()}
    for loaded, lane in ((solo, 0), (batch, 2)):
        own = loaded.trainable()
        _promise(list(own) == list(saved), "its tensors have other names when they are loaded.")
        _promise(
            all(torch.equal(own[key][lane], saved[key]) for key in saved),
            "a tensor that is loaded is not the one that was saved.",
        )
    others = all(torch.equal(value[:2], start[key][:2]) for key, value in values(batch).items())
    _promise(others, "loading a lane changes another lane.")
    away = _furthest(solo(*inputs(config, SEEDS[1:2])), adapter(*inputs(config, SEEDS))[1:2])
    _promise(away <= 1e-12, f"a lane that is loaded predicts otherwise by {away:.1e}.")


def lanes_equal_solo_runs(config: Config) -> None:
    """Three runs trained as one batch are those trained one by one, up to rounding."""
    if not config.method.kind.trains:
        return
    data = samples(config, SEEDS, 8)
    tolerance = 1e-8 if config.optimizer.name == "soap" else 1e-10  # its bases amplify rounding
    batch, curves = trained(config, data)
    for lane, seed in enumerate(SEEDS):
        own = samples(config, [seed], 8)
        solo, solo_curves = trained(config, own, (seed,), RATES[lane : lane + 1])
        pairs = {"the loss": (curves.loss[:, lane], solo_curves.loss[:, 0])}
        for layer, norms in solo_curves.gradient_norms.items():
            pairs[f"the gradient norm of {layer}"] = (
                curves.gradient_norms[layer][:, lane],
                norms[:, 0],
            )
        for key, value in solo.trainable().items():
            pairs[key] = (batch.trainable()[key][lane], value[0])
        for what, (one, other) in pairs.items():
            _promise(
                torch.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True),
                f"{what} of a lane in a batch is {_furthest(one, other):.1e} away from that of the "
                "same run alone: lanes mix.",
            )


def a_broken_lane_stays_alone(config: Config, broken: str = "y") -> None:
    """A lane whose data, `x` or `y`, are infinite from the first step changes no other lane."""
    if not config.method.kind.trains:
        return
    data = samples(config, SEEDS, 8)
    start = values(adapted(config, SEEDS))
    expected, quiet = trained(config, data, updates=6)
    getattr(data, broken)[1] = torch.inf
    found, disturbed = trained(config, data, updates=6)
    _promise(
        disturbed.alive.tolist() == [True, False, True],
        "a lane that is infinite is not the one that is given up.",
    )
    before, after = values(expected), values(found)
    for lane in (0, 2):
        _promise(
            torch.equal(quiet.loss[:, lane], disturbed.loss[:, lane])
            and all(torch.equal(after[key][lane], before[key][lane]) for key in after),
            "a lane that is infinite changes its neighbours.",
        )
    _promise(
        all(torch.equal(value[1], start[key][1]) for key, value in after.items()),
        "a lane that is infinite is trained on.",
    )


def merging_keeps_the_function(config: Config) -> None:
    """Where a method can be merged, the merged network predicts what the adapted one did."""
    adapter, x = adapted(config, SEEDS), inputs(config, SEEDS)
    jolt(adapter, SEEDS)
    expected = adapter(*x)
    try:
        merged = adapter.merge()
    except UsageError:
        _promise(
            torch.equal(adapter(*x), expected), "it refuses to be merged and is changed by it."
        )
        return
    left = [module for module in merged.modules() if isinstance(module, AdaptedLinear)]
    plain = values(merged).keys() == values(network(SEEDS, config.backbone)).keys()
    _promise(plain and not left, "the merged network still holds parts of the adapter.")
    away = _furthest(merged(*x), expected)
    _promise(away <= 1e-10, f"merging moves the predictions by {away:.1e}.")


PROMISES: tuple[Callable[[Config], None], ...] = (
    starts_as_the_backbone,
    every_tensor_has_a_gradient,
    the_count_is_exact,
    a_lane_is_read_back,
    lanes_equal_solo_runs,
    a_broken_lane_stays_alone,
    merging_keeps_the_function,
)


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


def capabilities(config: Config) -> dict[str, str]:
    """What the method of `config` can do, by what it is asked."""
    kind, method = config.method.kind, config.method.config
    count, reference = (
        count_trainable(kind, method, config.backbone),
        reference_count(config),
    )
    beside = f", LoRA {reference:,} at the reference rank" if reference else ""
    return {
        "merge": "into the weights" if merges(config) else "no: its change depends on the input",
        "instruction": f"reads {size} numbers" if (size := method.instruction_size) else "no",
        "lanes": f"may differ in {', '.join(kind.lane_fields)}" if kind.lane_fields else "alike",
        "compile": _compiles(config),
        "budget": f"sized by {method.sized_by}" if method.sized_by else "has no size to choose",
        "parameters": f"{count:,} trainable{beside}",
    }


def merges(config: Config) -> bool:
    """Whether the method can be folded into the weights."""
    try:
        adapted(config, SEEDS).merge()
    except UsageError:
        return False
    return True


def _compiles(config: Config) -> str:
    """Whether torch can trace a step, without any C++ compiler."""
    adapter, data = adapted(config, SEEDS), samples(config, SEEDS)
    reason = ""
    for whole, answer in ((True, "in one piece"), (False, "in pieces, which is slower")):
        step = torch.compile(lane_losses, backend="aot_eager", fullgraph=whole, dynamic=False)
        try:
            step(adapter, data.x, data.y, data.instruction)
        except Exception as error:  # torch raises many kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        else:
            return answer
        finally:
            torch._dynamo.reset()
    return f"no: {reason}"


def main(arguments: Sequence[str], program: str = "qlexp check") -> int:
    """The command; returns its exit code: 1 for a broken promise.

    Raises:
        UsageError: there is no such method, or its config does not fit.
    """
    from qlexp.cell import configure  # noqa: PLC0415, which needs Hydra

    parser = argparse.ArgumentParser(
        prog=program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for a run")
    config = configure(parser.parse_args(extensions.load_named(arguments)).overrides)
    broken = 0
    for promise in PROMISES:
        said = (promise.__doc__ or "").splitlines()[0]
        try:
            promise(config)
        except Exception as error:  # whatever a method raises
            broken += 1
            name = "" if isinstance(error, BrokenPromiseError) else f"{type(error).__name__}: "
            print(f"broken  {said}\n        {config.method.name}: {name}{error}")
        else:
            print(f"kept    {said}")
    if not broken:
        print()
        for what, answer in capabilities(config).items():
            print(f"{what:12}{answer}")
    return int(broken > 0)


def _promise(kept: object, otherwise: str) -> None:
    if not kept:
        raise BrokenPromiseError(otherwise)


def _furthest(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().abs().max()) if one.shape == other.shape else float("inf")
