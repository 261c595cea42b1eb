"""What stands under the costs: how they were measured, and what was not."""

from collections.abc import Iterable

from benchmarks.contenders import MODES, REFERENCE, config_of
from benchmarks.inference.counts import bare_flops
from benchmarks.inference.measured import Form, Measured
from benchmarks.inference.rounds import NAME, Origin
from qlexp.main import choices
from qlexp.model.backbone import COORDINATES


def setting_notes(measured: Measured, origin: Origin) -> list[str]:
    """What a reader needs to read the numbers."""
    devices = "; ".join(f"{kind} {name}" for kind, name in origin.devices.items())
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    networks = map(_network, dict.fromkeys(measured.rounds["backbone"]))
    return [
        f"Backbones: {', '.join(networks)}. A point has {COORDINATES} tokens, one a coordinate: "
        "the length has no other value in this model.",
        f"Rank {origin.rank} for every method that has one; vera keeps the rank of its YAML. One "
        "lane, float32, no gradients; trained weights moved from their start by noise.",
        f"Times are medians over {measured.rounds['round'].nunique()} rounds in which all methods "
        "take turns in a new order, with 95 % intervals of the median; over lora: median over the "
        "rounds of the ratio to lora, unmerged, in the same round, backbone, device, mode and "
        f"batch. Every round's time is in {NAME}.csv.",
        *_noise_floor(measured),
        "FLOPs added, and over the backbone's: two for each multiplication and addition of a "
        "contraction, be it a matrix product or a multiplication whose result is summed "
        "(R A h), the bare network's taken off. What is elementwise (softmax, top-k, gates) counts "
        "nothing. Methods that make their factors anew in every pass pay for it once a batch.",
        "A method marked style is known by its paper's idea and not by a checked formula.",
        f"Not measured: {'; '.join(_not_measured(measured))}.",
        f"Devices: {devices}. Versions: {versions}; commit {origin.commit}.",
    ]


def _network(backbone: str) -> str:
    shape = config_of(REFERENCE, 1, f"backbone={backbone}").backbone
    flops = bare_flops(shape, 1)
    return f"{backbone} (depth {shape.depth}, width {shape.width}, {flops:,} FLOPs a point)"


def _noise_floor(measured: Measured) -> list[str]:
    """How far the merged forms, which are one network, lie apart; none where there is but one."""
    parts = []
    for setting in measured.settings:
        ratios = [measured.ratio(setting, Form(method, True)) for method in measured.methods]
        medians = sorted(ratio.value for ratio in ratios if ratio is not None)
        if len(medians) > 1:
            low, high = medians[0], medians[-1]
            parts.append(f"{setting}: {low:.2f} to {high:.2f} ({high / low - 1:.0%} apart)")
    if not parts:
        return []
    return [
        "Noise floor: merged models are all the bare network, so their medians over "
        f"{REFERENCE} differ by chance alone; {'; '.join(parts)}. Smaller differences mean nothing."
    ]


def _not_measured(measured: Measured) -> list[str]:
    """Devices, modes, backbones and methods that the rounds leave out, and what none has."""
    there: dict[str, Iterable[str]] = {
        "device": ("cpu", "cuda"),
        "mode": MODES,
        "backbone": choices("backbone"),
        "method": choices("method"),
    }
    gaps = []
    for kind, names in there.items():
        if left := [name for name in names if name not in set(measured.rounds[kind])]:
            gaps.append(f"{kind} {', '.join(left)}")
    return [*gaps, "longer inputs, decoding token by token, and the authors' code"]
