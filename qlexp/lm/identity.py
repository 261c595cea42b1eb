"""What identifies a run on a language model, and the frozen model's evaluation."""

from qlexp.config.identity import digest, identifying
from qlexp.lm.schema import LmConfig

NUMERICS_VERSION = 1  # part of every id: raised when the same config gives other numbers


def run_id(config: LmConfig) -> str:
    """Identity of a run: 16 hexadecimal digits."""
    return digest(identifying(config), _numerics())


def backbone_id(config: LmConfig) -> str:
    """Identity of what the frozen model does on a run's samples."""
    values = identifying(config)
    shared = ("model", "task", "data", "retention", "seed", "precision")
    return digest({name: values[name] for name in shared}, _numerics())


def _numerics() -> str:
    return f"language {NUMERICS_VERSION}"
