"""Where the groups of a sweep run: in this process, or on workers that an existing engine provides.

Whole groups are handed out, so that every worker trains a batch. Workers share the store's folder;
what one of them finished another never overwrites.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from qlexp.config.checks import Checked, bounded, one_of
from qlexp.errors import UsageError

log = logging.getLogger(__name__)

_TIMEOUT_MINUTES = 24 * 60  # of a submitted group, unless the options say otherwise

Payload = dict[str, Any]
Work = Callable[[Payload], int]

_PACKAGES = {
    "local": None,
    "joblib": "joblib",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
    "ray": "ray",
}


@dataclass
class Backend(Checked):
    """An engine, how many workers it may use, and its own options.

    `options` go to `joblib.Parallel`, `submitit.AutoExecutor.update_parameters` or `ray.init`.
    """

    name: str = one_of("local", *_PACKAGES)
    workers: int = bounded(1, minimum=1)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        package = _PACKAGES[self.name]
        if package is None:
            if self.workers > 1:
                raise UsageError(
                    f"hydra.launcher.workers={self.workers} wants a backend that has workers: add "
                    "hydra.launcher.backend=joblib, or leave it at 1."
                )
            return
        try:
            import_module(package)
        except ImportError as error:
            raise UsageError(
                f"hydra.launcher.backend={self.name} needs the package {package}: "
                f"pip install 'qlexp[{package}]'."
            ) from error


def run_elsewhere(
    backend: Backend, work: Work, payloads: Sequence[Payload], folder: Path
) -> Iterator[int]:
    """What `work` returns of every payload, as the workers finish them.

    Args:
        work: importable, so that a worker finds it.
        folder: for the engine's own files; seen by all workers.
    """
    if backend.name == "joblib":
        return _joblib(backend, work, payloads)
    if backend.name == "ray":
        return _ray(backend, work, payloads)
    return _submitit(backend, work, payloads, folder)


def _joblib(backend: Backend, work: Work, payloads: Sequence[Payload]) -> Iterator[int]:
    joblib = import_module("joblib")
    options = {"n_jobs": backend.workers, **backend.options}
    parallel = joblib.Parallel(return_as="generator_unordered", **options)
    yield from parallel(joblib.delayed(work)(payload) for payload in payloads)


def _submitit(
    backend: Backend, work: Work, payloads: Sequence[Payload], folder: Path
) -> Iterator[int]:
    completed = import_module("submitit").helpers.as_completed
    at_once = len(payloads) if backend.name == "submitit_slurm" else backend.workers
    for first in range(0, len(payloads), at_once):
        for job in completed(submit(backend, work, payloads[first : first + at_once], folder)):
            yield from _results(backend, job.result)


def _results(backend: Backend, result: Callable[[], int]) -> Iterator[int]:
    """What a job returned, or nothing where it was lost: the others go on."""
    try:
        yield result()
    except Exception as error:  # the engine's own, such as a time-out or a killed worker
        log.error("a job of the backend %s was lost: %s", backend.name, error)


def submit(backend: Backend, work: Work, payloads: Sequence[Payload], folder: Path) -> list[Any]:
    """Hands submitit one job a payload, at most `backend.workers` at a time; returns the jobs."""
    cluster = backend.name.removeprefix("submitit_")
    executor = import_module("submitit").AutoExecutor(folder / "submitit", cluster=cluster)
    defaults = {
        "slurm_array_parallelism": backend.workers,
        "timeout_min": _TIMEOUT_MINUTES,
        "gpus_per_node": torch.cuda.device_count(),
    }
    executor.update_parameters(**{**defaults, **backend.options})
    return executor.map_array(work, list(payloads))


def _ray(backend: Backend, work: Work, payloads: Sequence[Payload]) -> Iterator[int]:
    ray = import_module("ray")
    own = {"num_cpus": backend.workers, "include_dashboard": False}
    ray.init(**(backend.options if "address" in backend.options else own | backend.options))
    try:
        gpus = ray.cluster_resources().get("GPU", 0) / backend.workers
        remote = ray.remote(num_cpus=1, num_gpus=gpus)(work)
        waiting = [remote.remote(payload) for payload in payloads]
        while waiting:
            done, waiting = ray.wait(waiting)
            for job in done:
                yield from _results(backend, partial(ray.get, job))
    finally:
        ray.shutdown()
