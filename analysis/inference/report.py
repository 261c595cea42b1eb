"""Times as a table: each method over LoRA in the same setting and rounds."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from analysis.inference.measure import REFERENCE, Measurement, Setting
from analysis.names import STYLE, method_order
from analysis.notes import number
from analysis.ratios import LEVEL, Median, Ratio, median_of, paired_ratio
from analysis.render import NO_CELL, Grid, Section, Text

NOT_MERGED = "cannot be merged"

_NOTHING = Ratio(math.nan, math.nan, math.nan)


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
        self,
        setting: Setting,
        method: str,
        merged: bool = False,
        over: str = REFERENCE,
        over_merged: bool = False,
        level: float = LEVEL,
    ) -> Ratio | None:
        """A form's time over that of another, by rounds; None: one of them cannot be merged."""
        own = self.row(setting, method, merged).seconds
        other = self.row(setting, over, over_merged).seconds
        return paired_ratio(own, other, level) if own and other else None

    def merged_medians(self, setting: Setting) -> list[float]:
        """Of the ratios of all merged forms, ascending; all are the bare network."""
        ratios = [self.ratio(setting, method, merged=True) for method in self.methods]
        return sorted(ratio.median for ratio in ratios if ratio is not None)

    def reading(self, method: str) -> bool:
        return any(row.reading for row in self.rows if row.method == method)

    def label(self, method: str) -> str:
        return method + STYLE * self.reading(method)


def long_table(measured: Measured) -> pd.DataFrame:
    """The numbers in full, a row a setting, method and form."""
    return pd.DataFrame([_numbers(measured, row) for row in measured.rows])


def _numbers(measured: Measured, row: Measurement) -> dict[str, Any]:
    ratio = measured.ratio(row.setting, row.method, row.merged) or _NOTHING
    seconds = median_of(row.seconds) if row.seconds else _NOTHING
    pace = _pace(row.setting, seconds)
    return {
        **asdict(row.setting),
        "method": row.method,
        "merged": row.merged,
        "can_be": bool(row.seconds),
        "style": row.reading,
        "trainable_parameters": row.trainable,
        "backbone_flops": row.backbone_flops,
        "adapter_flops": row.adapter_flops,
        "adapter_flops_a_point": row.point_flops,
        "adapter_flops_over_backbone": row.share,
        "seconds": seconds.median,
        "seconds_low": seconds.low,
        "seconds_high": seconds.high,
        "points_per_second": pace.median,
        "points_per_second_low": pace.low,
        "points_per_second_high": pace.high,
        "over_lora": ratio.median,
        "over_lora_low": ratio.low,
        "over_lora_high": ratio.high,
        "repeats": len(row.seconds),
    }


def rounds_table(measured: Measured) -> pd.DataFrame:
    """Seconds of a pass, a row a setting, method, form and round."""
    return pd.DataFrame(
        {
            **asdict(row.setting),
            "method": row.method,
            "merged": row.merged,
            "round": index,
            "seconds": seconds,
        }
        for row in measured.rows
        for index, seconds in enumerate(row.seconds)
    )


def cost_grid(measured: Measured, notes: Sequence[str]) -> Grid:
    """Methods by what they cost at each batch; a section a backbone, device and mode."""
    headers = ["method", "trainable"]
    for batch in measured.batches:
        pace = "ms" if batch == 1 else "points/s"
        headers += [
            f"FLOPs added a point, batch {batch}",
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
        if batch == measured.batches[0]:
            texts.append(f"{row.trainable:,}")
        texts += [
            _flops_text(row),
            _pace_text(row),
            ratio_text(measured.ratio(setting, method)),
            ratio_text(measured.ratio(setting, method, merged=True)),
        ]
    return [Text(text) for text in texts]


def _flops_text(row: Measurement) -> str:
    """`2,050 (16.5%)`, the share that of the backbone's."""
    if row.point_flops is None or row.share is None:
        return NO_CELL
    return f"{row.point_flops:,.0f} ({row.share:.1%})"


def _pace_text(row: Measurement) -> str:
    """Milliseconds of a pass over one point, points a second of a larger one."""
    seconds = median_of(row.seconds)
    if row.setting.batch == 1:
        low, high = number(seconds.low * 1e3), number(seconds.high * 1e3)
        return f"{number(seconds.median * 1e3)} ({low} to {high})"
    pace = _pace(row.setting, seconds)
    return f"{pace.median:,.0f} ({pace.low:,.0f} to {pace.high:,.0f})"


def _pace(setting: Setting, seconds: Median) -> Median:
    """Points a second."""
    batch = setting.batch
    return Median(batch / seconds.median, batch / seconds.high, batch / seconds.low)


def ratio_text(ratio: Ratio | None) -> str:
    """`1.23 (1.20 to 1.31)`."""
    if ratio is None:
        return NOT_MERGED
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
