"""Conditions: the swept settings that change what all methods of a cell share.

Methods are compared on the same samples and the same frozen network. Where a study sweeps a setting
of the data, the shift, the function, the backbone or the pretraining, its cells lie in different
conditions, and losses of different conditions say nothing of the methods.
"""

import re

import pandas as pd

from analysis.overrides import joined, settings_of
from qlexp.errors import UsageError

_SHARED = re.compile(
    r"(data|shift|function|backbone|(optimizer@)?pretrain_optimizer|trainer\.pretrain)\b|trainer$"
)
_BACKBONE = re.compile(r"backbone\b")


def conditions(frame: pd.DataFrame, backbones: bool = True) -> pd.Series:
    """For each cell its overrides of settings that the methods share, or "".

    Args:
        backbones: whether another backbone is another condition.
    """
    return frame["overrides"].map(lambda text: condition_of(text, backbones))


def is_shared(setting: str) -> bool:
    """Whether a setting changes what all methods of a cell share."""
    return _SHARED.match(setting) is not None


def condition_of(overrides: str, backbones: bool = True) -> str:
    """The condition that the overrides of one cell name; `backbones` as in `conditions`."""
    own = {
        key: value
        for key, value in sorted(settings_of(overrides).items())
        if is_shared(key) and (backbones or not _BACKBONE.match(key))
    }
    return joined(own)


def require_one(frame: pd.DataFrame, study: str, backbones: bool = True) -> None:
    """Refuses a study with several conditions.

    Raises:
        UsageError: names two of them.
    """
    found = list(dict.fromkeys(conditions(frame, backbones)))
    if len(found) > 1:
        raise UsageError(
            f"Study '{study}' has losses under {len(found)} conditions ({found[0] or 'defaults'}; "
            f"{found[1] or 'defaults'}), which are not compared with each other: render it with "
            f"`python -m analysis.ablation --study {study}`."
        )
