"""The target of a function, what each method predicts, and the error: a row a method."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from analysis.figures.contours import (
    Array,
    add_colourbar,
    draw,
    grid,
    levels_around_zero,
    levels_between,
)
from analysis.names import REFERENCES, function_title, row_label
from qlexp.targets import Problem
from qlexp.training import predict

SIDE = 121
ERROR_SHARE = 0.99  # of the adapters' errors that the colours cover


@dataclass(frozen=True)
class Prediction:
    """A method's values on `grid(SIDE)`, or None with the run's status where there are none."""

    method: str
    variant: str
    status: str
    values: Array | None


def evaluate(adapter: nn.Module, side: int = SIDE) -> Array:
    """The values (side * side,) of a one-lane model on the grid."""
    like = next(adapter.parameters(), torch.empty(0))
    points = torch.as_tensor(grid(side)[None], dtype=like.dtype, device=like.device)  # (1, N, 2)
    adapter.eval()
    values: Array = predict(adapter, points)[0].double().cpu().numpy()
    return values


def predictions_figure(
    function: str, seed: int, problem: Problem, predictions: list[Prediction]
) -> Figure:
    """Target, prediction and error (prediction minus target), on the standardised scale."""
    target = problem.target(grid(SIDE))
    figure = Figure(figsize=(7.2, 2.15 * len(predictions) + 0.3), layout="constrained")
    figure.suptitle(f"{function_title(function)}, seed {seed}")
    axes = figure.subplots(len(predictions), 3, squeeze=False)
    levels = levels_between(float(target.min()), float(target.max()))
    error_levels = levels_around_zero(_errors(predictions, target), ERROR_SHARE)
    for row, prediction in zip(axes, predictions, strict=True):
        name = row_label(prediction.method, prediction.variant)
        row[0].set_title("target")
        row[1].set_title(f"{name}: prediction")
        row[2].set_title(f"{name}: error")
        contours = draw(row[0], target, levels, open_ended=True)
        add_colourbar(contours, list(row[:2]), "value (standardised)")
        if prediction.values is None:
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


def _errors(predictions: list[Prediction], target: Array) -> list[Array]:
    """The errors that set the colour scale: the adapters', or all where no adapter has any."""
    known = [p for p in predictions if p.values is not None]
    chosen = [p for p in known if p.method not in REFERENCES] or known
    return [p.values - target for p in chosen if p.values is not None] or [np.zeros(1)]
