"""A run that raised an error, as the store remembers it: the next start tries it again."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qlexp.store.files import write_folder

log = logging.getLogger(__name__)


def record_failure(
    folder: Path, cell: Mapping[str, Any], config: Mapping[str, Any], error: Exception
) -> None:
    """Stores and logs with what the run of `cell` failed.

    Args:
        cell: how its summary begins.
        config: nested.

    Raises:
        StoreError: it cannot be written.
    """
    log.error("%s/%s/s%d failed: %s", cell["function"], cell["method"], cell["seed"], error)
    log.debug("the failure in full", exc_info=error)
    summary = {
        **cell,
        "status": "failed",
        "error": f"{type(error).__name__}: {error}",
        "config": config,
    }
    write_folder(folder, summary)
