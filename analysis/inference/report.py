"""Times as a table: each method over LoRA in the same setting and rounds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from analysis.inference.measure import REFERENCE, Measurement, Setting
from analysis.names import STYLE, method_order
from analysis.notes import number
from analysis.ratios import Ratio, paired_ratio
from analysis.render import NO_CELL, Grid, Section, Text

NOT_MERGED = "cannot be merged"


class Measured:
    """The measurements of a run, by setting, method and form."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self.rows = list(measurements)
        self._rows = {(row.setting, row.method, row.merged): row for row in self.rows}
        self.settings = list(dict.fromkeys(row.setting for row in self.rows))
        self.places = list(dict.fromkeys(setting.place for setting in self.settings))
        self.batches = sorted({setting.batch for setting in self.settings})
        self.methods = sorted({row.method for row in self.rows}, key=method_order)

    def row(self, setting: Setting, method: str, merged: bool = False) -> Measurement:
        return self._rows[setting, method, merged]

    def at(self, place: str, batch: int) -> Setting:
        return next(s for s in self.settings if s.place == place and s.batch == batch)

    def ratio(
        self, setting: Setting, method: str, merged: bool = False, over: str = REFERENCE
    ) -> Ratio | None:
        """A method's time over that of `over`, unmerged, by rounds; None: it cannot be merged."""
        own = self.row(setting, method, merged).seconds
        return paired_ratio(own, self.row(setting, over).seconds) if own else None

    def label(self, method: str) -> str:
        reading = any(row.reading for row in self.rows if row.method == method)
        return method + STYLE * reading


def long_table(measured: Measured) -> pd.DataFrame:
    """The numbers in full, a row a setting, method and form."""
    rows = []
    for row in measured.rows:
        ratio = measured.ratio(row.setting, row.method, row.merged)
        ratio = ratio or Ratio(math.nan, math.nan, math.nan)
        median = statistics.median(row.seconds) if row.seconds else math.nan
        rows.append(
            {
                **asdict(row.setting),
                "method": row.method,
                "merged": row.merged,
                "can_be": bool(row.seconds),
                "style": row.reading,
                "trainable_parameters": row.trainable,
                "backbone_flops": row.backbone_flops,
                "adapter_flops": row.adapter_flops,
                "seconds": median,
                "points_per_second": row.setting.batch / median,
                "over_lora": ratio.median,
                "over_lora_low": ratio.low,
                "over_lora_high": ratio.high,
                "repeats": len(row.seconds),
            }
        )
    return pd.DataFrame(rows)


def cost_grid(measured: Measured, notes: Sequence[str]) -> Grid:
    """Methods by what they cost at each batch; a section a backbone, device and mode."""
    headers = ["method", "trainable"]
    for batch in measured.batches:
        pace = "ms" if batch == 1 else "points/s"
        headers += [
            f"FLOPs added, batch {batch}",
            f"{pace}, batch {batch}",
            "time over lora",
            "merged over lora",
        ]
    sections = [
        Section(place, [_cells(measured, place, method) for method in measured.methods])
        for place in measured.places
    ]
    return Grid("inference", "Forward pass by method", headers, sections, notes)


def _cells(measured: Measured, place: str, method: str) -> list[Text]:
    texts = [measured.label(method)]
    for batch in measured.batches:
        setting = measured.at(place, batch)
        row = measured.row(setting, method)
        median = statistics.median(row.seconds)
        if batch == measured.batches[0]:
            texts.append(f"{row.trainable:,}")
        texts += [
            NO_CELL if row.adapter_flops is None else f"{row.adapter_flops:,}",
            number(median * 1e3) if batch == 1 else f"{batch / median:,.0f}",
            ratio_text(measured.ratio(setting, method)),
            ratio_text(measured.ratio(setting, method, merged=True)),
        ]
    return [Text(text) for text in texts]


def ratio_text(ratio: Ratio | None) -> str:
    """`1.23 (1.20 to 1.31)`."""
    if ratio is None:
        return NOT_MERGED
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
