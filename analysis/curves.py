"""The recorded curves of stored runs."""

from collections.abc import Iterable, Sequence

import numpy as np

from qlexp.errors import UsageError
from qlexp.store.files import read_curve_table
from qlexp.store.store import Store

Curves = dict[str, np.ndarray]  # by column one number a recorded update

GRADIENT = "gradient_norm."
_LAYER = f"{GRADIENT}layer_"


def load_curves(store: Store, identity: str, columns: Sequence[str] = ()) -> Curves:
    """The recorded curves of a stored run.

    Args:
        columns: what is read beside `step`; none: all that there is.

    Raises:
        UsageError: they are not readable, or lack `step` or one of `columns`.
    """
    try:
        wanted = ["step", *columns]
        table = read_curve_table(store.run_folder(identity), wanted if columns else None)
        if missing := set(wanted).difference(table.column_names):
            raise KeyError(", ".join(sorted(missing)))
        curves = {name: table[name].to_numpy() for name in table.column_names}
        if not all(np.issubdtype(values.dtype, np.number) for values in curves.values()):
            raise ValueError("not all columns are numbers")
        return {
            name: values if name == "step" else values.astype(float, copy=False)
            for name, values in curves.items()
        }
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"The curves of run {identity} are not readable ({error}): delete "
            f"{store.run_folder(identity)} and run the study again."
        ) from error


def layer_columns(names: Iterable[str]) -> list[str]:
    """The columns of a run's curves that hold a layer's gradient norm, first layer to last.

    What belongs to a layer; a bank that all layers share has no depth and is not counted.
    """
    own = [name for name in names if name.startswith(_LAYER)]
    return sorted(own, key=lambda name: int(name.removeprefix(_LAYER)))
