"""Times and counts of every method in every setting."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from analysis.inference.contenders import Contender, batch_of, build, config_of, merged
from analysis.inference.flops import count_flops
from analysis.inference.timing import in_turns
from qlexp.adapters.budget import trainable_count
from qlexp.config.schema import Config
from qlexp.model.backbone import Backbone
from qlexp.model.initial import Draw

REFERENCE = "lora"
MODES = ("eager", "compiled")


@dataclass(frozen=True, order=True)
class Setting:
    """What is the same for all methods that are compared."""

    backbone: str
    device: str
    mode: str
    batch: int

    @property
    def place(self) -> str:
        """All but the batch."""
        return f"{self.backbone}, {self.device}, {self.mode}"


@dataclass(frozen=True)
class Measurement:
    """A method in a setting, as it was trained or merged into the backbone.

    Attributes:
        flops: of a pass over the batch; None where the method cannot be merged.
        backbone_flops: the same without an adapter.
        seconds: of a pass, a value a round; empty where the method cannot be merged.
    """

    setting: Setting
    method: str
    merged: bool
    reading: bool
    trainable: int
    backbone_flops: int
    flops: int | None
    seconds: tuple[float, ...]

    @property
    def adapter_flops(self) -> int | None:
        """What the method adds to the backbone's in a pass."""
        return None if self.flops is None else self.flops - self.backbone_flops

    @property
    def point_flops(self) -> float | None:
        """The same for each point of the batch."""
        added = self.adapter_flops
        return None if added is None else added / self.setting.batch

    @property
    def share(self) -> float | None:
        """The same over the backbone's."""
        added = self.adapter_flops
        return None if added is None else added / self.backbone_flops


def measure(
    configs: Sequence[Config],
    backbone: str,
    device: torch.device,
    batches: Sequence[int],
    modes: Sequence[str],
    repeats: int,
) -> Iterator[Measurement]:
    """Every method, merged too where it can be; those of a setting are timed in the same rounds.

    Args:
        configs: of the methods, the reference among them, all on `backbone`.
        batches: points of a pass.
    """
    forms = [(config, folded) for config in configs for folded in (False, True)]
    models = [merged(c, device) if folded else build(c, device) for c, folded in forms]
    bare = Backbone(configs[0].backbone, Draw([0])).to(device)
    for batch in batches:
        inputs = [batch_of(config, batch, device) for config, _ in forms]
        contenders = {
            _name(*form): Contender(model, own)
            for form, model, own in zip(forms, models, inputs, strict=True)
            if model is not None
        }
        bare_flops = count_flops(bare, inputs[0][:1])
        flops = {name: count_flops(c.model, c.inputs) for name, c in contenders.items()}
        for mode in modes:
            calls = {name: c.call(mode == "compiled") for name, c in contenders.items()}
            with torch.no_grad():
                seconds = in_turns(calls, REFERENCE, repeats)
            for config, folded in forms:
                name = _name(config, folded)
                yield Measurement(
                    setting=Setting(backbone, device.type, mode, batch),
                    method=config.method.name,
                    merged=folded,
                    reading=config.method.kind.reading,
                    trainable=trainable_count(config),
                    backbone_flops=bare_flops,
                    flops=flops.get(name),
                    seconds=tuple(seconds.get(name, ())),
                )
    torch._dynamo.reset()  # the next backbone has code of its own


def _name(config: Config, folded: bool) -> str:
    return f"{config.method.name}{', merged' if folded else ''}"


def configs_of(methods: Sequence[str], backbone: str, rank: int) -> list[Config]:
    """Their configs, the reference's first."""
    return [config_of(name, backbone, rank) for name in dict.fromkeys([REFERENCE, *methods])]
