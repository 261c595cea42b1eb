"""The ticks of logarithmic axes."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullFormatter

_FEWEST, _MOST = 3, 6
_EVEN = MaxNLocator(_MOST - 1, steps=[1, 2, 5, 10], min_n_ticks=_FEWEST)
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class LogTicks(Locator):
    """Three to seven ticks: powers of ten (every second, third... of many); where fewer than three
    are in view, 1 and 3 of a decade, then 1, 2 and 5, then even steps."""

    def __call__(self) -> Sequence[float]:
        assert self.axis is not None
        low, high = self.axis.get_view_interval()
        return self.tick_values(low, high)

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        low, high = sorted((vmin, vmax))
        if not 0 < low < high < math.inf:
            return []
        decades = np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for leads in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
            ticks = _within(np.outer(10.0**decades, leads).ravel(), low, high)
            if len(ticks) >= _FEWEST:
                return ticks[:: math.ceil(len(ticks) / _MOST)]
        return _within(_EVEN.tick_values(low, high), low, high)


def _within(ticks: Iterable[float], low: float, high: float) -> list[float]:
    slack = 1 + 1e-9
    return [tick for tick in ticks if low / slack <= tick <= high * slack]


def number_text(value: float, _: int | None = None) -> str:
    """`0.05`, `300`, and below 0.001 or from 100,000 on `5×10⁻⁴`, without markup."""
    if value == 0 or 1e-3 * (1 - 1e-9) <= abs(value) < 1e5:
        return f"{value:g}"
    lead, exponent = f"{value:e}".split("e")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
    return power if float(lead) == 1 else f"{float(lead):g}×{power}"


def log_ticks(axis: Axis) -> None:
    """Gives a logarithmic axis its ticks; small ones without a number between powers of ten."""
    axis.set_major_locator(LogTicks())
    axis.set_major_formatter(FuncFormatter(number_text))
    axis.set_minor_locator(LogLocator(subs=range(2, 10)))
    axis.set_minor_formatter(NullFormatter())
