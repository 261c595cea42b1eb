"""Claims of one's own: a YAML file with a list of gains of one method over another.

An entry has the fields of `Entry`; `examples/extending/claim/` is one to copy.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from analysis.claims.evidence import LOSS, TEXT_LOSSES
from analysis.claims.measures import gain
from analysis.claims.rules import AT_LEAST, LITTLE, Claim
from analysis.load import LOSSES
from analysis.names import function_title
from analysis.stats.pairs import BASELINE
from qlexp.errors import UsageError, unknown_name
from qlexp.problem.functions import FUNCTIONS


@dataclass
class Entry:
    """One entry of the file: how far the loss of `method` lies below that of another.

    Attributes:
        functions: over which the mean is taken; none: all of the study.
        at_least: the smallest gain of interest, a ratio above 1; or
        little: the ratio, above 1, by which it is neither better nor worse.
    """

    name: str = MISSING
    text: str = MISSING
    method: str = MISSING
    against: str = BASELINE
    functions: list[str] = field(default_factory=list)
    loss: str = LOSS
    at_least: float | None = None
    little: float | None = None


def read_claims(path: str | Path) -> list[Claim]:
    """The claims of a file.

    Raises:
        UsageError: it is not readable, or an entry is no claim.
    """
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"Could not read the claims in {path}: {reason}.") from error
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{path} holds no claims: it wants a list of entries, each with a name.")
    claims = [_claim(entry, f"{path}, entry {i}") for i, entry in enumerate(entries, start=1)]
    names = [claim.name for claim in claims]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"{path} has several claims called {', '.join(sorted(twice))}.")
    return claims


def _claim(values: object, place: str) -> Claim:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Entry), values)
        entry = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise UsageError(f"{place}: {str(error).splitlines()[0]}.") from error
    assert isinstance(entry, Entry)
    if entry.loss not in (losses := (*LOSSES, *TEXT_LOSSES)):
        raise unknown_name("loss", entry.loss, losses)
    ratios = {AT_LEAST: entry.at_least, LITTLE: entry.little}
    asked = {rule: ratio for rule, ratio in ratios.items() if ratio is not None}
    if len(asked) != 1 or min(asked.values()) <= 1:
        raise UsageError(f"{place}: give either at_least or little, a ratio above 1.")
    ((rule, smallest),) = asked.items()
    for function in entry.functions:
        if function not in FUNCTIONS:
            raise unknown_name("function", function, FUNCTIONS)
    on = ", ".join(map(function_title, entry.functions)) or "all functions"
    measure = f"{entry.loss.replace('_', ' ')} of {entry.against} over that of {entry.method}: {on}"
    compute = partial(gain, entry.method, entry.against, functions=entry.functions, loss=entry.loss)
    source = place.partition(", ")[0]
    return Claim(entry.name, entry.text, source, measure, compute, "", rule, smallest)
