"""Ids of runs and backbones: what they were, and that a new field leaves them alone."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
from test_config import composed

from qlexp.adapters.lora import LoRA
from qlexp.config.checks import Checked, bounded
from qlexp.config.identity import backbone_id, group_id, run_id
from qlexp.config.roles import Role, added, plays
from qlexp.config.schema import (
    BackboneConfig,
    Component,
    Config,
    DataConfig,
    StageConfig,
    TrainerConfig,
)

GOLDEN = [
    ("method=dora", "ddf5fcec1e808acb", "bcc0accd1728cde9"),
    ("method=doran", "03792c63f2788aeb", "bcc0accd1728cde9"),
    ("method=frozen", "1e068bb84e83c562", "bcc0accd1728cde9"),
    ("method=full", "a4c1686b23a5a230", "bcc0accd1728cde9"),
    ("method=full_adamw", "0bb1278923a27eb0", "bcc0accd1728cde9"),
    ("method=hyra", "42fa71a0e75d95f4", "bcc0accd1728cde9"),
    ("method=instruction_queryable instruction=hashing", "1cdb4749482cf041", "bcc0accd1728cde9"),
    ("method=lily", "28af74ab427f4147", "bcc0accd1728cde9"),
    ("method=lora", "b1bf7ede6d48ed42", "bcc0accd1728cde9"),
    ("method=mix_lora", "b832cdbb6c9f9988", "bcc0accd1728cde9"),
    ("method=moe_lora", "7e4f4893e9428440", "bcc0accd1728cde9"),
    ("method=prior_only instruction=hashing", "3647cfb7ebf4a166", "bcc0accd1728cde9"),
    ("method=query_only instruction=hashing", "9517f499f14944af", "bcc0accd1728cde9"),
    ("method=queryable", "6b7e2231cb4f608a", "bcc0accd1728cde9"),
    ("method=rep_lora", "fa107f2876fafaf6", "bcc0accd1728cde9"),
    ("method=rslora", "affc0e5a54f56fdc", "bcc0accd1728cde9"),
    ("method=shared_lora", "77b464a8588647e4", "bcc0accd1728cde9"),
    ("method=text_to_lora instruction=hashing", "06eb0223126d1128", "bcc0accd1728cde9"),
    ("method=vb_lora", "a966ebe054221258", "bcc0accd1728cde9"),
    ("method=vera", "93fa5719311bca90", "bcc0accd1728cde9"),
    ("function=matyas seed=3", "90880a9210e5981d", "68d98ae4c918455f"),
    ("function=himmelblau seed=3", "b7c94eaba2e37aae", "e982b6f9adef8e83"),
    ("function=six_hump_camel seed=3", "8b098cb5eccb4761", "b1a1da94e80c168f"),
    ("function=levy seed=3", "8fd3ca6032ad34de", "f776a1a2106da6a2"),
    ("shift.places=[[0.2,0],[0,30],[-0.2,0]]", "608a9bc48b9c2552", "bcc0accd1728cde9"),
    (
        "shift.places=[[0.2,0],[0,30],[-0.2,0]] shift.order=sequence",
        "9e04ca929fadc020",
        "bcc0accd1728cde9",
    ),
    ("shift.targets=8", "facbb03ec80c3d45", "bcc0accd1728cde9"),
    ("optimizer=soap", "c386b2cbf1c01560", "bcc0accd1728cde9"),
    (
        "budget=lora_r8 method=queryable backbone=paper trainer=paper",
        "e2735d91fed035df",
        "bbc0e492d5fdcab4",
    ),
    ("backbone=deep_narrow trainer=smoke data.noise=0", "7b6dfe835730c3b6", "aef078fac9fb30ea"),
    ("precision=float64 shift=none", "4ac314641d21bc18", "bd819b2a2c6a3db3"),
    ("trainer.r2_floor=0.5 device=cpu compile=true", "b1bf7ede6d48ed42", "bcc0accd1728cde9"),
    ("trainer.record_every=7 trainer.loss_ceiling=3", "5bf02213b1b8c858", "bcc0accd1728cde9"),
]  # overrides, run_id, backbone_id


@pytest.mark.parametrize(("overrides", "run", "backbone"), GOLDEN, ids=lambda text: text[:40])
def test_ids_are_what_they_were(overrides: str, run: str, backbone: str) -> None:
    """Fails where stored runs would be orphaned: mark a new field by `roles.added`."""
    config = composed(*overrides.split())
    assert (run_id(config), backbone_id(config)) == (run, backbone)


# Configs of a later version: each has a field more.


@dataclass
class LaterData(DataConfig):
    skew: float = added(bounded(0.0, minimum=0.0))


@dataclass
class LaterBackbone(BackboneConfig):
    norms: Any = added(None)


@dataclass
class LaterStage(StageConfig):
    restarts: int = added(1)


@dataclass
class LaterTrainer(TrainerConfig):
    averaged: bool = added(False)


@dataclass
class LaterConfig(Config):
    world: str = plays(Role.PROBLEM, added("flat"))


@dataclass
class LaterLoRA(LoRA.Config):
    dropout: float = added(bounded(0.0, minimum=0.0))


def later(schema: type[Checked], config: Checked, **values: Any) -> Any:
    return schema(**vars(config), **values)


def changed(config: Config, section: str, **values: Any) -> Config:
    """`config` of a version with one more field, which holds its default or is among `values`."""
    trainer = config.trainer
    match section:
        case "data":
            return replace(config, data=later(LaterData, config.data, **values))
        case "backbone":
            return replace(config, backbone=later(LaterBackbone, config.backbone, **values))
        case "trainer":
            return replace(config, trainer=later(LaterTrainer, trainer, **values))
        case "config":
            return later(LaterConfig, config, **values)
        case "method":
            own = later(LaterLoRA, config.method.config, **values)
            return replace(config, method=Component(config.method.kind, own))
        case stage:
            own = later(LaterStage, getattr(trainer, stage), **values)
            return replace(config, trainer=replace(trainer, **{stage: own}))


@pytest.mark.parametrize(
    ("section", "values", "pretraining"),
    [
        ("data", {"skew": 0.5}, True),
        ("backbone", {"norms": ["rms"]}, True),
        ("pretrain", {"restarts": 2}, True),
        ("adapt", {"restarts": 2}, False),
        ("trainer", {"averaged": True}, False),
        ("config", {"world": "round"}, True),
        ("method", {"dropout": 0.1}, False),
    ],
)
def test_an_added_field_keeps_the_ids_until_it_is_used(
    section: str, values: dict[str, Any], pretraining: bool
) -> None:
    config = composed()
    ids = (run_id, backbone_id, group_id)
    before = [identity(config) for identity in ids]
    assert [identity(changed(config, section)) for identity in ids] == before
    used = changed(config, section, **values)
    assert [identity(used) == old for identity, old in zip(ids, before, strict=True)] == [
        False,
        not pretraining,
        False,
    ]


def test_a_field_that_is_not_marked_changes_the_ids() -> None:
    @dataclass
    class Unmarked(DataConfig):
        skew: float = 0.0

    config = composed()
    assert run_id(replace(config, data=later(Unmarked, config.data))) != run_id(config)
