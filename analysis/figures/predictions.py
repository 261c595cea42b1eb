"""The target of a function, what each method predicts, and the error: a row a method."""

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
    """A method's problem and its values on `grid(SIDE)`; None, and the run's status, for no run."""

    method: str
    variant: str
    status: str
    problem: Problem | None = None
    values: Array | None = None

    def target(self) -> Array | None:
        """What the method was adapted to, on `grid(SIDE)`."""
        return None if self.problem is None else self.problem.target(grid(SIDE))


def evaluate(adapter: nn.Module, points: Tensor, instruction: Tensor | None = None) -> Array:
    """The values (n,) of a one-lane model at points (1, n, 2), and e(z) (1, n, d_e) if read."""
    adapter.eval()
    values: Array = predict(adapter, points, instruction)[0].double().cpu().numpy()
    return values


def predictions_figure(function: str, seed: int, predictions: list[Prediction]) -> Figure:
    """Target, prediction and error (prediction minus target), on the standardised scale.

    Every row has its own target: a study may sweep the shift.
    """
    rows = [(prediction.method, prediction.variant) for prediction in predictions]
    labels = labels_of(rows)
    titles = [
        [wrapped(f"{labels[row]}: {kind}", _PANEL_WIDTH) for kind in ("prediction", "error")]
        for row in rows
    ]
    height = 2.15 + extra_height([title for title, _ in titles])
    figure = Figure(figsize=(7.2, height * len(predictions) + 0.3), layout="constrained")
    add_title(figure, f"{function_title(function)}, seed {seed}")
    axes = figure.subplots(len(predictions), 3, squeeze=False)
    targets = [prediction.target() for prediction in predictions]
    known = np.concatenate([target for target in targets if target is not None])
    levels = levels_between(float(known.min()), float(known.max()))
    error_levels = levels_around_zero(_errors(predictions), ERROR_SHARE)
    for row, own, prediction, target in zip(axes, titles, predictions, targets, strict=True):
        for axis, title in zip(row[1:], own, strict=True):
            axis.set_title(title)
        if prediction.problem is None or target is None:
            label_square(row[0])
        else:
            row[0].set_title(target_title(prediction.problem))
            contours = draw(row[0], target, levels, open_ended=True)
            add_colourbar(contours, list(row[:2]), "value (standardised)")
        if target is None or prediction.values is None:
            for axis in row[1:]:
                axis.set_axis_off()
                axis.text(0.5, 0.5, prediction.status, transform=axis.transAxes, ha="center")
            continue
        draw(row[1], prediction.values, levels, open_ended=True)
        errors = draw(
            row[2], prediction.values - target, error_levels, diverging=True, open_ended=True
        )
        add_colourbar(errors, [row[2]], "error (standardised)")
    return figure


def _errors(predictions: list[Prediction]) -> list[Array]:
    """The errors that set the colour scale: the adapters', or all where no adapter has any."""
    known = [
        (p.method, p.values - target)
        for p in predictions
        if p.values is not None and (target := p.target()) is not None
    ]
    chosen = [errors for method, errors in known if method not in REFERENCES]
    return chosen or [errors for _, errors in known] or [np.zeros(1)]
