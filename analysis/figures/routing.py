"""The atom that each point's routing weighs most, block by block, beside the target."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from analysis.figures.contours import Array, add_colourbar, draw, label_square, levels_between
from analysis.names import function_title

SIDE = 101
# Okabe and Ito (2008), the last one of Tol's (2021): as many as can be told apart.
_COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#332288"),
)
_OTHER = "#c8c8c8"
_LINE = 27  # letters of a label that fit beside the colour bar


@dataclass(frozen=True)
class Map:
    """One adapter: its target (SIDE²,) and the first atom of every block, (N_b, SIDE²)."""

    label: str
    target: Array
    atoms: NDArray[np.int64]


def routing_figure(function: str, maps: Sequence[Map]) -> Figure:
    """A row an adapter. An atom's colour holds within its row only: banks have no common order."""
    columns = 1 + max(len(own.atoms) for own in maps)
    figure = Figure(figsize=(1.6 * columns + 1.8, 1.9 * len(maps) + 0.4), layout="constrained")
    figure.suptitle(function_title(function) + ": the atom with the largest weight")
    axes = figure.subplots(len(maps), columns, squeeze=False)
    for row, own in zip(axes, maps, strict=True):
        levels = levels_between(float(own.target.min()), float(own.target.max()))
        contours = draw(row[0], own.target, levels)
        row[0].set_title(fill(own.label, _LINE, break_long_words=False), loc="left")
        add_colourbar(contours, [row[0]], "target (standardised)")
        counts = Counter(own.atoms.ravel().tolist())
        order = [atom for atom, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
        colours = {atom: index for index, atom in enumerate(order[: len(_COLOURS)])}
        palette = ListedColormap([*_COLOURS, _OTHER])
        for block, axis in enumerate(row[1:]):
            if block >= len(own.atoms):
                axis.set_axis_off()
                continue
            indices = [colours.get(atom, len(_COLOURS)) for atom in own.atoms[block].tolist()]
            image = axis.imshow(
                np.reshape(indices, (SIDE, SIDE)),
                origin="lower",
                extent=(-1, 1, -1, 1),
                cmap=palette,
                vmin=0,
                vmax=len(_COLOURS),
                interpolation="nearest",
            )
            image.set_rasterized(True)
            axis.set_title(f"block {block + 1}")
            label_square(axis)
        handles = [Patch(color=_COLOURS[i], label=f"atom {atom}") for atom, i in colours.items()]
        if len(order) > len(_COLOURS):
            handles.append(Patch(color=_OTHER, label="others"))
        row[len(own.atoms)].legend(
            handles=handles, loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=6
        )
    return figure
