"""The role of every setting, from the schema alone."""

import subprocess
import sys
from dataclasses import fields

import pytest
from test_config import composed

from qlexp.config.identity import plain
from qlexp.config.roles import Role
from qlexp.config.settings import SCHEMAS, flat, is_setting, is_shared, key_of, role_of, told


def test_every_field_plays_a_role() -> None:
    assert all(item.metadata.get("role") in Role for own in SCHEMAS for item in fields(own))


def test_roles_are_known_without_a_model() -> None:
    program = "import sys, qlexp.config.settings; print({'torch', 'transformers'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"


@pytest.mark.parametrize(
    ("key", "role"),
    [
        ("function.coefficients.frequency", Role.PROBLEM),
        ("shift", Role.PROBLEM),
        ("data.noise", Role.PROBLEM),
        ("backbone.width", Role.PROBLEM),
        ("trainer", Role.PROBLEM),
        ("trainer.pretrain.epochs", Role.PROBLEM),
        ("trainer.loss_ceiling", Role.PROBLEM),
        ("trainer.record_every", Role.PROBLEM),
        ("optimizer@pretrain_optimizer", Role.PROBLEM),
        ("pretrain_optimizer.beta1", Role.PROBLEM),
        ("seed", Role.PROBLEM),
        ("method.rank", Role.METHOD),
        ("method.of_my_own", Role.METHOD),
        ("optimizer", Role.METHOD),
        ("trainer.adapt.learning_rate", Role.METHOD),
        ("instruction.control", Role.METHOD),
        ("budget.rank", Role.METHOD),
        ("precision", Role.NUMERICS),
        ("device", Role.PLACE),
        ("compile", Role.PLACE),
        ("tracking.mode", Role.PLACE),
        ("store", Role.PLACE),
        ("trainer.r2_floor", Role.REPORT),
        ("trainer.learning_rate", Role.METHOD),
        ("trainer.steps", Role.METHOD),
        ("trainer.keep", Role.PROBLEM),
        ("model.name", Role.PROBLEM),
        ("model.note", Role.REPORT),
        ("task.order", Role.PROBLEM),
        ("data.train", Role.PROBLEM),
        ("instruction.text", Role.METHOD),
        ("experiment", None),
        ("hydra/launcher", None),
        ("datas", None),
    ],
)
def test_a_role_is_that_of_the_innermost_field_that_names_one(key: str, role: Role | None) -> None:
    assert role_of(key) == role
    assert is_setting(key) == (role in (Role.PROBLEM, Role.METHOD, Role.NUMERICS))
    assert is_shared(key) == (role in (Role.PROBLEM, Role.NUMERICS))


def test_settings_are_what_identifies_a_run_and_its_budget() -> None:
    settings = flat(plain(composed("method=dora", "trainer.adapt.clip=null")))
    assert settings["method._target_"] == "qlexp.adapters.dora.DoRA"
    assert settings["trainer.adapt.clip"] is None
    assert settings["budget.enforce"] is True
    assert settings["method.targets"] == ["qkv", "out", "up", "down"]
    assert not {"device", "store", "study", "trainer.r2_floor", "tracking.mode"} & set(settings)


@pytest.mark.parametrize(
    ("overrides", "asked"),
    [
        (["function=matyas", "method=lora", "seed=1", "budget=lora_r4"], ()),
        (["experiment=smoke", "store=x", "tracking=none", "device=cpu", "hydra.verbose=1"], ()),
        (["++method.rank=2", "backbone=small"], ("method.rank", "backbone")),
        (["data={noise: 0.1}"], ("data.noise", "data.test")),
        (["data.noise=0.1", "+data.noise=0.2"], ("data.noise",)),
        (["task=gcd", "method=queryable", "trainer.learning_rate=1e-3"], ()),
    ],
)
def test_what_the_command_line_gave(overrides: list[str], asked: tuple[str, ...]) -> None:
    config = {"data": {"noise": 0.1, "test": 4}, "method": {"rank": 2}, "device": "cpu"}
    choices = {"backbone": "small", "hydra/launcher": "lanes", "experiment": None, "method": "lora"}
    settings, found = told(config, choices, overrides)
    assert found == asked
    assert settings == {"backbone": "small", "method": "lora"} | flat(config)


def test_the_key_of_an_override() -> None:
    assert key_of("++data.noise=a=b") == "data.noise"
