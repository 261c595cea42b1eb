"""What was measured as a table to read and as one in full."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.render import NO_CELL, Grid, Section
from analysis.stats.intervals import NO_INTERVAL, Interval
from analysis.text import number
from benchmarks.inference.measured import Form, Measured, Setting
from benchmarks.report import interval_text, section
from benchmarks.timing import median_of

NOT_MERGED = "cannot be merged"


def long_table(measured: Measured) -> pd.DataFrame:
    """The numbers in full, a row a setting, method and form."""
    methods = dict.fromkeys(measured.rounds["method"])
    return pd.DataFrame(
        _numbers(measured, setting, Form(method, merged))
        for setting in measured.settings
        for method in methods
        for merged in (False, True)
    )


def _numbers(measured: Measured, setting: Setting, form: Form) -> dict[str, Any]:
    cost, seconds = measured.cost(setting, form.method), measured.seconds.get((setting, form))
    flops = None if seconds is None else 0 if form.merged else cost.flops
    return {
        **setting._asdict(),
        **form._asdict(),
        "can_be": seconds is not None,
        "style": cost.reading,
        "trainable_parameters": cost.trainable,
        "backbone_flops": cost.backbone_flops,
        "adapter_flops": flops,
        "adapter_flops_a_point": None if flops is None else flops / setting.batch,
        "adapter_flops_over_backbone": None if flops is None else flops / cost.backbone_flops,
        **_spread("seconds", median := NO_INTERVAL if seconds is None else median_of(seconds)),
        **_spread("points_per_second", _pace(setting, median)),
        **_spread("over_lora", measured.ratio(setting, form) or NO_INTERVAL),
        "repeats": 0 if seconds is None else len(seconds),
    }


def _spread(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


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
    sections = [_section(measured, place) for place in measured.places]
    return Grid("inference", "Forward pass by method", headers, sections, notes)


def _section(measured: Measured, place: str) -> Section:
    settings = [measured.at(place, batch) for batch in measured.batches]
    rows = []
    for method in measured.methods:
        cells = [measured.label(method), f"{measured.cost(settings[0], method).trainable:,}"]
        for setting in settings:
            cells += _cells(measured, setting, method)
        rows.append(cells)
    return section(place, rows)


def _cells(measured: Measured, setting: Setting, method: str) -> list[str]:
    if (setting, Form(method)) not in measured.seconds:
        return [NO_CELL] * 4
    cost = measured.cost(setting, method)
    return [
        f"{cost.flops / setting.batch:,.0f} ({cost.share:.1%})",
        _pace_text(setting, median_of(measured.seconds[setting, Form(method)])),
        *(ratio_text(measured.ratio(setting, Form(method, merged))) for merged in (False, True)),
    ]


def _pace_text(setting: Setting, seconds: Interval) -> str:
    """Milliseconds of a pass over one point, points a second of a larger one."""
    if setting.batch == 1:
        median, low, high = (number(limit * 1e3) for limit in seconds)
        return f"{median} ({low} to {high})"
    pace = _pace(setting, seconds)
    return f"{pace.value:,.0f} ({pace.low:,.0f} to {pace.high:,.0f})"


def _pace(setting: Setting, seconds: Interval) -> Interval:
    """Points a second."""
    batch = setting.batch
    return Interval(batch / seconds.value, batch / seconds.high, batch / seconds.low)


def ratio_text(ratio: Interval | None) -> str:
    return NOT_MERGED if ratio is None else interval_text(ratio)
