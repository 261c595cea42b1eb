"""The runs of one method under one budget, and the means over them."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.cells import RowName
from analysis.flow.intervals import Interval, by_function, interval_over_functions
from analysis.flow.measures import THIRDS, Array, measures, scaled
from analysis.names import row_label


@dataclass(frozen=True)
class Row:
    """N runs of one method under one budget that did not diverge, and how many did.

    Attributes:
        runs: one row a run: function, seed, backbone_id, and its `measures`.
        parameters: trainable ones of each layer, (N, layers).
        steps: updates done before each recorded one, (R,).
        norms: of each layer at the recorded updates, (N, R, layers).
        diverged: by function.
    """

    name: RowName
    runs: pd.DataFrame
    parameters: Array
    steps: NDArray[np.int64]
    norms: Array
    diverged: Counter[str]

    @classmethod
    def measured(
        cls,
        name: RowName,
        places: pd.DataFrame,
        *,
        steps: NDArray[np.int64],
        norms: Array,
        outside: Array,
        parameters: Array,
        diverged: Counter[str],
    ) -> "Row":
        """The row of runs with these norms.

        Args:
            places: function, seed and backbone_id of each run.
            norms, outside, parameters: as in `analysis.flow.measures.measures`.
        """
        runs = places.reset_index(drop=True).assign(**measures(norms, outside, parameters))
        return cls(name, runs, parameters, steps, norms, diverged)

    @property
    def label(self) -> str:
        return row_label(*self.name)

    @property
    def depth(self) -> int:
        """How many layers have gradients."""
        return self.norms.shape[2]

    @property
    def functions(self) -> list[str]:
        return list(self.runs["function"].unique())

    @property
    def outside(self) -> float:
        """The share of the squared norm that lies outside the layers."""
        return float(self._interval(self.runs["outside"].to_numpy()).mean)

    @property
    def heat(self) -> Array:
        """The norm at each recorded update, mean over functions and seeds, (R, layers)."""
        means = [group.mean(0) for group in by_function(self.norms, self.runs["function"])]
        heat: Array = np.mean(means, axis=0)
        return heat

    def profile(self, scale: str) -> Interval:
        """The norm of each layer, mean over the recorded updates, (layers,)."""
        norms = scaled(self.norms, self.parameters)[scale]
        return self._interval(norms.mean(1)).above_zero()

    def size(self, scale: str) -> Interval:
        """The norm of a layer, mean over layers and recorded updates, ()."""
        return self._interval(self.runs[scale].to_numpy()).above_zero()

    def evenness(self, scale: str) -> Interval:
        """Mean over the updates at which a layer has a gradient, ()."""
        return self._interval(self.runs[f"evenness_{scale}"].to_numpy()).within_unit()

    def thirds(self) -> Interval:
        """Their shares, means over the updates at which a layer has a gradient, (3,)."""
        return self._interval(self.runs[list(THIRDS)].to_numpy()).within_unit()

    def on(self, function: str) -> "Row":
        """The row of the runs on one function."""
        own = (self.runs["function"] == function).to_numpy()
        return replace(
            self,
            runs=self.runs[own],
            parameters=self.parameters[own],
            norms=self.norms[own],
            diverged=Counter({function: self.diverged[function]}),
        )

    def _interval(self, values: Array) -> Interval:
        return interval_over_functions(by_function(values, self.runs["function"]))
