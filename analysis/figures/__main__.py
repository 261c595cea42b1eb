"""Renders the figures of a study: `python -m analysis.figures --study quick`.

    results/<study>/curves_<budget>.svg    training loss, a panel a function
    results/<study>/targets.svg            source, target and their difference, a row a function

With `--function NAME` it renders, for that function alone,

    results/<study>/curves_<budget>_<function>.svg
    results/<study>/predictions_<budget>_<function>.svg    target, prediction and error by method

Where an adapter serves several targets the first is drawn, and methods that read a text are given
its first wording. Where a study sweeps the shift or the noise, `targets.svg` says which it shows.
A study with missing or failed cells is refused unless `--allow-missing` is given; the figures then
name the gaps. The same store and the same versions give the same bytes.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.cells import variants
from analysis.cli import exit_code, open_study, parser, writing
from analysis.figures.contours import grid
from analysis.figures.curves import curves_figure
from analysis.figures.predictions import SIDE, Prediction, evaluate, predictions_figure
from analysis.figures.targets import problems_of, targets_figure
from analysis.inputs import inputs_at
from analysis.load import finished, require_complete
from analysis.names import budget_order, method_order
from analysis.style import figure_style, save_svg
from qlexp.adapters.stored import load_run, stored_config
from qlexp.errors import UsageError, unknown_name
from qlexp.problem.targets import problem_of
from qlexp.store.files import FINISHED
from qlexp.store.store import Store


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    command = parser("analysis.figures", "Render the figures of a study from the store.")
    command.add_argument("--function", help="one function only, with the methods' predictions")
    options = command.parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    store, frame = open_study(options)
    if options.function is not None:
        known = set(frame["function"])
        if options.function not in known:
            raise unknown_name(f"function of study {options.study}", options.function, known)
        frame = frame[frame["function"] == options.function]
    if not options.allow_missing:
        require_complete(frame, options.study)
    if finished(frame).empty:
        raise UsageError(f"Study '{options.study}' has no finished run to draw.")
    with figure_style():
        figures = dict(_figures(store, frame, options.function))
        with writing(Path(options.out) / options.study) as folder:
            for name, figure in figures.items():
                save_svg(figure, folder / f"{name}.svg")
                print(folder / f"{name}.svg")


def _figures(
    store: Store, frame: pd.DataFrame, function: str | None
) -> Iterator[tuple[str, Figure]]:
    suffix = f"_{function}" if function else ""
    for budget in sorted(frame["budget"].unique(), key=budget_order):
        part = frame[frame["budget"] == budget]
        yield f"curves_{budget}{suffix}", curves_figure(store, part)
        if function and not finished(part).empty:
            yield f"predictions_{budget}{suffix}", _predictions(store, part, function)
    if not function:
        yield "targets", targets_figure(problems_of(store, frame))


def _predictions(store: Store, cells: pd.DataFrame, function: str) -> Figure:
    """The predictions of the first seed that any method has finished."""
    seed = int(finished(cells)["seed"].min())
    cells = cells.assign(variant=variants(cells))
    cells = cells[cells["seed"] == seed]
    predictions = []
    order = sorted(
        cells.index, key=lambda i: (method_order(cells.at[i, "method"]), cells.at[i, "variant"])
    )
    for cell in cells.loc[order].itertuples():
        problem = values = None
        if cell.status == "done":
            config = stored_config(store, cell.run_id)
            adapter, problem = load_run(store, cell.run_id)
            values = evaluate(adapter, *inputs_at(config, problem, adapter, grid(SIDE)))
        elif cell.status in FINISHED:
            problem = problem_of(stored_config(store, cell.run_id))
        predictions.append(Prediction(cell.method, cell.variant, cell.status, problem, values))
    if all(prediction.values is None for prediction in predictions):
        raise UsageError(f"No run of {function} with seed {seed} has weights to predict with.")
    return predictions_figure(function, seed, predictions)


if __name__ == "__main__":
    sys.exit(main())
