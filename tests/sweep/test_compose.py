"""The jobs of a sweep are what Hydra composes, however they were composed."""

from collections.abc import Iterator

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlexp.config.messages import one_sentence
from qlexp.config.resolve import resolve
from qlexp.config.schema import register_schema
from qlexp.errors import UsageError
from qlexp.extensions import extend
from qlexp.main import CONF, choices
from qlexp.problem.functions import FUNCTIONS
from qlexp.sweep.compose import Composer
from qlexp.sweep.plan import plan

OWN = {
    "experiment/ranked.yaml": "# @package _global_\nmethod: {rank: 3}\nshift: {targets: 2}",
    "experiment/spread.yaml": "# @package _global_\nfunction: {spread: 0.125}\nseed: 7",
    "method/wide.yaml": "# @package _global_\n"
    "function: {spread: 0.25}\n"
    "method: {_target_: qlexp.adapters.lora.LoRA, name: wide, rank: 6, alpha: 2.0}",
    "method/reading.yaml": "_target_: qlexp.adapters.lora.LoRA\n"
    "name: reading\nrank: ${backbone.heads}\nalpha: ${trainer.adapt.clip}",
    "method/chain.yaml": "defaults: [lora]\nalpha: 3.0",
    "trainer/longer.yaml": "defaults: [quick]\nadapt: {epochs: 160}",
    "shift/reading.yaml": "strength: ${data.noise}\nrotation: ${function.spread}",
}  # options that reach beyond their section, or read others


@pytest.fixture(scope="module")
def composer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composer]:
    """Of the project's configs and `OWN`."""
    folder = tmp_path_factory.mktemp("own")
    for name, text in OWN.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    extend(folder)
    register_schema()
    with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
    master = loader.load_configuration("config", ["hydra.launcher.width=3"], RunMode.MULTIRUN)
    return Composer(loader, master)


def options(group: str, *own: str) -> st.SearchStrategy[str]:
    return st.sampled_from([*choices(group), *own]).map(f"{group}={{}}".format)


def values(key: str, *texts: str) -> st.SearchStrategy[str]:
    return st.sampled_from(texts).map(f"{key}={{}}".format)


CHOICES = [
    st.sampled_from(sorted(FUNCTIONS)).map("function={}".format),
    options("method", "wide", "reading", "chain"),
    options("shift", "reading"),
    options("trainer", "longer"),
    options("experiment", "ranked", "spread", "null"),
    options("optimizer"),
    options("optimizer").map("optimizer@pretrain_".__add__),
    options("tracking"),
    *map(options, ("backbone", "budget", "instruction")),
]
VALUES = [
    values("seed", "0", "3", "-1", "abc", "1.5", "null"),
    values("method.rank", "2", "x", "null", "2.0"),
    values("method.block_size", "1"),
    values("method.targets", "[qkv,up]", "[]"),
    values("trainer.adapt.learning_rate", "1e-3", "3", "high", "nan", "${trainer.pretrain.clip}"),
    values("trainer.adapt", "{epochs: 3}", "3"),
    values("shift.places", "[[0.2,0],[0,30]]", "null"),
    values("shift", "{strength: 0.5}", "none"),
    values("function.coefficients", "{frequency: 3}"),
    values("function.coefficients.frequency", "3", "???"),
    values("function.domain", "[[0,1],[0,2]]"),
    values("instruction.dim", "8", "16"),
    values("data.noise", "0", "true", "'0.1'", '"a b"'),
    values("backbone.heads", "2"),
    values("store", "a/b", "'a,b'", "${study}"),
    values("compile", "true", "yes", "2"),
    values("+foo", "1"),
    values("+trainer.adapt.lr", "1"),
    values("++seed", "4"),
    values("~seed", ""),
    values("foo", "1"),
    values("data", "none"),
    values("hydra.launcher.width", "2"),
]
JOBS = st.lists(
    st.one_of(st.one_of(CHOICES), st.one_of(VALUES)),
    max_size=6,
    unique_by=lambda text: text.split("=")[0],
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(overrides=JOBS)
def test_a_job_is_the_one_that_hydra_composes(composer: Composer, overrides: list[str]) -> None:
    found, refusal = composer.quick(overrides), None
    try:
        with one_sentence():
            full = composer.full(overrides)
            expected = resolve(full)
    except UsageError as error:
        refusal = error
    if found is None:
        return
    assert refusal is None
    assert found.config == expected
    assert found.choices == full.hydra.runtime.choices
    assert overrides == full.hydra.overrides.task


@pytest.mark.parametrize("name", ["quick", "instructions", "tuned_rank", "deep_narrow"])
def test_jobs_of_a_study_share_a_few_compositions(composer: Composer, name: str) -> None:
    """Two functions, methods, seeds and rates make one composition a method that is not local."""
    words = ["hydra.launcher.width=3", f"experiment={name}"]
    master = composer.loader.load_configuration("config", words, RunMode.MULTIRUN)
    own = Composer(composer.loader, master)
    for method in ("lora", "dora", "queryable", "instruction_queryable"):
        for function in ("levy", "matyas"):
            for last in ("seed=1", "trainer.adapt.learning_rate=1e-3"):
                job = [f"experiment={name}", f"function={function}", f"method={method}", last]
                assert own.quick(job) is not None
    assert sum(key[0] == "_base" for key in own.known) == 2


@pytest.mark.parametrize(
    "override",
    ["+foo=1", "++seed=1", "~shift", "seed=${data.test}", "foo=1", "seed=abc", "method=lroa"],
)
def test_what_is_not_plain_is_left_to_hydra(composer: Composer, override: str) -> None:
    assert composer.quick(["function=levy", override]) is None


def test_a_refusal_is_what_it_is_for_one_run(composer: Composer) -> None:
    for override in ("seed=abc", "method.rank=99", "trainer.adapt=3", "foo=1", "function=lev"):
        with pytest.raises(UsageError) as swept, one_sentence():
            composer.job(["method=lora", override])
        with pytest.raises(UsageError) as single, one_sentence():
            plan(composer.full(["method=lora", override]))
        assert str(swept.value) == str(single.value)


def test_equal_sections_of_jobs_are_one_object(composer: Composer) -> None:
    one, other = (composer.quick([f"seed={seed}"]) for seed in (0, 1))
    assert one is not None
    assert other is not None
    assert one.config.method.config is other.config.method.config
    assert one.config.trainer is other.config.trainer
