"""How every figure looks: one colour a method, SVG that is the same for the same store.

The method colours are Okabe and Ito's (2008, Color Universal Design), extended by the muted ones of
Tol (2021, Colour schemes, SRON/EPS/TN/09-002). Line styles tell apart what colour alone does not:
methods of one family share a colour.
"""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import matplotlib
from matplotlib.figure import Figure

SEQUENTIAL = "viridis"
DIVERGING = "RdBu_r"
PIXELS_PER_INCH = 96  # of the parts of a figure that are stored as pixels

_COLOURS = {
    "frozen": "#7f7f7f",
    "lora": "#0072b2",
    "rslora": "#0072b2",
    "dora": "#e69f00",
    "doran": "#e69f00",
    "shared_lora": "#009e73",
    "vera": "#56b4e9",
    "vb_lora": "#332288",
    "lily": "#117733",
    "mix_lora": "#cc79a7",
    "moe_lora": "#882255",
    "rep_lora": "#999933",
    "hyra": "#44aa99",
    "text_to_lora": "#aa7744",
    "queryable": "#d55e00",
    "instruction_queryable": "#aa4499",
    "prior_only": "#ddcc77",
    "query_only": "#661100",
    "full_adamw": "#000000",
    "full": "#000000",
}
_SPARE_COLOURS = ("#6699cc", "#cc6677", "#888888")
_DASHES = {
    "frozen": (4.0, 2.0),
    "rslora": (5.0, 1.5),
    "doran": (5.0, 1.5),
    "prior_only": (5.0, 1.5),
    "query_only": (1.0, 1.5),
    "full_adamw": (1.0, 1.0),
}
_VARIANT_DASHES = (
    (),
    (5.0, 1.5),
    (1.0, 1.5),
    (5.0, 1.5, 1.0, 1.5),
    (8.0, 2.0, 2.0, 2.0),
    (3.0, 3.0),
    (8.0, 1.5, 1.0, 1.5, 1.0, 1.5),
    (1.0, 4.0),
    (12.0, 2.0),
    (5.0, 1.0, 5.0, 4.0),
    (2.0, 1.0, 2.0, 3.0),
    (10.0, 4.0, 1.0, 4.0),
)

_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "qlexp",
    "svg.fonttype": "none",  # texts stay texts: a third of the size, and searchable
    "figure.dpi": PIXELS_PER_INCH,
    "savefig.dpi": PIXELS_PER_INCH,
    "font.size": 8.0,
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
}


def method_colour(method: str) -> str:
    """The colour of a method in every figure; one without an entry gets a spare by its name."""
    spare = _SPARE_COLOURS[zlib.crc32(method.encode()) % len(_SPARE_COLOURS)]
    return _COLOURS.get(method, spare)


def dashes(method: str, variant_index: int = 0) -> tuple[float, ...]:
    """Dash pattern in points, () for a solid line; `variant_index` counts a method's variants."""
    if variant_index:
        return _VARIANT_DASHES[variant_index % len(_VARIANT_DASHES)]
    return _DASHES.get(method, ())


def extra_width(labels: Iterable[str]) -> float:
    """Inches by which a figure with room for labels of 20 characters has to grow for `labels`."""
    return 0.07 * max(0, max(map(len, labels), default=0) - 20)


@contextmanager
def figure_style() -> Iterator[None]:
    """The settings to make and save figures under, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def save_svg(figure: Figure, file: Path | TextIO) -> None:
    """Writes `figure` as SVG without date or creator."""
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
