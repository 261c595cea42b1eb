"""The two ends of the scale: the backbone as it is, and every weight of it trained."""

from dataclasses import dataclass, field
from typing import ClassVar

from qlexp.adapters.base import Adapter, AdapterConfig, Look
from qlexp.config.schema import BackboneConfig
from qlexp.errors import UsageError
from qlexp.model.backbone import Backbone
from qlexp.model.initial import Draw


@dataclass
class NoTargetsConfig(AdapterConfig):
    """A method that wraps no linear."""

    targets: list[str] = field(default_factory=list)

    def check(self, backbone: BackboneConfig) -> None:
        super().check(backbone)
        if self.targets:
            raise UsageError(f"method={self.name} wraps no linear: method.targets must be [].")


class Frozen(Adapter):
    """Nothing trains: what the shift costs a model that does not adapt."""

    Config: ClassVar = NoTargetsConfig
    trains: ClassVar = False
    reference: ClassVar = True
    looks: ClassVar = {"frozen": Look("#8c8c8c", group=0, order=0)}


class Full(Adapter):
    """Full fine-tuning, the unrestricted reference."""

    Config: ClassVar = NoTargetsConfig
    reference: ClassVar = True
    looks: ClassVar = {
        "full_adamw": Look("#000000", group=3, order=2010),
        "full": Look("#000000", group=0, order=2020),
    }

    def __init__(self, backbone: Backbone, config: NoTargetsConfig, draw: Draw) -> None:
        super().__init__(backbone, config, draw)
        self.backbone.requires_grad_(True)
