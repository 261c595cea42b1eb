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
    ("method=comol", "79c0437d1134bb6c", "f9dd90d55ddb3ab7"),
    ("method=core", "1532df65a4bea1e5", "f9dd90d55ddb3ab7"),
    ("method=core_block", "94f8404efdcddd28", "f9dd90d55ddb3ab7"),
    ("method=core_network", "5cb6ba515c4ae30d", "f9dd90d55ddb3ab7"),
    ("method=dora", "d342ebd2ef05ee9f", "f9dd90d55ddb3ab7"),
    ("method=doran", "395ed23dcbfea775", "f9dd90d55ddb3ab7"),
    ("method=frozen", "d7d4480914a74d56", "f9dd90d55ddb3ab7"),
    ("method=full", "91ac976388daba9f", "f9dd90d55ddb3ab7"),
    ("method=full_adamw", "ad9c8813851662eb", "f9dd90d55ddb3ab7"),
    ("method=hira", "dce080fa1c474f95", "f9dd90d55ddb3ab7"),
    ("method=hyra", "02b9d22da4e03f1b", "f9dd90d55ddb3ab7"),
    ("method=instruction_queryable instruction=hashing", "7b4934fb15eb77e7", "f9dd90d55ddb3ab7"),
    ("method=ld_mole", "8d9e7333a4c922c4", "f9dd90d55ddb3ab7"),
    ("method=lily", "41e11a5e9755614d", "f9dd90d55ddb3ab7"),
    ("method=lora", "0faff69ad7377bd3", "f9dd90d55ddb3ab7"),
    ("method=lora_xs", "86d1aa83eb52c1eb", "f9dd90d55ddb3ab7"),
    ("method=mix_lora", "f1d6e53584ed6c73", "f9dd90d55ddb3ab7"),
    ("method=moe_lora", "9d6178d9bd872649", "f9dd90d55ddb3ab7"),
    ("method=nara", "6bd94617fe40e51e", "f9dd90d55ddb3ab7"),
    ("method=prior_only instruction=hashing", "36ead0d0181d7a25", "f9dd90d55ddb3ab7"),
    ("method=query_only instruction=hashing", "b6a21ad5611e75dd", "f9dd90d55ddb3ab7"),
    ("method=queryable method.bank=block", "ebb9cd942efc1a1f", "f9dd90d55ddb3ab7"),
    ("method=queryable method.routing=static", "b24e34b0adac4caa", "f9dd90d55ddb3ab7"),
    ("method=queryable", "5b060db601c47b9f", "f9dd90d55ddb3ab7"),
    ("method=rep_lora", "91a9eb87792569da", "f9dd90d55ddb3ab7"),
    ("method=rslora", "3b819cdeb3746912", "f9dd90d55ddb3ab7"),
    ("method=shared_lora", "3289dc595c979cb4", "f9dd90d55ddb3ab7"),
    ("method=text_to_lora instruction=hashing", "90c38617fcd5aa97", "f9dd90d55ddb3ab7"),
    ("method=vb_lora", "be3629b19a914148", "f9dd90d55ddb3ab7"),
    ("method=vera", "e42819de60a315d0", "f9dd90d55ddb3ab7"),
    ("function=matyas seed=3", "88f79a1f6bb586f7", "51e98df61e6a3172"),
    ("function=himmelblau seed=3", "9f5c1fa661177fcd", "69bb555e14cbb832"),
    ("function=six_hump_camel seed=3", "d6c5f03399fa731e", "1dae73a238264ff2"),
    ("function=levy seed=3", "5522c01f8552d644", "906cf701d1d16c7e"),
    ("shift.places=[[0.2,0],[0,30],[-0.2,0]]", "f3d2a528b86bf0ba", "f9dd90d55ddb3ab7"),
    (
        "shift.places=[[0.2,0],[0,30],[-0.2,0]] shift.order=sequence",
        "e8c3b8612d6508e8",
        "f9dd90d55ddb3ab7",
    ),
    ("shift.targets=8", "d6abfc79236b9340", "f9dd90d55ddb3ab7"),
    ("optimizer=soap", "f7e15753135c522f", "f9dd90d55ddb3ab7"),
    (
        "budget=lora_r8 method=queryable backbone=paper trainer=paper",
        "a76ab557b6c11d1d",
        "1859c53f8d5331e7",
    ),
    ("backbone=deep_narrow trainer=smoke data.noise=0", "051d871256cf8a1d", "628ee1c7c4107dbc"),
    ("precision=float64 shift=none", "485d272aabe0e7d6", "f9dd90d55ddb3ab7"),
    ("trainer.r2_floor=0.5 device=cpu compile=true", "0faff69ad7377bd3", "f9dd90d55ddb3ab7"),
    ("trainer.record_every=7 trainer.loss_ceiling=3", "5d01585c0e9e317b", "f9dd90d55ddb3ab7"),
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
