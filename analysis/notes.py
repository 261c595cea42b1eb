"""What stands under the tables: everything needed to read a number."""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis.cells import (
    COUNT_TOLERANCE,
    OFF_BUDGET,
    Block,
    Estimate,
    backbones,
    not_learnable,
    variants,
    weak_backbones,
)
from analysis.load import finished, incomplete, seed_list
from analysis.names import (
    REFERENCES,
    STYLE_NOTE,
    UNRESTRICTED,
    function_order,
    function_title,
    method_order,
    row_label,
)
from analysis.render import NO_CELL
from analysis.settings import conditions
from qlexp.store.files import FINISHED

NOT_LEARNABLE = "‡"
WEAK_BACKBONE = "§"

OFF_BUDGET_NOTE = (
    f"{OFF_BUDGET} Trainable parameters more than {COUNT_TOLERANCE:.0%} from LoRA's at the "
    "reference rank."
)
CLEAN_LOSS = "test_loss_clean"
_LOSSES_WITHOUT_NOISE = (CLEAN_LOSS, "post_train_loss")  # training can fit the noise
UNCHECKED = (
    f"No run of {UNRESTRICTED} fine-tuning: whether the functions can be learnt was not checked."
)


def number(value: float, digits: int = 3) -> str:
    """`digits` significant digits, trailing zeros kept."""
    return f"{value:#.{digits}g}".rstrip(".") if math.isfinite(value) else f"{value:g}"


