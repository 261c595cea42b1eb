"""The cells of a study, as the file `studies/<study>.json` lists them.

{"schema": 2,
 "settings": {what holds in every cell},
 "cells": [{a cell, with the settings in which it differs from those}, ...]}
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEMA = 2


@dataclass(frozen=True)
class Cell:
    """One cell of a study: what its row is called, and the run that fills it.

    Attributes:
        settings: what holds in the run: every field of its config that is a setting
            (`qlexp.config.settings`), by its dotted name, and of every group of the config the
            choice, by the group's name. The values are typed.
        asked: the names of those that the command line gave, in its order.
        reference_parameters: LoRA's count that this budget compares with.
        extension: for a value that a tuned sweep added to its row's grid, the how manieth.
    """

    run_id: str
    function: str
    method: str
    seed: int
    budget: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    reference_parameters: int | None = None
    extension: int = 0

    @property
    def target(self) -> str | None:
        """The method's class; None where it is not known."""
        return self.settings.get("method._target_")


class ManifestError(ValueError):
    """Why a manifest cannot be read."""


class OlderManifestError(ManifestError):
    """It lists what the command lines of its cells said, as `qlexp.store.migrate` reads."""


def dump(cells: Sequence[Cell]) -> str:
    """The text of a manifest, a line a cell; one that is given twice is listed once."""
    common = _common([cell.settings for cell in cells])
    lines = dict.fromkeys(json.dumps(_row(cell, common)) for cell in cells)
    head = f'{{"schema": {SCHEMA},\n"settings": {json.dumps(common)},\n"cells": [\n'
    return head + ",\n".join(lines) + "\n]}\n"


def _common(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, *rest = settings or [{}]
    alike = dict(first)
    for own in rest:
        alike = {key: value for key, value in alike.items() if key in own and own[key] == value}
    return alike


def _row(cell: Cell, common: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in cell.settings.items() if key not in common}
    row = {**vars(cell), "settings": own}
    return row if cell.extension else {k: v for k, v in row.items() if k != "extension"}


def parse(text: str) -> list[Cell]:
    """The cells in the text of a manifest.

    Raises:
        ManifestError: it is none, or one of another schema.
    """
    try:
        manifest = json.loads(text)
        if isinstance(manifest, list):
            raise OlderManifestError("it is of an older form")
        if manifest["schema"] != SCHEMA:
            raise ManifestError(f"its schema is {manifest['schema']}, and this qlexp's {SCHEMA}")
        common = manifest["settings"]
        return [_cell(row, common) for row in manifest["cells"]]
    except ManifestError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ManifestError(f"{type(error).__name__}: {error}") from error


def _cell(row: Mapping[str, Any], common: Mapping[str, Any]) -> Cell:
    settings = {**common, **row["settings"]}
    return Cell(**{**row, "settings": settings, "asked": tuple(row["asked"])})
