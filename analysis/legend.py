"""What stands under tables: the marks that their cells bear, flags, gaps, settings, provenance.

Every note takes the table of a study and is a list, empty where there is nothing to say.
"""

from collections.abc import Iterable, Mapping

import pandas as pd

from analysis.benchmark import SYNTHETIC, benchmark_of
from analysis.flags import COUNT_TOLERANCE, beyond_reach, not_learnable, weak_backbones
from analysis.load import finished, incomplete
from analysis.names import UNRESTRICTED, function_order, function_title, method_order, row_label
from analysis.text import number, seed_list, spread

OFF_BUDGET, NOT_LEARNABLE, WEAK_BACKBONE, BEYOND_REACH = "†", "‡", "§", "‖"
_COLUMN_MARKS = {
    "not_learnable": NOT_LEARNABLE,
    "weak_backbone": WEAK_BACKBONE,
    "beyond_reach": BEYOND_REACH,
}
STYLE = " (style)"  # after the label of a method whose formula is partly a reading of its paper
STYLE_NOTE = (
    "style: the method's formula is partly this project's reading of its paper; claims leave it "
    "out."
)
OFF_BUDGET_NOTE = (
    f"{OFF_BUDGET} Trainable parameters more than {COUNT_TOLERANCE:.0%} from LoRA's at the "
    "reference rank."
)
UNCHECKED = (
    f"No run of {UNRESTRICTED} fine-tuning: whether the functions can be learnt was not checked."
)
_LOSSES_WITHOUT_NOISE = (SYNTHETIC.deciding, "post_train_loss")  # training can fit the noise


def row_notes(table: pd.DataFrame) -> list[str]:
    """What the marks of rows say, where a row of `table` has them."""
    told = {STYLE_NOTE: "reading", OFF_BUDGET_NOTE: "off_budget"}
    return [note for note, flag in told.items() if table[flag].any()]


def column_marks(frame: pd.DataFrame, function: str) -> str:
    """The marks of a function's column."""
    own = finished(frame)
    own = own[own["function"] == function]
    return "".join(mark * bool(own[name].any()) for name, mark in _COLUMN_MARKS.items())


def flags(frame: pd.DataFrame) -> list[str]:
    """Columns to distrust, and the cells that are not there."""
    floor = "/".join(f"{value:g}" for value in distinct(frame, "config.trainer.r2_floor"))
    notes = [
        *_flagged(
            f"{NOT_LEARNABLE} Not learnable, to be left out of claims: validation R² of "
            f"{UNRESTRICTED} below 0",
            not_learnable(frame),
        ),
        *_flagged(
            f"{WEAK_BACKBONE} Weak backbone: validation R² on the source below {floor}",
            weak_backbones(frame),
        ),
        *_flagged(
            f"{BEYOND_REACH} Beyond reach: the share of the test targets that the frozen head "
            "cannot say, whatever an adapter does",
            beyond_reach(frame),
        ),
    ]
    gaps = incomplete(frame)
    return [*notes, f"Gaps: {'; '.join(gaps)}."] if gaps else notes


def _flagged(text: str, found: Mapping[str, Mapping[int, float]]) -> list[str]:
    """`text`, and the values by function and seed."""
    listed = (
        f"{function_title(function)} "
        + ", ".join(f"{number(value, 2)} (seed {seed})" for seed, value in found[function].items())
        for function in sorted(found, key=function_order)
    )
    return [f"{text}: {'; '.join(listed)}."] if found else []


def unchecked(frame: pd.DataFrame) -> list[str]:
    """That functions may not be learnable, where full fine-tuning has no run to tell."""
    told = UNRESTRICTED in set(finished(frame)["method"])
    return [] if told or not benchmark_of(frame).has_full else [UNCHECKED]


def deciding_note(frame: pd.DataFrame) -> list[str]:
    """What the loss is by which effects are decided, where its name does not say."""
    return list(filter(None, [benchmark_of(frame).deciding_note]))


def noise_note(frame: pd.DataFrame, loss: str) -> list[str]:
    """What the variance of the noise does to ratios of a loss that holds it."""
    noisy = any(noise > 0 for noise in distinct(frame, "config.data.noise"))
    if loss in _LOSSES_WITHOUT_NOISE or not noisy:
        return []
    clean = loss in ("test_loss", "test_loss_raw", "validation_loss")
    return [
        f"{loss} holds the variance of the noise, so that its ratios lie nearer to 1 than those of "
        "the error alone, the more the smaller the losses: where losses or the noise change, so "
        "do the ratios" + (f". --loss {SYNTHETIC.deciding} has none of it." if clean else ".")
    ]


