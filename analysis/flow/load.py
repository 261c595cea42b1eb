"""The runs of a study with what is said of their gradients: a frame, one row a run."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.benchmark import LANGUAGE, SYNTHETIC, benchmark_of
from analysis.cells import ROW
from analysis.curves import GRADIENT, layer_columns, load_curves
from analysis.flow.measures import measures
from analysis.names import row_label
from analysis.rows import by_row
from qlexp.adapters.stored import stored_config
from qlexp.config.schema import Config
from qlexp.errors import UsageError
from qlexp.model.backbone import Backbone, layer_of
from qlexp.model.initial import Shapes
from qlexp.store.files import read_tensors
from qlexp.store.store import Store

PLACE = ["function", "seed", "backbone_id"]
Count = Callable[[Store, str], Counter[str]]  # trainable parameters of a run by layer


def load_runs(store: Store, frame: pd.DataFrame) -> pd.DataFrame:
    """The runs of a long table that did not diverge and have gradients, rows as in the tables.

    Columns: those of the cell (`ROW`, `PLACE`); those of the curves, whose cells are arrays: steps
    (R,), the updates done before each recorded one, norms (R, layers), and parameters (layers,),
    the trainable ones; and the `measures`.

    Raises:
        UsageError: curves are not readable, or the runs of a row were recorded at other updates or
            have other layers.
    """
    done = frame.loc[frame["status"] == "done", [*ROW, *PLACE, "run_id"]]
    settings = frame.filter(regex=r"^config\.(backbone|model|method)\.").loc[done.index]
    recorded = pd.DataFrame([_recorded(store, run) for run in done["run_id"]], done.index)
    runs = done.assign(shape=list(map(repr, settings.to_numpy().tolist()))).join(recorded)
    if runs.empty or (runs := runs[runs["norms"].map(np.size) > 0]).empty:
        return runs
    count = COUNTS[benchmark_of(frame).name]
    runs = runs.assign(parameters=list(_parameters(store, runs, count)))
    return pd.concat([with_measures(row) for _, row in by_row(runs)], ignore_index=True)


def _recorded(store: Store, identity: str) -> dict[str, Any]:
    curves = load_curves(store, identity)
    inside, steps = layer_columns(curves), curves["step"]
    elsewhere = [curves[n] for n in curves if n.startswith(GRADIENT) and n not in inside]
    return {
        "steps": steps,
        "layers": [name.removeprefix(GRADIENT) for name in inside],
        "norms": np.stack([curves[name] for name in inside], axis=-1) if inside else np.empty(0),
        "elsewhere": np.square(elsewhere).sum(0) + np.zeros(len(steps)),
    }


def _parameters(store: Store, runs: pd.DataFrame, count: Count) -> Iterable[list[int]]:
    """Trainable parameters of each layer, by run."""
    counts = {  # one of each shape: it takes time
        run.shape: count(store, run.run_id) for run in runs.drop_duplicates("shape").itertuples()
    }
    for identity, shape, layers in runs[["run_id", "shape", "layers"]].itertuples(index=False):
        if empty := [layer for layer in layers if not counts[shape][layer]]:
            raise UsageError(
                f"The curves of run {identity} have gradients of {', '.join(empty)}, where its "
                f"method trains nothing: delete {store.run_folder(identity)} and run the study "
                "again."
            )
        yield [counts[shape][layer] for layer in layers]


def layer_parameters(config: Config) -> Counter[str]:
    """Trainable parameters by layer, under the names of the curves, without drawing any."""
    shapes, method = Shapes(), config.method
    adapter = method.kind(Backbone(config.backbone, shapes), method.config, shapes)
    counts: Counter[str] = Counter()
    for name, parameter in adapter.trainable().items():
        counts[layer_of(name)] += parameter.numel()
    return counts


def _resolved_parameters(store: Store, identity: str) -> Counter[str]:
    return layer_parameters(stored_config(store, identity))


def saved_parameters(store: Store, identity: str) -> Counter[str]:
    """Parameters of a language model's saved adapter by layer, under the names of the curves.

    Raises:
        UsageError: the file is not readable.
    """
    counts: Counter[str] = Counter()
    file = store.run_folder(identity) / "adapter_model.safetensors"  # as peft calls it
    for name, tensor in read_tensors(file).items():
        if layer := re.search(r"\.layers\.(\d+)\.", name):
            counts[f"layer_{layer[1]}"] += tensor.numel()
    return counts


COUNTS: Mapping[str, Count] = {
    SYNTHETIC.name: _resolved_parameters,
    LANGUAGE.name: saved_parameters,
}


def with_measures(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of one row with the `measures` of their norms, elsewhere and parameters."""
    label, steps = row_label(*runs[["method", "variant"]].iloc[0]), runs["steps"].map(tuple)
    depths = sorted(runs["parameters"].map(len).unique())
    if steps.nunique() > 1:
        raise UsageError(
            f"The runs of {label} were recorded at different updates: give rows that train for "
            "another time another method name."
        )
    if len(depths) > 1:
        raise UsageError(
            f"The runs of {label} have gradients in {' and '.join(map(str, depths))} layers: give "
            "rows with another backbone another method name."
        )
    found = measures(*(np.stack(runs[name]) for name in ("norms", "elsewhere", "parameters")))
    return runs.assign(**{name: list(values) for name, values in found.items()})
