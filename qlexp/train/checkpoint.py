"""The state of a batch of lanes in the middle of its training, in one file."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)


class Checkpoint:
    """Saves at most every `interval` seconds; read back without unpickling code.

    Args:
        path: the file; its folder exists.
        interval: seconds between two saves.
    """

    def __init__(self, path: Path, interval: float) -> None:
        self.path = path
        self.interval = interval
        self._saved = self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the training has taken so far, what a stopped process had saved included."""
        return time.monotonic() - self._began

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The last state, its tensors on `device`; None where there is none that can be read."""
        try:
            saved = torch.load(self.path, map_location=device, weights_only=True)
            self._began = min(self._began, time.monotonic() - saved["seconds"])
            return saved["state"]
        except FileNotFoundError:
            return None
        except Exception as error:  # a file cut short or foreign shows in many ways
            log.warning("%s is not readable (%s): this batch starts anew", self.path, error)
            return None

    def save_if_due(self, state: Callable[[], dict[str, Any]]) -> None:
        """Writes `state()` where the interval has passed; the file is replaced whole."""
        if time.monotonic() - self._saved < self.interval:
            return
        self._saved = time.monotonic()
        draft = self.path.with_suffix(f".{os.getpid()}")
        try:
            torch.save({"seconds": self.seconds, "state": state()}, draft)
            os.replace(draft, self.path)
        except (OSError, RuntimeError) as error:
            draft.unlink(missing_ok=True)
            log.warning("%s could not be written (%s): training goes on", self.path, error)


class Part(Checkpoint):
    """One of the trainings that follow on one another, kept in the file of the whole.

    Args:
        whole: the file, and when it is due.
        number: which training; the state of another is not this one's.
        past: what those before it have left, saved along.
    """

    def __init__(self, whole: Checkpoint, number: int, past: dict[str, Any]) -> None:
        self.whole, self.number, self.past = whole, number, past

    def load(self, device: torch.device) -> dict[str, Any] | None:
        saved = self.whole.load(device)
        return saved["now"] if saved is not None and saved["number"] == self.number else None

    def save_if_due(self, state: Callable[[], dict[str, Any]]) -> None:
        self.whole.save_if_due(lambda: {"number": self.number, "past": self.past, "now": state()})
