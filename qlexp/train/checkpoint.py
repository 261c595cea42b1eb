"""The state of a batch of lanes in the middle of its training, in one file."""

import logging
import os
import time
from collections.abc import Callable, Sequence
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
        if time.monotonic() - self._saved >= self.interval:
            self.save(state())

    def save(self, state: dict[str, Any]) -> None:
        """Writes `state` now; training goes on where that is not possible."""
        self._saved = time.monotonic()
        draft = self.path.with_suffix(f".{os.getpid()}")
        try:
            torch.save({"seconds": self.seconds, "state": state}, draft)
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


class Relay(Checkpoint):
    """Of a batch whose lanes were trained in other batches before, and may go on in others.

    Args:
        whole: the checkpoint of this batch.
        lanes: of every lane the `Left` of the batch before; none where they begin.
    """

    def __init__(self, whole: Checkpoint, lanes: Sequence["Left"]) -> None:
        self.whole, self.lanes = whole, lanes
        self.state: dict[str, Any] | None = None

    @property
    def seconds(self) -> float:
        return self.whole.seconds + sum(lane["seconds"] for lane in self.lanes)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        saved = self.whole.load(device)
        if saved is None and self.lanes:
            return joined([lane["state"] for lane in self.lanes], device)
        return saved

    def save_if_due(self, state: Callable[[], dict[str, Any]]) -> None:
        self.whole.save_if_due(state)

    def end(self, state: dict[str, Any]) -> None:
        """Keeps where the batch came to, in its file too: when it is stopped while its lanes are
        stored one by one, a rerun still finds them all at one place."""
        self.whole.save(state)
        self.state = state

    def left(self, lanes: int) -> list["Left"]:
        """What each of the `lanes` can go on from."""
        share = self.seconds / lanes
        return [{"seconds": share, "state": of_lane(self.state, n)} for n in range(lanes)]


Left = dict[str, Any]  # one lane's seconds so far and the state of a batch of it alone


def of_lane(state: Any, lane: int) -> Any:
    """The part of a batch's state that is one lane's: each tensor's slice of its leading axis, kept
    as an axis of one. Numbers, and tensors without an axis, are what all lanes share."""
    if isinstance(state, torch.Tensor):
        return state[lane : lane + 1].to("cpu", copy=True) if state.ndim else state.cpu()
    return _mapped(lambda value: of_lane(value, lane), state)


def joined(states: Sequence[Any], device: torch.device) -> Any:
    """The state of a batch, its lanes in the order of `states`; `of_lane` undone."""
    first = states[0]
    if isinstance(first, torch.Tensor):
        return (torch.cat(list(states)) if first.ndim else first).to(device)
    return _mapped(lambda *values: joined(values, device), *states)


def _mapped(change: Callable[..., Any], first: Any, *others: Any) -> Any:
    """`change` of what stands at each place of equal nested lists and dictionaries."""
    if isinstance(first, dict):
        return {key: change(value, *(o[key] for o in others)) for key, value in first.items()}
    if isinstance(first, list | tuple):
        return [change(*values) for values in zip(first, *others, strict=True)]
    return first
