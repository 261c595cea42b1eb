"""Texts that tell an adapter which target it faces, generated from the target's parameters.

A target (function, shift, rotation) has one meaning and several wordings. The first `TRAINED` are for
training; the others are held out, to check that a method reads and does not memorise.
"""

from qlexp.config import FunctionConfig, ShiftConfig
from qlexp.functions import FUNCTIONS

_WORDINGS = (
    "{title} surface, {coefficients}, {turn}",
    "adapt to {title} with {coefficients} and {turn}",
    "target: {title}; {turn}; {coefficients}",
    "the {title} function, {turn}, after {coefficients}",
    "{coefficients} on the {title} landscape, and {turn}",
)
TRAINED = 3
HELD_OUT = len(_WORDINGS) - TRAINED


def describe(function: FunctionConfig, shift: ShiftConfig, wording: int = 0) -> str:
    """The instruction of a target, such as "drop-wave surface, ripple frequency raised by 20 %,
    output turned by 15 degrees".

    Args:
        wording: below `TRAINED` one of training's, up to `TRAINED + HELD_OUT - 1` a held-out one.
    """
    entry = FUNCTIONS[function.name]
    return _WORDINGS[wording].format(
        title=entry.title.lower(),
        coefficients=_coefficients(shift),
        turn=f"output turned by {shift.rotation:g} degrees" if shift.rotation else "no turn",
    )


def _coefficients(shift: ShiftConfig) -> str:
    if not shift.strength:
        return "coefficients unchanged"
    names = "all coefficients"
    if shift.coefficients is not None:
        names = " and ".join(name.replace("_", " ") for name in shift.coefficients)
    direction = "raised" if shift.strength > 0 else "lowered"
    return f"{names} {direction} by {100 * abs(shift.strength):g} %"
