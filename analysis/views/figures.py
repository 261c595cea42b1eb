"""Loss curves and targets; of one function, what the methods predict of it.

    curves_<budget>.svg    training loss, a panel a function
    targets.svg            source, target and their difference, a row a function

With `--function NAME`, for that function alone,

    curves_<budget>_<function>.svg
    predictions_<budget>_<function>.svg    target, prediction and error by method

Where an adapter serves several targets the first is drawn, and methods that read a text are given
its first wording. Where a study sweeps the shift or the noise, `targets.svg` says which it shows.
Of language models there are the curves alone. Missing and failed runs that are allowed are named in
the figures. The same store and the same versions give the same bytes.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from analysis.benchmark import SYNTHETIC
from analysis.cells import RowName, cells_of, rows_of
from analysis.figures.contours import grid
from analysis.figures.curves import curves_figure
from analysis.figures.predictions import SIDE, Prediction, evaluate, predictions_figure
from analysis.figures.targets import problems_of, targets_figure
from analysis.inputs import inputs_at
from analysis.load import finished
from analysis.names import budget_title, function_title
from analysis.render.output import Picture
from analysis.render.style import figure_style
from analysis.study import Study
from analysis.view import Shown
from qlexp.adapters.stored import load_run, stored_config
from qlexp.errors import UsageError
from qlexp.problem.targets import problem_of
from qlexp.store.files import FINISHED
from qlexp.store.store import Store


def add_options(command: ArgumentParser) -> None:
    command.add_argument(
        "--function", dest="only", help="one function only, with the methods' predictions"
    )


def show(study: Study, options: Namespace) -> Shown:
    """Raises a `UsageError` where no run has finished, and of a language model's predictions."""
    if finished(study.frame).empty:
        raise UsageError(f"Study '{study.name}' has no finished run to draw.")
    with figure_style():  # drawn at once: what is not readable is no fault of the folder written to
        if options.only is None:
            drawn = [targets(study)] if study.benchmark is SYNTHETIC else []
            return Shown(pictures=[*curves(study), *drawn])
        study.require(SYNTHETIC, "predictions over its inputs")
        suffix = f"_{options.only}"
        return Shown(pictures=[*curves(study, suffix), *_predictions(study, suffix)])


def curves(study: Study, suffix: str = "") -> Iterator[Picture]:
    """The training losses of each budget."""
    for budget, cells in study.frame.groupby("budget", sort=False):
        yield Picture(
            f"curves_{budget}{suffix}",
            f"Training loss over the updates of the adaptation. {budget_title(budget)}. "
            "Lines: mean over seeds; bands: the range between them.",
            curves_figure(study.store, cells),
        )


def targets(study: Study) -> Picture:
    """What is learnt first, and what the networks are adapted to."""
    return Picture(
        "targets",
        "Clean source, clean target and their difference over the scaled inputs, by function.",
        targets_figure(problems_of(study.store, study.frame)),
    )


def _predictions(study: Study, suffix: str) -> Iterator[Picture]:
    """Of each budget and the study's one function, with the first seed that a method finished."""
    for budget, cells in study.frame.groupby("budget", sort=False):
        if finished(cells).empty:
            continue
        function, seed = cells["function"].iloc[0], int(finished(cells)["seed"].min())
        own = cells[cells["seed"] == seed]
        predictions = [
            _prediction(study.store, row, next(cells_of(own, row).itertuples()))
            for row in rows_of(own)
        ]
        if all(prediction.values is None for prediction in predictions):
            raise UsageError(f"No run of {function} with seed {seed} has weights to predict with.")
        yield Picture(
            f"predictions_{budget}{suffix}",
            f"Target, prediction and error of {function_title(function)} with seed {seed}, by "
            f"method. {budget_title(budget)}.",
            predictions_figure(function, seed, predictions),
        )


def _prediction(store: Store, row: RowName, cell: Any) -> Prediction:
    """Of a row's one cell in the long table."""
    if cell.status not in FINISHED:
        return Prediction(row, cell.status)
    config = stored_config(store, cell.run_id)
    if cell.status == "diverged":
        return Prediction(row, cell.status, problem_of(config))
    adapter, problem = load_run(store, cell.run_id)
    values = evaluate(adapter, *inputs_at(config, problem, adapter, grid(SIDE)))
    return Prediction(row, cell.status, problem, values)
