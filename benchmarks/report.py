"""What the benchmarks' commands have in common."""

import argparse
from pathlib import Path


def arguments(description: str | None, repeats: int) -> argparse.Namespace:
    """`--repeats`, `--eager` and `--out`."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds of every contender")
    parser.add_argument("--eager", action="store_true", help="leave the compiled steps out")
    parser.add_argument("--out", type=Path, help="folder to write the figures to")
    return parser.parse_args()


def publish(report: str, out: Path | None, name: str) -> None:
    """Prints a report and, where a folder is given, writes it there."""
    print(report)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(report + "\n")
