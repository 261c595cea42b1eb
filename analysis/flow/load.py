"""The gradient norms of a study's stored runs, as rows."""

from collections import Counter
from collections.abc import Sequence
from itertools import compress

import numpy as np
import pandas as pd

from analysis.cells import RowName, cells_of, rows_of
from analysis.curves import GRADIENT, Curves, layer_columns, load_curves
from analysis.flow.measures import Array
from analysis.flow.rows import Row
from analysis.names import row_label
from qlexp.adapters.stored import stored_config
from qlexp.config.schema import Config
from qlexp.errors import UsageError
from qlexp.model.backbone import Backbone, layer_of
from qlexp.model.initial import Shapes
from qlexp.store.store import Store


def load_rows(store: Store, cells: pd.DataFrame) -> list[Row]:
    """The rows of one budget; methods without a layer to train, or all diverged, have none.

    Args:
        cells: finished ones, with the column `variant`.

    Raises:
        UsageError: curves are not readable, or the runs of a row were recorded at other updates or
            have other layers.
    """
    done, diverged = (cells[cells["status"] == status] for status in ("done", "diverged"))
    counts: dict[str, Counter[str]] = {}  # by the method's shape: resolving a config takes time
    rows = []
    for name in rows_of(done):
        places = cells_of(done, name)
        read = [load_curves(store, identity) for identity in places["run_id"]]
        trained = [len(curves["step"]) > 0 and bool(layer_columns(curves)) for curves in read]
        if not any(trained):
            continue
        places = places[trained]
        read = list(compress(read, trained))
        parameters = [
            _parameters(store, identity, layer_columns(curves), shape, counts)
            for identity, curves, shape in zip(places["run_id"], read, _shapes(places), strict=True)
        ]
        _refuse_unlike(name, read)
        rows.append(
            Row.measured(
                name,
                places[["function", "seed", "backbone_id"]],
                steps=read[0]["step"],
                norms=np.stack([_inside(curves) for curves in read]),
                outside=np.stack([_outside(curves) for curves in read]),
                parameters=np.array(parameters, dtype=float),
                diverged=Counter(cells_of(diverged, name)["function"]),
            )
        )
    return rows


def _refuse_unlike(name: RowName, read: Sequence[Curves]) -> None:
    if any(not np.array_equal(curves["step"], read[0]["step"]) for curves in read):
        raise UsageError(
            f"The runs of {row_label(*name)} were recorded at different updates: give rows "
            "that train for another time another method name."
        )
    depths = sorted({len(layer_columns(curves)) for curves in read})
    if len(depths) > 1:
        raise UsageError(
            f"The runs of {row_label(*name)} have gradients in {' and '.join(map(str, depths))} "
            "layers: give rows with another backbone another method name."
        )


def _inside(curves: Curves) -> Array:
    """The norm of each layer, (R, layers)."""
    return np.stack([curves[name] for name in layer_columns(curves)], axis=-1)


def _outside(curves: Curves) -> Array:
    """The squared norm of what belongs to no layer, (R,)."""
    inside = layer_columns(curves)
    names = [name for name in curves if name.startswith(GRADIENT) and name not in inside]
    return np.square([curves[name] for name in names]).sum(0) + np.zeros(len(curves["step"]))


def _shapes(cells: pd.DataFrame) -> list[str]:
    """What the parameters of a run's layers depend on, as texts."""
    return [
        repr(list(row)) for row in cells.filter(regex=r"^config\.(backbone|method)\.").to_numpy()
    ]


def _parameters(
    store: Store, identity: str, columns: Sequence[str], shape: str, counts: dict[str, Counter[str]]
) -> list[int]:
    """Trainable parameters of each layer of a run; adds to `counts` what it lacks."""
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
