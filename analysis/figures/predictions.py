"""The target of a function, what each method predicts, and the error: a row a method."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn

from analysis.figures.contours import (
    Array,
    add_colourbar,
    draw,
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
    """A method's problem and its values on `grid(SIDE)`; None, and the run's status, for no run.

    There are no values without a problem.
    """

    method: str
    variant: str
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
    labels = labels_of([(own.method, own.variant) for own in predictions]).values()
    titles = [
        [wrapped(f"{label}: {kind}", _PANEL_WIDTH) for kind in ("prediction", "error")]
        for label in labels
    ]
    height = 2.15 + extra_height([title for title, _ in titles])
    figure = Figure(figsize=(7.2, height * len(predictions) + 0.3), layout="constrained")
    add_title(figure, f"{function_title(function)}, seed {seed}")
    axes = figure.subplots(len(predictions), 3, squeeze=False)
    points = grid(SIDE)
    targets = [own.problem.target(points) if own.problem else None for own in predictions]
    errors = [
        None if own.values is None or target is None else own.values - target
        for own, target in zip(predictions, targets, strict=True)
    ]
    known = np.concatenate([target for target in targets if target is not None])
    levels = levels_between(known.min(), known.max())
    error_levels = levels_around_zero(_scaling(predictions, errors), ERROR_SHARE)
    for row, own, title, target, error in zip(
        axes, predictions, titles, targets, errors, strict=True
    ):
        for axis, text in zip(row[1:], title, strict=True):
            axis.set_title(text)
        if own.problem is None or target is None:
            label_square(row[0])
        else:
            row[0].set_title(target_title(own.problem))
            contours = draw(row[0], target, levels, open_ended=True)
            add_colourbar(contours, list(row[:2]), "value (standardised)")
        if own.values is None or error is None:
            for axis in row[1:]:
                axis.set_axis_off()
                axis.text(0.5, 0.5, own.status, transform=axis.transAxes, ha="center")
            continue
        draw(row[1], own.values, levels, open_ended=True)
        contours = draw(row[2], error, error_levels, diverging=True, open_ended=True)
        add_colourbar(contours, [row[2]], "error (standardised)")
    return figure


def _scaling(predictions: Sequence[Prediction], errors: Sequence[Array | None]) -> list[Array]:
    """The errors that set the colour scale: the adapters', or all where no adapter has any."""
    known = [(own, e) for own, e in zip(predictions, errors, strict=True) if e is not None]
    adapters = [error for own, error in known if own.method not in REFERENCES]
    return adapters or [error for _, error in known] or [np.zeros(1)]
