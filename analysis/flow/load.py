"""The runs of a study with what is said of their gradients: a frame, one row a run."""

from collections import Counter
from collections.abc import Sequence
from itertools import compress

import numpy as np
import pandas as pd

from analysis.cells import cells_of, rows_of
from analysis.curves import GRADIENT, Curves, layer_columns, load_curves
from analysis.flow.measures import Array, measures
from analysis.names import row_label
from qlexp.adapters.stored import stored_config
from qlexp.config.schema import Config
from qlexp.errors import UsageError
from qlexp.model.backbone import Backbone, layer_of
from qlexp.model.initial import Shapes
from qlexp.store.store import Store

ROW = ["budget", "method", "variant"]
PLACE = ["function", "seed", "backbone_id"]


def load_runs(store: Store, frame: pd.DataFrame) -> pd.DataFrame:
    """The runs of a long table that did not diverge and have gradients, rows as in the tables.

    Columns: those of `ROW` and `PLACE` and of `with_measures`, with each run's arrays as its cells.

    Raises:
        UsageError: curves are not readable, or the runs of a row were recorded at other updates or
            have other layers.
    """
    done = frame.loc[frame["status"] == "done", [*ROW, *PLACE, "run_id"]]
    shapes = frame.filter(regex=r"^config\.(backbone|method)\.").loc[done.index]
    done = done.assign(shape=[repr(list(shape)) for shape in shapes.to_numpy()])
    counts: dict[str, Counter[str]] = {}
    rows = [
        _with_curves(store, cells_of(part, row), counts)
        for _, part in done.groupby("budget", sort=False)
        for row in rows_of(part)
    ]
    rows = [row for row in rows if len(row)]
    return pd.concat(rows, ignore_index=True) if rows else done.iloc[:0]


def _with_curves(
    store: Store, cells: pd.DataFrame, counts: dict[str, Counter[str]]
) -> pd.DataFrame:
    """The cells of one row that have gradients in a layer, with their measures."""
    read = [load_curves(store, identity) for identity in cells["run_id"]]
    trained = [len(curves["step"]) > 0 and bool(layer_columns(curves)) for curves in read]
    cells, read = cells[trained], list(compress(read, trained))
    if not read:
        return cells
    _refuse_unlike(cells.iloc[0], read)
    return with_measures(
        cells[[*ROW, *PLACE]],
        steps=read[0]["step"],
        norms=np.stack([_inside(curves) for curves in read]),
        outside=np.stack([_outside(curves) for curves in read]),
        parameters=np.array(
            [
                _parameters(store, identity, layer_columns(curves), shape, counts)
                for identity, shape, curves in zip(
                    cells["run_id"], cells["shape"], read, strict=True
                )
            ]
        ),
    )


def with_measures(
    places: pd.DataFrame, *, steps: Array, norms: Array, outside: Array, parameters: Array
) -> pd.DataFrame:
    """`places`, a row a run, with its `measures` (norms, outside and parameters as there), and

    steps (R,): updates done before each recorded one; norms (R, layers); parameters (layers,).
    """
    found = {"norms": norms, "parameters": parameters, **measures(norms, outside, parameters)}
    columns = {name: list(values) for name, values in found.items()}
    return places.assign(steps=[steps] * len(places), **columns)


def _refuse_unlike(first: pd.Series, read: Sequence[Curves]) -> None:
    label = row_label(first["method"], first["variant"])
    if any(not np.array_equal(curves["step"], read[0]["step"]) for curves in read):
        raise UsageError(
            f"The runs of {label} were recorded at different updates: give rows that train for "
            "another time another method name."
        )
    depths = sorted({len(layer_columns(curves)) for curves in read})
    if len(depths) > 1:
        raise UsageError(
            f"The runs of {label} have gradients in {' and '.join(map(str, depths))} layers: give "
            "rows with another backbone another method name."
        )


def _inside(curves: Curves) -> Array:
    """The norm of each layer, (R, layers)."""
    return np.stack([curves[name] for name in layer_columns(curves)], axis=-1)


def _outside(curves: Curves) -> Array:
    """The squared norm of what belongs to no layer, (R,)."""
    inside = layer_columns(curves)
    names = [name for name in curves if name.startswith(GRADIENT) and name not in inside]
    return np.square([curves[name] for name in names]).sum(0) + np.zeros(len(curves["step"]))


def _parameters(
    store: Store, identity: str, columns: Sequence[str], shape: str, counts: dict[str, Counter[str]]
) -> list[int]:
    """Trainable parameters of each layer of a run; adds what `counts` lacks, by the shape of
    backbone and method: resolving a config takes time."""
    if shape not in counts:
        counts[shape] = layer_parameters(stored_config(store, identity))
    layers = [name.removeprefix(GRADIENT) for name in columns]
    if empty := [layer for layer in layers if not counts[shape][layer]]:
        raise UsageError(
            f"The curves of run {identity} have gradients of {', '.join(empty)}, where its "
            f"method trains nothing: delete {store.run_folder(identity)} and run the study again."
        )
    return [counts[shape][layer] for layer in layers]


def layer_parameters(config: Config) -> Counter[str]:
    """Trainable parameters by layer, under the names of the curves, without drawing any."""
    shapes, method = Shapes(), config.method
    adapter = method.kind(Backbone(config.backbone, shapes), method.config, shapes)
    counts: Counter[str] = Counter()
    for name, parameter in adapter.trainable().items():
        counts[layer_of(name)] += parameter.numel()
    return counts
