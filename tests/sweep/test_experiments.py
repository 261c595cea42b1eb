"""The studies of conf/experiment: what they ask for, before anything is composed or computed."""

from collections import Counter
from collections.abc import Callable
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY, Command, all_runs
from hydra.core.plugins import Plugins

from analysis.flags import COUNT_TOLERANCE
from analysis.load import load_study
from analysis.names import FROZEN, REFERENCES
from qlexp.adapters.budget import reference_count, trainable_count
from qlexp.config.identity import run_id
from qlexp.config.schema import Config
from qlexp.main import CONF
from qlexp.store.store import Store

STUDIES = {
    path.stem: yaml.safe_load(path.read_text()) for path in (CONF / "experiment").glob("*.yaml")
}
MINUTES = sorted(set(STUDIES) - {"smoke", "quick_all", "table1"})  # on two cores
GROUPS = {"function", "method", "seed", "budget"}
AXES = {
    "block_size": {"method.block_size"},
    "atoms": {"method.atoms"},
    "top_k": {"method.top_k"},
    "rank": {"budget.rank"},
    "lambda": {"method.prior_strength"},
    "noise": {"data.noise"},
    "shift": {"shift.strength", "shift.rotation"},
    "samples": {"data.adapt"},
    "switches": {"method.gated", "method.depth_summary", "method.routing"},
    "core": {"method.routing", "method.bank"},
    "tuned": {"trainer.adapt.learning_rate"},
    "tuned_rank": {"trainer.adapt.learning_rate", "budget.rank"},
    "instructions": {"instruction", "instruction.control"},
    "deep_narrow": {"backbone"},
}  # what each ablation sweeps besides `GROUPS`
OFF_BUDGET = {
    "atoms": {("queryable", 19_040)},
    "tuned_rank": {("dora", 6400), ("dora", 14_592)},
}  # method and count of the rows to be marked: 128 atoms; DoRA's magnitudes beside small factors


