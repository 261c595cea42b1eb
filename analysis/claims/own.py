"""Claims of one's own: a YAML file with a list of gains of one method over another.

An entry has the fields of `Entry`; `examples/extending/claim/` is one to copy.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from analysis.claims.measures import loss_ratio
from analysis.claims.rules import BELOW, LITTLE, Claim
from analysis.names import function_title, loss_title
from analysis.stats.pairs import BASELINE
from analysis.study import Study
from qlexp.errors import UsageError, unknown_name
from qlexp.problem.functions import FUNCTIONS


@dataclass
class Entry:
    """One entry of the file: how far the loss of `method` lies below that of another.

    Attributes:
        functions: over which the mean is taken; none: all of the study.
        loss: None: the one that decides.
        at_most: the largest ratio of interest, method over other, below 1; or
        little: the factor, above 1, by which it is neither better nor worse.
    """

    name: str = MISSING
    text: str = MISSING
    method: str = MISSING
    against: str = BASELINE
    functions: list[str] = field(default_factory=list)
    loss: str | None = None
    at_most: float | None = None
    little: float | None = None


def read_claims(path: str | Path, study: Study) -> list[Claim]:
    """The claims of a file, to be answered by a study.

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
    claims = [
        _claim(entry, f"{path}, entry {i}", study) for i, entry in enumerate(entries, start=1)
    ]
    names = [claim.name for claim in claims]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"{path} has several claims called {', '.join(sorted(twice))}.")
    return claims


def _claim(values: object, place: str, study: Study) -> Claim:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Entry), values)
        entry = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise UsageError(f"{place}: {str(error).splitlines()[0]}.") from error
    assert isinstance(entry, Entry)
    benchmark = study.benchmark
    loss = benchmark.chosen(entry.loss, (*benchmark.losses, *benchmark.extra_losses))
    if (entry.at_most is None) == (entry.little is None):
        raise UsageError(f"{place}: give either at_most, a ratio below 1, or little, one above 1.")
    rule, smallest = LITTLE, entry.little or math.nan
    if entry.at_most is not None:
        rule, smallest = BELOW, 1 / entry.at_most if entry.at_most > 0 else math.nan
    if not 1 < smallest < math.inf:
        raise UsageError(f"{place}: at_most is a ratio between 0 and 1, little one above 1.")
    known = dict.fromkeys((*FUNCTIONS, *study.frame["function"]))
    for function in entry.functions:
        if function not in known:
            raise unknown_name("function", function, known)
    on = ", ".join(map(function_title, entry.functions)) or "all functions"
    measure = f"{loss_title(loss)} of {entry.method} over that of {entry.against}: {on}"
    compute = partial(loss_ratio, entry.method, entry.against, functions=entry.functions, loss=loss)
    source = place.partition(", ")[0]
    return Claim(entry.name, entry.text, source, measure, compute, "", rule, smallest)
