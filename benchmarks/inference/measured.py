"""Rounds beside what is counted: each method over LoRA in the same setting and rounds."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.legend import STYLE
from analysis.names import method_order
from analysis.stats.intervals import Interval
from benchmarks.contenders import REFERENCE
from benchmarks.inference.counts import Cost, costs_of
from benchmarks.inference.rounds import SETTING, configs_of
from benchmarks.timing import LEVEL, median_of


class Setting(NamedTuple):
    """What is the same for all methods that are compared."""

    backbone: str
    device: str
    mode: str
    batch: int

    @property
    def place(self) -> str:
        """All but the batch."""
        return f"{self.backbone}, {self.device}, {self.mode}"

    def __str__(self) -> str:
        return f"{self.place}, batch {self.batch}"


class Form(NamedTuple):
    """A method as it was trained, or merged into the backbone."""

    method: str
    merged: bool = False


LORA = Form(REFERENCE)


@dataclass(frozen=True)
class Measured:
    """Rounds by setting and form, and costs.

    Attributes:
        rounds: columns backbone, device, mode, batch, method, merged, round and seconds.
        costs: by backbone, batch and method.
    """

    rounds: pd.DataFrame
    costs: Mapping[tuple[str, int, str], Cost]

    @classmethod
    def counted(cls, rounds: pd.DataFrame, rank: int) -> "Measured":
        """With the costs of the methods at `rank`."""
        costs = {}
        for backbone, part in rounds.groupby("backbone"):
            configs = configs_of(part["method"], str(backbone), rank)
            for batch in part["batch"].unique():
                for method, cost in costs_of(configs, int(batch)).items():
                    costs[str(backbone), int(batch), method] = cost
        return cls(rounds, costs)

    @cached_property
    def seconds(self) -> dict[tuple[Setting, Form], np.ndarray]:
        """Of a pass, a value a round; a form that cannot be merged has no entry."""
        parts = self.rounds.groupby([*SETTING, "method", "merged"], sort=False)["seconds"]
        return {(Setting(*key[:4]), Form(*key[4:])): part.to_numpy() for key, part in parts}

    @cached_property
    def settings(self) -> list[Setting]:
        return list(dict.fromkeys(setting for setting, _ in self.seconds))

    @cached_property
    def places(self) -> list[str]:
        return list(dict.fromkeys(setting.place for setting in self.settings))

    @cached_property
    def batches(self) -> list[int]:
        return sorted({setting.batch for setting in self.settings})

    @cached_property
    def methods(self) -> list[str]:
        return sorted(set(self.rounds["method"]), key=method_order)

    def at(self, place: str, batch: int) -> Setting:
        return next(s for s in self.settings if s.place == place and s.batch == batch)

    def cost(self, setting: Setting, method: str) -> Cost:
        return self.costs[setting.backbone, setting.batch, method]

    def reading(self, method: str) -> bool:
        return any(cost.reading for (_, _, name), cost in self.costs.items() if name == method)

    def label(self, method: str) -> str:
        return method + STYLE * self.reading(method)

    def ratio(
        self,
        setting: Setting,
        form: Form,
        over: Form = LORA,
        level: float = LEVEL,
    ) -> Interval | None:
        """The median over rounds of a form's time over another's; None: one cannot be merged."""
        own, other = (self.seconds.get((setting, each)) for each in (form, over))
        return None if own is None or other is None else median_of(own / other, level)
