"""Texts that tell an adapter which target it faces, generated from the target's parameters.

A target (function, shift, rotation) has one meaning and several wordings. The first `TRAINED` are
for training; the others are held out, to check that a method reads and does not memorise.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qlexp.config.schema import Config, FunctionConfig, InstructionConfig, ShiftConfig
from qlexp.errors import UsageError
from qlexp.problem.encoders import embed
from qlexp.problem.functions import FUNCTIONS
from qlexp.problem.seeding import seed_stream
from qlexp.problem.targets import Split

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


def with_instruction(config: Config) -> Config:
    """`config` with the instruction that its method reads; without one where it reads none.

    So a sweep over instructions stores a method that cannot read them once.

    Raises:
        UsageError: the method reads a text and there is none, or it is of another size.
    """
    wanted = config.method.config.instruction_size
    if wanted is None:
        return replace(config, instruction=InstructionConfig())
    settings = config.instruction
    require_text(config.method.name, wanted, settings)
    if settings.control == "shuffled" and config.shift.targets == 1:
        raise UsageError(
            "instruction.control=shuffled deals out the targets' texts: set shift.targets to at "
            "least 2."
        )
    embed([""], settings.encoder, settings.folder, settings.dim)
    return config


def require_text(method: str, wanted: int, settings: InstructionConfig) -> None:
    """Refuses `settings` without a text of the `wanted` numbers that a method reads.

    Raises:
        UsageError: there is no text, or it is of another size.
    """
    if settings.encoder == "none":
        raise UsageError(
            f"method={method} reads an instruction: choose instruction=hashing or "
            "instruction=minilm."
        )
    if settings.dim != wanted:
        raise UsageError(
            f"method={method} reads {wanted} numbers of an instruction and "
            f"instruction.dim={settings.dim}: make them equal."
        )


def encode(config: Config, split: Split, held_out: bool = False) -> NDArray[np.float64] | None:
    """e(z) of every sample of a split of targets, (n, d_e); None where the method reads none.

    The samples of a target take its wordings in turn: training's, or the held-out ones. Shuffled
    texts are dealt out to the samples by a stream of the function and seed, so that they say
    nothing of the target.
    """
    settings = config.instruction
    if settings.encoder == "none":
        return None
    shifts = split.shifts
    told = split.target
    if settings.control == "shuffled":
        stream = seed_stream(config.function.name, config.seed, "shuffled instructions")
        told = np.random.default_rng(stream).permutation(told)
    wordings = range(TRAINED, TRAINED + HELD_OUT) if held_out else range(TRAINED)
    texts = [
        "" if settings.control == "empty" else describe(config.function, shift, wording)
        for shift in shifts
        for wording in wordings
    ]
    table = embed(texts, settings.encoder, settings.folder, settings.dim)
    turn = np.empty_like(told)
    for index in range(len(shifts)):
        own = told == index
        turn[own] = np.arange(own.sum()) % len(wordings)
    return table[told * len(wordings) + turn]
