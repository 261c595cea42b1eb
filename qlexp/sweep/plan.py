"""From Hydra's composed config to one that is ready to run: bad input ends here."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from omegaconf import DictConfig, OmegaConf

from qlexp import environment
from qlexp.adapters.budget import with_budget
from qlexp.config.messages import keys, one_sentence, unknown_key
from qlexp.config.resolve import resolve
from qlexp.config.schema import Config
from qlexp.errors import UsageError
from qlexp.problem.instructions import with_instruction
from qlexp.problem.targets import check_problem, served_shifts
from qlexp.store.store import check_study_name


@one_sentence()
def plan(composed: DictConfig) -> Config:
    """The checked config of a run, its method sized to its budget.

    Raises:
        UsageError: something in it cannot work; nothing has been computed yet.
    """
    if unknown := set(_unknown_keys(composed)):
        raise unknown_key(min(unknown), set(keys(composed)) - unknown)
    return ready(resolve(composed))


@one_sentence()
def ready(config: Config) -> Config:
    """A resolved config as `plan` leaves it."""
    config = with_instruction(with_budget(config))
    check_study_name(config.study)
    environment.pick_device(config.device)
    check_problem(config.function, config.shift, config.seed)
    served = {(shift.strength, shift.rotation) for shift in served_shifts(config.shift)}
    if len(served) < config.shift.targets and config.shift.places:
        raise UsageError(f"shift.places={config.shift.places} are not all different.")
    if len(served) < config.shift.targets:
        raise UsageError(
            f"shift.targets={config.shift.targets} are not all different with "
            f"shift.strength={config.shift.strength:g} and shift.rotation="
            f"{config.shift.rotation:g}: give both a value, or take one target."
        )
    return config


def _unknown_keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Dotted names of what `+KEY=VALUE` has added and nothing would read."""
    schema = OmegaConf.get_type(node)
    if not is_dataclass(schema):
        return
    known = {item.name for item in fields(schema)}
    for key in map(str, node):
        if prefix + key == "hydra":
            continue
        if key not in known:
            yield prefix + key
        elif OmegaConf.is_dict(node[key]):
            yield from _unknown_keys(node[key], f"{prefix}{key}.")