@pytest.fixture
def jobs(qlexp: Command, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`jobs(*arguments)`: the overrides of every job of a sweep, none of which is composed."""

    def call(*arguments: str) -> list[dict[str, str]]:
        asked: list[dict[str, str]] = []

        def launch(self: object, overrides: list[list[str]], initial_job_idx: int) -> list:
            asked.extend(dict(word.split("=", 1) for word in own) for own in overrides)
            return []

        Plugins.instance()  # loads the launcher anew
        module = import_module("hydra_plugins.qlexp_lanes")
        monkeypatch.setattr(module.LanesLauncher, "launch", launch)
        outcome = qlexp(*arguments, "hydra.sweeper.tuning.setting=null")
        assert (outcome.code, outcome.err) == (0, "")
        return asked

    return call


@pytest.mark.parametrize("name", MINUTES)
def test_a_study_has_a_few_hundred_runs_and_all_seeds_alike(name: str, jobs: Any) -> None:
    asked = jobs(f"experiment={name}")
    assert 10 < len(asked) <= {"tuned": 837, "tuned_rank": 486, "ten_seeds": 360}.get(name, 324)
    count = 10 if name == "ten_seeds" else 3
    assert len({tuple(sorted(job.items())) for job in asked}) == len(asked)
    assert {job["seed"] for job in asked} == set(map(str, range(count)))
    assert any(job["method"] == "lora" for job in asked)
    axes = AXES.get(name, set())
    groups = {"experiment", "store", "tracking", *GROUPS}
    seeds: Counter[tuple[Any, ...]] = Counter()
    for axis in axes:
        assert len({job[axis] for job in asked if axis in job}) >= 2
    for job in asked:
        own = {key: value for key, value in job.items() if key not in groups}
        assert own.keys() <= axes
        seeds[job["function"], job["method"], job.get("budget"), tuple(own.items())] += 1
    assert set(seeds.values()) == {count}


def test_a_published_study_names_what_it_holds() -> None:
    """A function or a method that is added makes no other study of it; smoke holds every method."""
    globs = {
        (name, key)
        for name, study in STUDIES.items()
        for key, value in study["hydra"]["sweeper"]["params"].items()
        if "glob(" in str(value)
    }
    assert globs == {("smoke", "method")}


def test_every_ablation_is_named_here() -> None:
    swept = {
        name: study["hydra"]["sweeper"]["params"].keys() - GROUPS for name, study in STUDIES.items()
    }
    assert {name: axes for name, axes in swept.items() if axes} == AXES


def test_the_claim_on_depth_has_both_networks_in_one_study(jobs: Any) -> None:
    asked = jobs("experiment=deep_narrow")
    networks = Counter((job["backbone"], job["method"]) for job in asked)
    assert networks.keys() >= set(product(("small", "deep_narrow"), ("lora", "queryable")))
    assert len(set(networks.values())) == 1


def test_a_reference_runs_beside_without_the_swept_fields(jobs: Any) -> None:
    asked = jobs(
        "experiment=block_size", "function=matyas", "method.block_size=2,4", "method.rank=2"
    )
    assert Counter(job["method"] for job in asked) == {"queryable": 6, "lora": 3}
    for job in asked:
        assert job["function"] == "matyas"
        assert job["method.rank"] == "2"
        assert ("method.block_size" in job) == (job["method"] == "queryable")


def test_a_reference_is_refused_where_it_is_no_grid(qlexp: Command, store: Path) -> None:
    outcome = qlexp("experiment=block_size", "hydra.sweeper.reference=lora", *TINY)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert not store.exists()


def test_one_line_runs_a_reference_beside(qlexp: Command, store: Path) -> None:
    sweep = ("method=queryable", "method.block_size=1,2", "+hydra.sweeper.reference.method=lora")
    outcome = qlexp("-m", *TINY, "budget.enforce=false", "study=mine", *sweep)
    assert (outcome.code, outcome.out, outcome.err) == (0, "3 done\n", "")
    assert len(all_runs(store)) == 3
    frame = load_study(Store(store), "mine")
    assert set(zip(frame["method"], frame["overrides"], strict=True)) == {
        ("lora", ""),
        ("queryable", "method.block_size=1"),
        ("queryable", "method.block_size=2"),
    }


@pytest.fixture
def planned(qlexp: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Config]]:
    """`planned(study)`: its configs on one function and seed, none of which is run."""

    def call(name: str) -> list[Config]:
        found: list[Config] = []

        def note(configs: list[Config], *_: object) -> list[dict[str, Any]]:
            found.extend(configs)
            return [{"status": "done", "validation_loss": 0.0} for _ in configs]

        monkeypatch.setattr("qlexp.sweep.jobs.execute", note)
        words = ("function=matyas", "seed=0", "device=cpu", "hydra.sweeper.tuning.setting=null")
        assert qlexp(f"experiment={name}", *words).code == 0
        return found

    return call


@pytest.mark.parametrize("name", ["atoms", "rank", "deep_narrow", "tuned_rank"])
def test_rows_off_the_budget_are_the_intended_ones(
    name: str, planned: Callable[[str], list[Config]]
) -> None:
    marked = set()
    for config in planned(name):
        own, wanted = trainable_count(config), reference_count(config)
        if wanted is None:
            assert config.method.name in REFERENCES
        elif abs(own - wanted) > COUNT_TOLERANCE * wanted:
            marked.add((config.method.name, own))
    assert marked == OFF_BUDGET.get(name, set())


@pytest.mark.parametrize(("name", "trials"), [("tuned", 5), ("tuned_rank", 20)])
def test_every_method_has_as_many_different_trials(
    name: str, trials: int, planned: Callable[[str], list[Config]]
) -> None:
    runs: dict[str, set[str]] = {}
    for config in planned(name):
        runs.setdefault(config.method.name, set()).add(run_id(config))
    assert len(runs.pop(FROZEN)) == 1
    assert {len(own) for own in runs.values()} == {trials}
