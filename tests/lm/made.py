"""Runs of `qlexp-lm` on a tiny random network."""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from qlexp.lm.jobs import register_schema
from qlexp.lm.main import LM_CONF
from qlexp.lm.plan import plan
from qlexp.lm.schema import LmConfig

SMALL = (
    "model=tiny",
    "trainer=smoke",
    "tracking=none",
    "budget=lora_r4",
    "data={train: 24, validation: 6, test: 8, longest: 600}",
    "retention={tokens: 64, samples: 4}",
)


def composed(*overrides: str) -> Any:
    """The config that Hydra composes."""
    register_schema()
    with initialize_config_dir(str(LM_CONF.resolve()), version_base="1.3"):
        return compose("config", overrides=[*SMALL, *overrides])


def planned(*overrides: str, store: Path | str = "store") -> LmConfig:
    """The checked config of a tiny run."""
    return plan(composed(f"store={store}", *overrides))
