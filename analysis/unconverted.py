"""The views that are commands of their own still, as the report takes them. Goes with the last."""

from argparse import Namespace
from types import SimpleNamespace
from typing import Any

from analysis import continual, routing
from analysis.study import Study
from analysis.trained import queryable_cells
from analysis.view import Shown
from qlexp.errors import UsageError


def show_continual(study: Study, options: Namespace) -> Shown:
    if not continual.in_sequence(study.frame):
        raise UsageError(f"Study '{study.name}' has no run over targets in sequence.")
    frame = continual.with_measures(study.store, study.frame, study.name)
    grid = continual.continual_grid(frame, continual.measure_blocks(frame), study.name)
    return Shown({"continual": [grid]}, pictures=continual.pictures(frame))


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
