"""The views that are commands of their own still, as the report takes them. Goes with the last."""

from argparse import Namespace
from types import SimpleNamespace
from typing import Any

from analysis import continual, gradients, routing, stats
from analysis.ablation import tables as ablation
from analysis.figures.curves import curves_figure
from analysis.figures.targets import problems_of, targets_figure
from analysis.load import finished
from analysis.names import budget_order, budget_title
from analysis.outputs import Picture
from analysis.settings import require_one, swept
from analysis.statistics.pairs import paired
from analysis.study import Study
from analysis.trained import queryable_cells
from analysis.view import Shown
from qlexp.errors import UsageError


def show_stats(study: Study, options: Namespace) -> Shown:
    frame, tuning = study.kept
    require_one(frame, study.name)
    cells = paired(frame, stats.DEFAULT)
    if cells.empty:
        raise UsageError(f"Study '{study.name}' has no finished run to compare.")
    found = stats.compare(frame, cells, tuning)
    grids = {grid.label: [grid] for grid in found.grids(study.name)}
    return Shown(grids, found.tables, found.pictures())


def show_ablation(study: Study, options: Namespace) -> Shown:
    axes = swept(study.frame)
    if not axes or finished(study.frame).empty:
        raise UsageError(f"Study '{study.name}' sweeps no setting.")
    tables = ablation.ablation_tables(study.frame, axes, ablation.LOSS, study.name)
    return Shown(
        {grid.label: [grid] for grid, _ in tables},
        pictures=ablation.pictures(tables[0][1], axes, ablation.LOSS, axes),
    )


def show_continual(study: Study, options: Namespace) -> Shown:
    if not continual.in_sequence(study.frame):
        raise UsageError(f"Study '{study.name}' has no run over targets in sequence.")
    frame = continual.with_measures(study.store, study.frame, study.name)
    grid = continual.continual_grid(frame, continual.measure_blocks(frame), study.name)
    return Shown({"continual": [grid]}, pictures=continual.pictures(frame))


def show_gradients(study: Study, options: Namespace) -> Shown:
    blocks = gradients.load_blocks(study.store, study.frame)
    if not gradients.has_depth(blocks):
        raise UsageError(f"Study '{study.name}' has no gradients over depth.")
    grid = gradients.gradient_grid(blocks, study.frame, study.name)
    grids = [grid, *gradients.pair_grids(blocks, study.name)]
    return Shown({"gradients": grids}, pictures=gradients.pictures(blocks, study.name))


def show_figures(study: Study, options: Namespace) -> Shown:
    if finished(study.frame).empty:
        raise UsageError(f"Study '{study.name}' has no finished run to draw.")
    curves = [
        Picture(
            f"curves_{budget}",
            f"Training loss over the updates of the adaptation. {budget_title(budget)}. "
            "Lines: mean over seeds; bands: the range between them.",
            curves_figure(study.store, study.frame[study.frame["budget"] == budget]),
        )
        for budget in sorted(study.frame["budget"].unique(), key=budget_order)
    ]
    caption = "Clean source, clean target and their difference over the scaled inputs, by function."
    figure = targets_figure(problems_of(study.store, study.frame))
    return Shown(pictures=[*curves, Picture("targets", caption, figure)])


def show_routing(study: Study, options: Namespace) -> Shown:
    looked = queryable_cells(study.frame, study.name)
    runs = routing.load_runs(study.store, looked)
    blocks, similar = routing.block_cells(looked, runs), routing.similarity_cells(looked, runs)
    return Shown(
        {"routing": routing.grids(blocks, similar, study.frame, study.name)},
        pictures=(
            routing.map_picture(study.store, looked, name) for name in looked["function"].unique()
        ),
    )


UNCONVERTED: dict[str, Any] = {
    name.removeprefix("show_"): SimpleNamespace(show=function)
    for name, function in list(globals().items())
    if name.startswith("show_")
}
