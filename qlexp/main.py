"""The `qlexp` command: its help, and which part of the project answers.

The parts are imported when they are needed, so that the help waits for none of them.
"""

import os
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from qlexp import extensions
from qlexp.errors import RunError, UsageError
from qlexp.problem.functions import FUNCTIONS

_PACKAGE = Path(__file__).parent
CONF = next(f for f in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if f.is_dir())

_COMMANDS = {
    "show": "analysis.__main__",
    "check": "qlexp.check",
    "migrate": "qlexp.store.migrate",
}
_HELP = """\
qlexp: does one parameter-efficient fine-tuning method really beat another?

A small Transformer is pretrained on a function of two variables; a method then adapts it to a
shifted one. Every run is stored, and none is computed twice.

  qlexp method=dora function=matyas seed=1      one run
  qlexp -m method=lora,dora seed=0,1,2          a sweep: every combination, trained in batches
  qlexp experiment=quick                        a published study; it goes on where it was stopped

  qlexp show VIEW STUDY       tables, figures, statistics of a stored study (qlexp show --help)
  qlexp check method=lora     what a method promises, tested, and what it can do
  qlexp migrate STORE         bring an older store to the schema of today

  --config-dir FOLDER         methods, functions and studies of your own (examples/extending)
  --cfg job                   print the config instead of running it
  --hydra-help                Hydra's own options

Settings are KEY=VALUE, such as trainer.adapt.learning_rate=1e-3 (conf/config.yaml lists them all,
each with a comment). These stand for a whole group of settings:

{groups}
"""


def choices(group: str) -> list[str]:
    """The names in a group of `conf/`, such as method."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def main() -> None:
    """The console script: a mistake of the user's is one sentence on stderr and exit code 2.

    A run that raised an error is one sentence and exit code 1, after all others are stored.
    """
    arguments = sys.argv[1:]
    command = arguments[0] if arguments else ""
    try:
        if command in _COMMANDS:
            if code := import_module(_COMMANDS[command]).main(arguments[1:], f"qlexp {command}"):
                sys.exit(code)
            return
        if {"-h", "--help"} & set(arguments):
            print(_help())
            return
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # lets Hydra's errors reach us
        words = [*extensions.load_named(arguments), *_mode(arguments)]
        sys.argv[1:] = sorted(words, key=_is_override)  # as Hydra wants
        import_module("qlexp.cell").run_from_command_line()
    except UsageError as error:
        _leave(error, 2)
    except RunError as error:
        _leave(error, 1)
    except KeyboardInterrupt:
        _leave("stopped; finished runs are stored and a rerun skips them.", 130)


def _leave(reason: object, code: int) -> NoReturn:
    print(f"qlexp: {reason}", file=sys.stderr)
    sys.exit(code)


def _is_override(argument: str) -> bool:
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


def _mode(arguments: Sequence[str]) -> list[str]:
    """A study is a sweep; Hydra 1.4 no longer lets its YAML say so."""
    study = any(word.startswith("experiment=") for word in arguments)
    asked = any(word.startswith("hydra.mode=") for word in arguments)
    return ["hydra.mode=MULTIRUN"] * (study and not asked)


def _help() -> str:
    groups = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())
    named = {"function": sorted(FUNCTIONS), **{group: choices(group) for group in groups}}
    lines = [
        textwrap.fill(
            f"{group}: {', '.join(names)}", 98, initial_indent="  ", subsequent_indent="    "
        )
        for group, names in named.items()
    ]
    return _HELP.format(groups="\n".join(lines))
