"""What the benchmarks' commands have in common: their options, and how figures are written."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from analysis.render import Grid, Section, Text, markdown
from analysis.stats.intervals import Interval
from analysis.view import Shown
from benchmarks.contenders import MODES
from qlexp.environment import device_name, versions


def arguments(description: str | None, repeats: int) -> argparse.Namespace:
    """`--repeats`, `--out`, and as `modes` what `--eager` leaves."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds of every contender")
    parser.add_argument(
        "--eager",
        dest="modes",
        action="store_const",
        const=MODES[:1],
        default=MODES,
        help="leave the compiled steps out",
    )
    parser.add_argument("--out", type=Path, help="folder to write the figures to")
    return parser.parse_args()


def grid(
    label: str, title: str, headers: Sequence[str], *sections: Section, notes: Sequence[str]
) -> Grid:
    """A table that says first where it was measured."""
    return Grid(label, title, headers, sections, [f"Measured on {machine()}.", *notes])


def section(title: str, rows: Sequence[Sequence[str]]) -> Section:
    return Section(title, [[Text(text) for text in row] for row in rows])


def publish(shown: Shown, out: Path | None) -> None:
    """Prints every table and, where a folder is given, writes all files there."""
    for grids in shown.grids.values():
        print(*map(markdown, grids), sep="\n")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        shown.write(out)


def machine() -> str:
    return f"{device_name(torch.device('cpu'))}, torch {versions()['torch']}"


def interval_text(interval: Interval) -> str:
    """`1.23 (1.20 to 1.31)`; without limits where the rounds do not suffice for any."""
    limits = f" ({interval.low:.2f} to {interval.high:.2f})"
    return f"{interval.value:.2f}" + limits * (not math.isnan(interval.low))
