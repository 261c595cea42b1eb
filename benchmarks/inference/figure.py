"""Times over LoRA's, a panel a setting."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.render.style import method_colour
from benchmarks.contenders import REFERENCE
from benchmarks.inference.measured import Form, Measured, Setting


def ratios_figure(measured: Measured) -> Figure:
    """Medians and 95 % intervals by method: filled as trained, open merged into the backbone."""
    rows, columns = len(measured.places), len(measured.batches)
    height = 0.16 * len(measured.methods) + 0.6
    figure = Figure(figsize=(1.0 + 3.1 * columns, height * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for line, place in zip(axes, measured.places, strict=True):
        for axis, batch in zip(line, measured.batches, strict=True):
            _draw(axis, measured, measured.at(place, batch))
    for axis in axes[-1]:
        axis.set_xlabel(f"time of a pass over {REFERENCE}'s (ratio)")
    look: dict[str, Any] = {"linestyle": "none", "marker": "o", "color": "#404040", "markersize": 4}
    handles = [
        Line2D([], [], label="as trained", **look),
        Line2D([], [], label="merged", **{**look, "markerfacecolor": "white"}),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _draw(axis: Axes, measured: Measured, setting: Setting) -> None:
    axis.axvline(1.0, color="#b0b0b0", linewidth=0.8)
    for place, method in enumerate(measured.methods):
        colour = method_colour(method)
        for merged in (False, True):
            if (ratio := measured.ratio(setting, Form(method, merged))) is not None:
                axis.errorbar(
                    ratio.value,
                    place,
                    xerr=[[ratio.value - ratio.low], [ratio.high - ratio.value]],
                    fmt="o",
                    markersize=3.5,
                    linewidth=0.9,
                    color=colour,
                    markerfacecolor="white" if merged else colour,
                )
    axis.set_yticks(range(len(measured.methods)), [measured.label(m) for m in measured.methods])
    axis.set_ylim(len(measured.methods) - 0.5, -0.5)
    axis.set_title(str(setting))
