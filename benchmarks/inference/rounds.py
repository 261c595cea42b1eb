"""Seconds of every method in every setting, round by round: measured, or read where they lie."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from benchmarks.contenders import (
    COMPILED,
    REFERENCE,
    config_of,
    forward_pass,
    inputs_of,
    merged,
    trained,
)
from benchmarks.timing import in_turns
from qlexp.config.schema import Config
from qlexp.environment import commit, device_name, versions
from qlexp.errors import UsageError

NAME = "inference_rounds"
SETTING = ["backbone", "device", "mode", "batch"]


@dataclass(frozen=True)
class Origin:
    """Where, when and at which size rounds were measured.

    Attributes:
        devices: their names by type.
        versions: of what was installed.
    """

    rank: int
    devices: Mapping[str, str]
    versions: Mapping[str, str]
    commit: str

    @classmethod
    def here(cls, rank: int, devices: Sequence[torch.device]) -> "Origin":
        names = {device.type: device_name(device) for device in devices}
        return cls(rank, names, versions(), commit() or "unknown")


def configs_of(methods: Iterable[str], backbone: str, rank: int) -> list[Config]:
    """Those of the methods on `conf/backbone/<backbone>.yaml`, the reference's first."""
    names = dict.fromkeys([REFERENCE, *methods])
    return [config_of(name, rank, f"backbone={backbone}") for name in names]


def measure(
    configs: Sequence[Config],
    backbone: str,
    device: torch.device,
    batches: Sequence[int],
    modes: Sequence[str],
    repeats: int,
) -> Iterator[dict[str, Any]]:
    """A row a round of every method and form; those of a setting are timed in the same rounds.

    Args:
        configs: of the methods, the reference among them, all on `backbone`.
        batches: points of a pass.
    """
    forms: dict[str, tuple[Config, nn.Module]] = {}
    for config in configs:
        forms[config.method.name] = config, trained(config, device)
        if (folded := merged(config, device)) is not None:
            forms[_merged(config.method.name)] = config, folded
    for batch in batches:
        inputs = {name: inputs_of(config, batch, device) for name, (config, _) in forms.items()}
        for mode in modes:
            calls = {
                name: forward_pass(model, inputs[name], mode == COMPILED)
                for name, (_, model) in forms.items()
            }
            with torch.no_grad():
                seconds = in_turns(calls, REFERENCE, repeats)
            for name, (config, _) in forms.items():
                method = config.method.name
                for index, value in enumerate(seconds[name]):
                    yield {
                        **dict(zip(SETTING, (backbone, device.type, mode, batch), strict=True)),
                        "method": method,
                        "merged": name == _merged(method),
                        "round": index,
                        "seconds": value,
                    }
    torch._dynamo.reset()  # the next backbone has code of its own


def _merged(method: str) -> str:
    return f"{method}, merged"


def write_origin(origin: Origin, folder: Path) -> None:
    """Beside the rounds, which their own table holds."""
    text = json.dumps(asdict(origin), indent=2) + "\n"
    (folder / f"{NAME}.json").write_text(text, encoding="utf-8")


def read_rounds(folder: Path) -> tuple[pd.DataFrame, Origin]:
    """Those that were measured earlier.

    Raises:
        UsageError: there are none.
    """
    try:
        rounds = pd.read_csv(folder / f"{NAME}.csv", float_precision="round_trip")
        origin = json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"There are no rounds in {folder} ({error.strerror}): measure them, without --rounds."
        ) from error
    return rounds, Origin(**origin)
