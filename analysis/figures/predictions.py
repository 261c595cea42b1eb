"""The target of a function, what each method predicts, and the error: a row a method."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn

from analysis.cells import RowName
from analysis.figures.contours import (
    Array,
    draw_change,
    grid,
    label_square,
    levels_around_zero,
    levels_between,
)
from analysis.figures.layout import add_title, extra_height, wrapped
from analysis.figures.rows import labels_of
from analysis.figures.targets import target_title
from analysis.names import REFERENCES, function_title
from qlexp.model.evaluate import predict
from qlexp.problem.targets import Problem

SIDE = 121
ERROR_SHARE = 0.99  # of the adapters' errors that the colours cover
_PANEL_WIDTH = 1.9  # inches


@dataclass(frozen=True)
class Prediction:
    """A method's problem, its values on `grid(SIDE)`, and its run's status.

    A diverged run has no values, one that is missing or failed has no problem either.
    """

    row: RowName
    status: str
    problem: Problem | None = None
    values: Array | None = None


def evaluate(adapter: nn.Module, points: Tensor, instruction: Tensor | None = None) -> Array:
    """The values (n,) of a one-lane model at points (1, n, 2), and e(z) (1, n, d_e) if read."""
    adapter.eval()
    values: Array = predict(adapter, points, instruction)[0].double().cpu().numpy()
    return values


def predictions_figure(function: str, seed: int, predictions: Sequence[Prediction]) -> Figure:
    """Target, prediction and error (prediction minus target), on the standardised scale.

    Every row has its own target: a study may sweep the shift.
    """
    titles = [
        [wrapped(f"{label}: {kind}", _PANEL_WIDTH) for kind in ("prediction", "error")]
        for label in labels_of([own.row for own in predictions]).values()
    ]
    height = 2.15 + extra_height([title for title, _ in titles])
    figure = Figure(figsize=(7.2, height * len(predictions) + 0.3), layout="constrained")
    add_title(figure, f"{function_title(function)}, seed {seed}")
    points = grid(SIDE)
    targets = [None if own.problem is None else own.problem.target(points) for own in predictions]
    known = np.concatenate([target for target in targets if target is not None])
    levels = levels_between(known.min(), known.max())
    errors = levels_around_zero(_scaling_errors(predictions, targets), ERROR_SHARE)
    axes = figure.subplots(len(predictions), 3, squeeze=False)
    for row, own, target, (middle, right) in zip(axes, predictions, targets, titles, strict=True):
        row[1].set_title(middle)
        row[2].set_title(right)
        if own.problem is None or target is None:
            label_square(row[0])
        else:
            row[0].set_title(target_title(own.problem))
            draw_change(row, target, own.values, levels, errors, "error", open_ended=True)
        for axis in row[1:] if own.values is None else ():
            axis.set_axis_off()
            axis.text(0.5, 0.5, own.status, transform=axis.transAxes, ha="center")
    return figure


def _scaling_errors(
    predictions: Sequence[Prediction], targets: Sequence[Array | None]
) -> list[Array]:
    """The errors that set the colour scale: the adapters', or all where no adapter has any."""
    known = [
        (own.row[0], own.values - target)
        for own, target in zip(predictions, targets, strict=True)
        if own.values is not None and target is not None
    ]
    adapters = [error for method, error in known if method not in REFERENCES]
    return adapters or [error for _, error in known] or [np.zeros(1)]
