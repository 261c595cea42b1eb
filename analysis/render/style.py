"""How every figure looks: colours, dashes and markers, SVG that is the same for the same store.

A method has one colour in all figures. More than a dozen cannot be told apart by colour alone, so
each method also belongs to a group, and rows of two groups, or two variants of a method, never have
both the same dashes and the same marker. Rows that share both have colours that are far apart, for
the colour-blind too (`tests/test_looks.py`), and every colour has a contrast of 3 on white and on
the report's dark page (where black turns white).
"""

import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

import matplotlib
from matplotlib.figure import Figure

from analysis.names import method_look

SEQUENTIAL = "viridis"
DIVERGING = "RdBu_r"
PIXELS_PER_INCH = 96
RASTER_PIXELS_PER_INCH = 144  # of what is stored as pixels: filled contours, maps of many cells
FONT_SIZE = 8.0  # points

# Of methods that name none, which make up a group of their own.
_SPARE_COLOURS = ("#169ce1", "#9018fc", "#7d7a1a", "#d95a95", "#905448", "#6a55d0")
_SPARE_GROUP = 4
_GROUPS = _SPARE_GROUP + 1

_DASHES = (
    (),
    (4.0, 1.5),
    (1.0, 1.5),
    (6.0, 1.5, 1.0, 1.5),
    (9.0, 3.0),
    (2.0, 2.5),
    (8.0, 1.5, 1.0, 1.5, 1.0, 1.5),
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "<", "*", ">")  # as many as share no factor with _DASHES

_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "qlexp",
    "svg.fonttype": "none",  # texts stay texts: a third of the size, and searchable
    "figure.dpi": PIXELS_PER_INCH,
    "savefig.dpi": RASTER_PIXELS_PER_INCH,
    "font.size": FONT_SIZE,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],  # matplotlib's own, and one of its widths
    "axes.titlesize": "medium",
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "legend.handlelength": 3.2,  # a whole period of every dash pattern
}


def method_colour(method: str) -> str:
    """The colour of a method in every figure; one without a look gets a spare by its name."""
    look = method_look(method)
    spare = _SPARE_COLOURS[zlib.crc32(method.encode()) % len(_SPARE_COLOURS)]
    return look.colour if look else spare


def method_group(method: str) -> int:
    """The group of a method; those without a look make up the last one."""
    look = method_look(method)
    return look.group if look else _SPARE_GROUP


def mark(group: int, index: int) -> tuple[tuple[float, ...], str]:
    """Dashes in points, () for a solid line, and marker; no two pairs of a group and an index >= 0
    have the same."""
    number = _GROUPS * index + group
    again = number // (len(_DASHES) * len(_MARKERS))
    lead = (10.0, 2.0, *(1.0, 2.0) * again) if again else ()
    return lead + _DASHES[number % len(_DASHES)], _MARKERS[number % len(_MARKERS)]


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


_NUMBER = re.compile(r"-?\d+\.\d+")
_COORDINATES = re.compile(r'(?<= d=")[^"]+')


def save_svg(figure: Figure, file: Path | TextIO) -> None:
    """Writes `figure` as SVG without date or creator, paths to a hundredth of a point."""
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    short = _COORDINATES.sub(lambda path: _NUMBER.sub(_hundredths, path[0]), text.getvalue())
    if isinstance(file, Path):
        file.write_text(short, encoding="utf-8")
    else:
        file.write(short)


def _hundredths(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
