"""The configs of a sweep's jobs, without a full composition of each.

Hydra takes a tenth of a second to compose a job. The jobs of a sweep differ in a few choices and
values, so it composes once for each choice that reaches beyond its own section, such as an
experiment. The others are put in place here, from Hydra's own sources and by its own rules:

- *near* choices, such as function=levy: the option has no package and no defaults of its own, and
  no other config of the job writes to its section;
- *values*, such as seed=3: set in a section by the call with which Hydra sets them.

Whatever is not plainly one of these, and all that would be refused, Hydra composes in full.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qlexp.config.resolve import SECTIONS, config_of
from qlexp.config.schema import Config
from qlexp.errors import UsageError
from qlexp.sweep.jobs import Job
from qlexp.sweep.plan import ready

T = TypeVar("T")

_REFERENCE = re.compile(r"\$\{(\w+)(?:\.\w+)*\}")  # an interpolation that reads another value


@dataclass(frozen=True)
class Composed:
    """A job's config, and the option of every config group."""

    config: Config
    choices: Mapping[str, str | None]


@dataclass(frozen=True, eq=False)
class _Base:
    """What jobs have in common that differ in near choices and in values alone.

    `taken` names the sections that something else writes to than the option of their group.
    """

    config: DictConfig
    choices: Mapping[str, str | None]
    taken: frozenset[str]


class _NotPlainError(Exception):
    """The job is to be composed in full."""


class Composer:
    """Composes the jobs of one sweep.

    Args:
        loader: Hydra's.
        master: the config of the sweep as a whole.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self.parser = OverridesParser.create(config_loader=loader)
        self.known: dict[tuple[Any, ...], Any] = {}

    def job(self, overrides: Sequence[str]) -> Job:
        """The planned job of these overrides.

        Raises:
            UsageError: something in it cannot work; nothing has been computed yet.
        """
        if quick := self.quick(overrides):
            return Job(ready(quick.config), quick.choices, overrides)
        full = self.full(overrides)
        return Job.of(full, full.hydra)

    def full(self, overrides: Sequence[str]) -> DictConfig:
        """A job as Hydra composes it."""
        return self.loader.load_sweep_config(self.master, list(overrides))

    def quick(self, overrides: Sequence[str]) -> Composed | None:
        """The same, resolved and not yet planned; None where Hydra is to compose it."""
        try:
            return self._quick(overrides)
        except (_NotPlainError, HydraException, OmegaConfBaseException, UsageError, ValueError):
            return None

    def _quick(self, overrides: Sequence[str]) -> Composed:
        if self.master.hydra.searchpath:  # sources that the loader does not list
            raise _NotPlainError
        near: dict[str, str] = {}
        far: list[str] = []
        values: dict[str, tuple[str, ...]] = {}
        for text in overrides:
            override = self._once(self._parse, text)
            key, value = override.key_or_group, override.value()
            if not self._once(self._is_group, key) or isinstance(value, dict):
                section = key.split(".")[0]
                values[section] = (*values.get(section, ()), text)
            elif key in near:
                raise _NotPlainError
            elif override.package is None and self._once(self._option, key, value) is not None:
                near[key] = str(value)
            else:
                far.append(text)
        base = self._base(far, near)
        while taken := near.keys() & base.taken:
            far += [f"{group}={near.pop(group)}" for group in sorted(taken)]
            base = self._base(far, near)
        if not values.keys() <= set(SECTIONS):
            raise _NotPlainError
        sections = {
            name: self._once(self._section, name, near.get(name, base), values.get(name, ()))
            for name in SECTIONS
        }
        texts = {name: self._without_references(name, sections) for name in sections}
        return Composed(config_of(texts), {**base.choices, **near})

    def _once(self, make: Callable[..., T], *arguments: Any) -> T:
        """`make(*arguments)`, which several jobs need."""
        key = (make.__name__, *arguments)
        if key not in self.known:
            self.known[key] = make(*arguments)
        return self.known[key]

    def _parse(self, text: str) -> Override:
        override = self.parser.parse_override(text)
        plain = override.type == OverrideType.CHANGE and "$" not in text
        if not plain or override.is_hydra_override() or override.is_sweep_override():
            raise _NotPlainError
        return override

    def _is_group(self, name: str) -> bool:
        return any(source.is_group(name) for source in self.loader.get_sources())

    def _option(self, group: str, option: object) -> DictConfig | None:
        """An option that writes to its own section alone; None for one that may do more."""
        path = f"{group}/{option}"
        found = [source for source in self.loader.get_sources() if source.is_config(path)]
        if group not in SECTIONS or not isinstance(option, str) or len(found) != 1:
            return None
        loaded = found[0].load_config(path)
        content = loaded.config
        if loaded.header.get("package") is not None or not isinstance(content, DictConfig):
            return None
        return None if "defaults" in content else content

    def _base(self, far: Sequence[str], near: Mapping[str, str]) -> _Base:
        """The base of jobs with these far choices and with some near choice of these groups."""
        key = ("_base", *far, frozenset(near))
        if key not in self.known:
            self.known[key] = self._composed([*far, *(f"{g}={near[g]}" for g in near)])
        return self.known[key]

    def _composed(self, choices: list[str]) -> _Base:
        config = self.full(choices)
        chosen = dict(config.hydra.runtime.choices)
        overrides = [*self.master.hydra.overrides.hydra, *choices]
        name = self.master.hydra.job.config_name
        taken: set[str] = set()
        for part in self.loader.compute_defaults_list(name, overrides, RunMode.RUN).defaults:
            section = (part.package or "").split(".")[0]
            if not section and part.config_path != "schema":  # which writes types and no values
                taken.update(map(str, self._content(part.config_path)))
            elif part.config_path != f"{section}/{chosen.get(section)}":
                taken.add(section)
        return _Base(config, chosen, frozenset(taken))

    def _content(self, path: str) -> Container:
        """A config as it stands in its source."""
        source = next(source for source in self.loader.get_sources() if source.is_config(path))
        return source.load_config(path).config

    def _section(self, name: str, origin: _Base | str, values: tuple[str, ...]) -> str:
        """A section as JSON, as a base or a near option has it, with values set in it."""
        whole: Any = origin.config if isinstance(origin, _Base) else None
        if whole is None:
            option = self._once(self._option, name, origin)
            whole = OmegaConf.merge(OmegaConf.structured(Config), {name: option})
        section = OmegaConf.masked_copy(whole, name)
        OmegaConf.set_struct(section, True)
        for text in values:
            override = self._once(self._parse, text)
            OmegaConf.update(section, override.key_or_group, override.value(), merge=True)
        return _json(section, name, resolve=False)

    def _without_references(self, name: str, sections: Mapping[str, str]) -> str:
        """A section with the values of others in place of interpolations."""
        text = sections[name]
        if "$" not in text:
            return text
        named = [match[1] for match in _REFERENCE.finditer(text)]
        if len(named) != text.count("$") or any("$" in sections.get(n, "$") for n in named):
            raise _NotPlainError
        return self._once(_resolved, name, text, *((n, sections[n]) for n in sorted(set(named))))


def _resolved(name: str, text: str, *others: tuple[str, str]) -> str:
    whole = OmegaConf.create({key: json.loads(value) for key, value in ((name, text), *others)})
    return _json(whole, name, resolve=True)


def _json(whole: DictConfig, name: str, resolve: bool) -> str:
    values = OmegaConf.to_container(whole, resolve=resolve)
    assert isinstance(values, dict)
    return json.dumps(values[name])
