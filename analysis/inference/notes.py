"""What stands under the costs: how they were measured, and what was not."""

from collections.abc import Mapping, Sequence

import torch

from analysis.inference.flops import count_flops
from analysis.inference.measure import MODES, REFERENCE
from analysis.inference.report import Measured
from qlexp.config.schema import BackboneConfig
from qlexp.environment import commit, device_name, versions
from qlexp.main import choices
from qlexp.model.backbone import COORDINATES, Backbone
from qlexp.model.initial import Shapes


def setting_notes(
    measured: Measured,
    shapes: Mapping[str, BackboneConfig],
    devices: Sequence[torch.device],
    rank: int,
    repeats: int,
) -> list[str]:
    """What a reader needs to read the numbers."""
    networks = [
        f"{name} (depth {shape.depth}, width {shape.width}, {point_flops(shape):,} FLOPs a point)"
        for name, shape in shapes.items()
    ]
    return [
        f"Backbones: {', '.join(networks)}. A point has {COORDINATES} tokens, one a coordinate: "
        "the length has no other value in this model.",
        f"Rank {rank} for every method that has one; vera keeps the rank of its YAML. One lane, "
        "float32, no gradients; trained weights moved from their start by noise.",
        f"Times are medians over {repeats} rounds in which all methods take turns in a new order, "
        "with 95 % intervals of the median; over lora: median over the rounds of the ratio to "
        "lora, unmerged, in the same round, backbone, device, mode and batch. Every round's time "
        "is in inference_rounds.csv.",
        *_noise_floor(measured),
        "FLOPs added, and over the backbone's: two for each multiplication and addition of a "
        "contraction, be it a matrix product or a multiplication whose result is summed "
        "(R A h), the bare network's taken off. What is elementwise (softmax, top-k, gates) counts "
        "nothing. Methods that make their factors anew in every pass pay for it once a batch.",
        "A method marked style is known by its paper's idea and not by a checked formula.",
        f"Not measured: {'; '.join(not_measured(measured, devices))}.",
        f"Devices: {'; '.join(f'{d.type} {device_name(d)}' for d in devices)}. Versions: "
        + ", ".join(f"{name} {version}" for name, version in versions().items())
        + f"; commit {commit() or 'unknown'}.",
    ]


def point_flops(shape: BackboneConfig) -> int:
    """Of the bare network."""
    point = torch.empty(1, 1, COORDINATES, device="meta")
    return count_flops(Backbone(shape, Shapes()).to("meta"), (point,))


def _noise_floor(measured: Measured) -> list[str]:
    """How far the merged forms, which are one network, lie apart; none where there is but one."""
    parts = []
    for setting in measured.settings:
        medians = measured.merged_medians(setting)
        if len(medians) > 1:
            low, high = medians[0], medians[-1]
            parts.append(
                f"{setting.place}, batch {setting.batch}: {low:.2f} to {high:.2f} "
                f"({high / low - 1:.0%} apart)"
            )
    if not parts:
        return []
    return [
        "Noise floor: merged models are all the bare network, so their medians over "
        f"{REFERENCE} differ by chance alone; {'; '.join(parts)}. Smaller differences mean nothing."
    ]


def not_measured(measured: Measured, devices: Sequence[torch.device]) -> list[str]:
    """Devices, modes, backbones and methods that the run left out, and what no run has."""
    timed = {setting.mode for setting in measured.settings}
    used = {device.type for device in devices}
    gaps = []
    if "cuda" not in used:
        there = torch.cuda.is_available()
        gaps.append("CUDA (left out)" if there else "CUDA (torch sees no such device here)")
    if "cpu" not in used:
        gaps.append("the CPU (left out)")
    gaps += [f"{mode} passes (left out)" for mode in MODES if mode not in timed]
    for kind, names in (
        ("backbone", {setting.backbone for setting in measured.settings}),
        ("method", set(measured.methods)),
    ):
        if left := [name for name in choices(kind) if name not in names]:
            gaps.append(f"of conf/{kind}: {', '.join(left)}")
    return [*gaps, "longer inputs, decoding token by token, and the authors' code"]