def diverged_note(frame: pd.DataFrame) -> list[str]:
    """The runs that diverged, where they are left out."""
    cells = frame[frame["status"] == "diverged"]
    listed = [
        f"{row_label(method, variant)} on {function} ({budget}), {seed_list(group['seed'])}"
        for (budget, function, method, variant), group in cells.groupby(
            ["budget", "function", "method", "variant"], sort=False
        )
    ]
    return [f"Diverged and left out: {'; '.join(listed)}."] if listed else []


def shift_notes(frame: pd.DataFrame) -> list[str]:
    """What the shift costs the frozen backbone, and how densely the ripples are sampled; none where
    there is no shift."""
    costs, densities = [], []
    networks = backbones(frame).dropna(subset="source_loss").groupby("function")
    if not len(networks):
        return []
    for function, part in sorted(networks, key=lambda item: function_order(item[0])):
        before, after = (spread(part[name].tolist()) for name in ("source_loss", "frozen_loss"))
        costs.append(f"{function_title(function)} {before} → {after}")
        values = {f"{value:.1f}" for value in part["samples_per_period"].dropna()}
        densities.append(f"{function_title(function)} {'/'.join(sorted(values)) or 'no ripples'}")
    return [
        f"Loss of the frozen backbone before → after the shift: {'; '.join(costs)}.",
        f"Adaptation samples per period of the target, a side: {'; '.join(densities)}.",
    ]


def backbones(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a backbone under one shift: the frozen network that all methods of a cell share."""
    done = finished(frame)
    shift = [name for name in done if name.startswith(("config.shift.", "config.data."))]
    return done.drop_duplicates(["function", "seed", "backbone_id", *shift])


def setting_notes(frame: pd.DataFrame) -> list[str]:
    """Settings, optimisers, time and provenance of the finished runs, and what is to be known of
    their models."""
    settings = [
        f"{label} {'/'.join(map(_plain, distinct(frame, column, gaps=True))) or 'unknown'}"
        for label, column in benchmark_of(frame).settings
    ]
    if places := distinct(frame, "config.shift.places"):
        settings.insert(-1, f"strength and rotation of each target {'/'.join(places)}")
    steps = "/".join(f"{int(count):,}" for count in distinct(frame, "steps") if count)
    settings.insert(-1, f"adaptation updates {steps}")
    runs, kind = finished(frame).drop_duplicates("run_id"), "config.optimizer._target_"
    trained = runs[runs["steps"] > 0]
    optimizers = [
        f"{str(target).rpartition('.')[2]} ({', '.join(_in_order(part['method']))})"
        for target, part in (trained.groupby(kind) if kind in runs else ())
    ]
    seconds = [
        f"{method} {number(runs.loc[runs['method'] == method, 'seconds'].mean(), 2)}"
        for method in _in_order(runs["method"])
    ]
    one_device = len(distinct(frame, "device")) == 1
    versions = (
        f"{name.removeprefix('versions.')} {'/'.join(map(str, distinct(frame, name)))}"
        for name in frame
        if name.startswith("versions.")
    )
    commit, device = (
        "/".join(map(str, distinct(frame, name))) or "unknown" for name in ("commit", "device")
    )
    lanes = ", a batch's time shared by its lanes" * bool(distinct(frame, "lanes"))
    time = f"Mean seconds a run{lanes}: {', '.join(seconds)}."
    return [
        *_model_notes(runs),
        f"Settings: {', '.join(settings)}.",
        *[f"Optimisers: {', '.join(optimizers)}."] * bool(optimizers),
        *[time] * one_device,
        f"Versions: {', '.join(versions)}; commit {commit}; device {device}.",
    ]


def _model_notes(runs: pd.DataFrame) -> list[str]:
    """What a run's summary says of its model, such as how its weights are rounded."""
    if "model_note" not in runs:
        return []
    noted = runs.dropna(subset="model_note").drop_duplicates(["model", "model_note"])
    return [f"{run.model}: {run.model_note}." for run in noted.itertuples()]


def _in_order(methods: Iterable[str]) -> list[str]:
    return sorted(set(methods), key=method_order)


def distinct(frame: pd.DataFrame, column: str, gaps: bool = False) -> list:
    """The values of a column over finished runs, ascending; with `gaps`, null as None, last."""
    if column not in frame:
        return []
    values = finished(frame)[column]
    found = sorted(values.dropna().unique())
    return [*found, None] if gaps and values.isna().any() else found


def _plain(value: object) -> str:
    if value is None:
        return "full"
    return f"{value:g}" if isinstance(value, float) else str(value)
