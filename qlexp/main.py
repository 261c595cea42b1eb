"""The `qlexp` command: its help, and which part of the project answers.

The parts are imported when they are needed, so that the help waits for none of them.
"""

import sys
import textwrap
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from qlexp.command import guarded, hand_to_hydra
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
  qlexp-lm --help             the same for language models
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
    return _options(CONF / group)


def main() -> None:
    """The console script; its exit codes are those of `qlexp.command.guarded`."""
    guarded("qlexp", _main)


def _main() -> None:
    arguments = sys.argv[1:]
    command = arguments[0] if arguments else ""
    if command in _COMMANDS:
        if code := import_module(_COMMANDS[command]).main(arguments[1:], f"qlexp {command}"):
            sys.exit(code)
        return
    if {"-h", "--help"} & set(arguments):
        print(_help())
        return
    hand_to_hydra(arguments)
    import_module("qlexp.cell").run_from_command_line()


def _help() -> str:
    return _HELP.format(groups=groups_of(CONF, {"function": sorted(FUNCTIONS)}))


def groups_of(root: Path, more: Mapping[str, Sequence[str]] | None = None) -> str:
    """The config groups in a folder, and `more`, each with its options, a paragraph a group."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not _is_root(path))
    named = {**(more or {}), **{path.name: _options(path) for path in folders}}
    return "\n".join(
        textwrap.fill(
            f"{group}: {', '.join(names)}", 98, initial_indent="  ", subsequent_indent="    "
        )
        for group, names in named.items()
    )


def _options(group: Path) -> list[str]:
    return sorted(path.stem for path in group.glob("*.yaml"))


def _is_root(folder: Path) -> bool:
    """Whether a folder holds the configs of another command."""
    return (folder / "config.yaml").exists()