def interval_text(value: float, low: float, high: float) -> str:
    """`0.970 [0.910, 1.02]`; the value alone where there is no interval."""
    if math.isnan(value):
        return NO_CELL
    if math.isnan(low):
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def ratio_text(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """`0.970 [0.910, 1.02]`, as `interval_text`, from logarithms."""
    with np.errstate(over="ignore"):
        return interval_text(*(float(np.exp(end)) for end in (value, low, high)))


def spread(values: list[float]) -> str:
    """Mean ± sample standard deviation; the mean alone for one value."""
    estimate = Estimate(dict(enumerate(values)))
    if not values:
        return "unknown"
    if estimate.infinite:
        return f"{min(values, key=math.isfinite)} ({estimate.infinite}/{len(values)})"
    if len(values) == 1:
        return number(estimate.mean)
    return f"{number(estimate.mean)} ± {number(estimate.finite_deviation, 2)}"


def column_marks(frame: pd.DataFrame, function: str) -> str:
    """The marks of a function's column."""
    learnable = NOT_LEARNABLE if function in not_learnable(frame) else ""
    return learnable + (WEAK_BACKBONE if function in weak_backbones(frame) else "")


def loss_notes(frame: pd.DataFrame, blocks: list[Block], loss: str) -> list[str]:
    """The notes of a table of `loss`."""
    seeds = seed_list(frame["seed"])
    notes = [
        f"Mean ± sample standard deviation over {seeds}. Bold: the smallest mean of an adapter in "
        f"its block, cells with an inf or a gap left out; {', '.join(REFERENCES)} are references."
    ]
    if frame["seed"].nunique() == 1:
        notes[0] += " One seed has no spread: differences between cells may be chance."
    if conditions(frame).nunique() > 1:
        notes[0] += " Bold within the rows of one setting of data, shift, function and backbone."
    if loss == "test_loss_raw":
        notes.append("The test loss times the squared deviation of the function's clean source.")
    else:
        notes.append(
            "Mean square error on the standardised scale: 1 is the variance of the clean source."
        )
    notes += _infinite(frame, blocks)
    off = [(block, row) for block in blocks for row in block.rows if row.off_budget]
    if off:
        rows = (
            f"{row.label} ({block.budget}) {_counts(row.trainable)} to {_counts(row.reference)}"
            for block, row in off
        )
        notes.append(f"{OFF_BUDGET_NOTE.removesuffix('.')}: {'; '.join(rows)}.")
    if any(row.reading for block in blocks for row in block.rows):
        notes.append(STYLE_NOTE)
    notes += flags(frame)
    notes += shift_notes(frame)
    if loss != "test_loss_raw":
        floors = {noise**2 for noise in _distinct(frame, "config.data.noise")}
        listed = "/".join(number(floor) for floor in sorted(floors))
        notes.append(f"Noise floor of the test loss: {listed}, the variance of the noise.")
    return [*notes, *setting_notes(frame)]


def _counts(counts: tuple[int, ...]) -> str:
    return "/".join(f"{count:,}" for count in counts)


def _infinite(frame: pd.DataFrame, blocks: list[Block]) -> list[str]:
    cells = {
        (block.budget, row.label, function): row.estimates[function]
        for block in blocks
        for row in block.rows
        for function in sorted(row.estimates, key=function_order)
        if row.estimates[function].infinite
    }
    if not cells:
        return []
    ceilings = "/".join(f"{value:g}" for value in _distinct(frame, "config.trainer.loss_ceiling"))
    listed = (
        f"{label} on {function_title(function)} ({budget}) "
        + (f"{spread(cell.finite)} over {len(cell.finite)}" if cell.finite else "none")
        for (budget, label, function), cell in cells.items()
    )
    return [
        f"inf (k/n): k of n seeds diverged (a value not finite, or a loss above {ceilings}), so "
        f"the mean is inf. The finite seeds alone: {'; '.join(listed)}."
    ]


def flags(frame: pd.DataFrame) -> list[str]:
    """Columns to distrust, and the cells that are not there."""
    notes = []
    for mark, found, text in (
        (
            NOT_LEARNABLE,
            not_learnable(frame),
            f"Not learnable, to be left out of claims: test R² of {UNRESTRICTED} below 0",
        ),
        (
            WEAK_BACKBONE,
            weak_backbones(frame),
            "Weak backbone: validation R² on the source below "
            + "/".join(f"{value:g}" for value in _distinct(frame, "config.trainer.r2_floor")),
        ),
    ):
        if found:
            listed = (
                f"{function_title(function)} "
                + ", ".join(f"{number(r2, 2)} (seed {seed})" for seed, r2 in by_seed.items())
                for function, by_seed in sorted(found.items(), key=lambda i: function_order(i[0]))
            )
            notes.append(f"{mark} {text}: {'; '.join(listed)}.")
    gaps = incomplete(frame)
    if gaps:
        notes.append(f"Gaps: {'; '.join(gaps)}.")
    return notes


def unchecked(frame: pd.DataFrame) -> list[str]:
    """That functions may not be learnable, where full fine-tuning has no run to tell."""
    return [] if UNRESTRICTED in set(finished(frame)["method"]) else [UNCHECKED]


def noise_note(frame: pd.DataFrame, loss: str) -> list[str]:
    """What the variance of the noise does to ratios of a loss that holds it."""
    name = "config.data.noise"
    noisy = name in frame and bool((frame[name] > 0).any())
    if loss in _LOSSES_WITHOUT_NOISE or not noisy:
        return []
    clean = loss in ("test_loss", "test_loss_raw", "validation_loss")
    return [
        f"{loss} holds the variance of the noise, so that its ratios lie nearer to 1 than those of "
        "the error alone, the more the smaller the losses: where losses or the noise change, so "
        "do the ratios" + (f". --loss {CLEAN_LOSS} has none of it." if clean else ".")
    ]


def diverged_note(frame: pd.DataFrame) -> list[str]:
    """A note that names the runs that diverged where they are left out, or none."""
    cells = frame.assign(variant=variants(frame))
    cells = cells[cells["status"] == "diverged"]
    listed = [
        f"{row_label(method, variant)} on {function} ({budget}), {seed_list(group['seed'])}"
        for (budget, function, method, variant), group in cells.groupby(
            ["budget", "function", "method", "variant"], sort=False
        )
    ]
    return [f"Diverged and left out: {'; '.join(listed)}."] if listed else []


def shift_notes(frame: pd.DataFrame) -> list[str]:
    """What the shift costs the frozen backbone, and how densely the ripples are sampled."""
    networks = backbones(frame)
    costs, densities = [], []
    for function, part in sorted(networks.groupby("function"), key=lambda i: function_order(i[0])):
        before, after = (spread(part[name].tolist()) for name in ("source_loss", "frozen_loss"))
        costs.append(f"{function_title(function)} {before} → {after}")
        values = {f"{value:.1f}" for value in part["samples_per_period"].dropna()}
        densities.append(f"{function_title(function)} {'/'.join(sorted(values)) or 'no ripples'}")
    return [
        f"Loss of the frozen backbone before → after the shift: {'; '.join(costs)}.",
        f"Adaptation samples per period of the target, a side: {'; '.join(densities)}.",
    ]


_SETTINGS = (
    ("backbone depth", "config.backbone.depth"),
    ("width", "config.backbone.width"),
    ("heads", "config.backbone.heads"),
    ("tokens", "config.backbone.tokens"),
    ("precision", "config.precision"),
    ("shift strength", "config.shift.strength"),
    ("rotation in degrees", "config.shift.rotation"),
    ("pretraining samples", "config.data.pretrain"),
    ("epochs", "config.trainer.pretrain.epochs"),
    ("batch", "config.trainer.pretrain.batch_size"),
    ("learning rate", "config.trainer.pretrain.learning_rate"),
    ("adaptation samples", "config.data.adapt"),
    ("epochs", "config.trainer.adapt.epochs"),
    ("batch", "config.trainer.adapt.batch_size"),
    ("learning rate", "config.trainer.adapt.learning_rate"),
    ("test samples", "config.data.test"),
)


def setting_notes(frame: pd.DataFrame) -> list[str]:
    """Settings, optimisers, time and provenance."""
    done = finished(frame)
    settings = [
        f"{label} {'/'.join(map(_plain, _distinct(frame, column, gaps=True))) or 'unknown'}"
        for label, column in _SETTINGS
    ]
    if places := _distinct(frame, "config.shift.places"):
        settings.insert(-1, f"strength and rotation of each target {'/'.join(places)}")
    steps = [int(count) for count in _distinct(frame, "steps") if count]
    settings.insert(-1, f"adaptation updates {_counts(tuple(steps))}")
    unique = done.drop_duplicates("run_id")
    optimizers = (
        [
            f"{str(target).rpartition('.')[2]} ({', '.join(_in_order(part['method']))})"
            for target, part in unique[unique["steps"] > 0].groupby("config.optimizer._target_")
        ]
        if "config.optimizer._target_" in unique
        else []
    )
    seconds = [
        f"{method} {number(unique.loc[unique['method'] == method, 'seconds'].mean(), 2)}"
        for method in _in_order(unique["method"])
    ]
    versions = [
        f"{name.removeprefix('versions.')} {'/'.join(map(str, _distinct(frame, name)))}"
        for name in frame
        if name.startswith("versions.")
    ]
    commits = "/".join(map(str, _distinct(frame, "commit"))) or "unknown"
    devices = "/".join(map(str, _distinct(frame, "device"))) or "unknown"
    return [
        f"Settings: {', '.join(settings)}.",
        *([f"Optimisers: {', '.join(optimizers)}."] if optimizers else []),
        *([f"{_SECONDS}: {', '.join(seconds)}."] if len(_distinct(frame, "device")) == 1 else []),
        f"Versions: {', '.join(versions)}; commit {commits}; device {devices}.",
    ]


_SECONDS = "Mean seconds a run, a batch's time shared by its lanes"


def _in_order(methods: Iterable[str]) -> list[str]:
    return sorted(set(methods), key=method_order)


def _distinct(frame: pd.DataFrame, column: str, gaps: bool = False) -> list:
    """The values of a column over finished runs, ascending; with `gaps`, null as None, last."""
    if column not in frame:
        return []
    values = frame.loc[frame["status"].isin(FINISHED), column]
    found = sorted(values.dropna().unique())
    return [*found, None] if gaps and values.isna().any() else found


def _plain(value: object) -> str:
    if value is None:
        return "full"
    return f"{value:g}" if isinstance(value, float) else str(value)
