"""The lanes of one batch: where and in which precision they train, and on which samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from qlexp import environment
from qlexp.config.schema import Config
from qlexp.model.evaluate import Samples
from qlexp.model.precision import dtype_of, precision_of
from qlexp.problem.instructions import encode
from qlexp.problem.targets import Problem, problem_of

_SPLITS = {"test_clean": "test", "paraphrased": "test"}


@dataclass(frozen=True)
class Batch:
    """Configs of one shape, a lane each, and the stage that they go through."""

    configs: Sequence[Config]
    stage: str  # pretrain or adapt

    @property
    def first(self) -> Config:
        """Of which all lanes share what shapes the batch."""
        return self.configs[0]

    @property
    def precision(self) -> str:
        return precision_of(self.first, self.stage)

    @cached_property
    def device(self) -> torch.device:
        return environment.pick_device(self.first.device)

    @cached_property
    def problems(self) -> list[Problem]:
        return [problem_of(config) for config in self.configs]

    def samples(self, name: str) -> Samples:
        """One split of every lane, with the instructions that its method reads.

        `test_clean` is the test split without its noise, `paraphrased` with held-out wordings.
        """
        splits = [getattr(problem, _SPLITS.get(name, name)) for problem in self.problems]
        texts = [
            encode(config, split, held_out=name == "paraphrased")
            for config, split in zip(self.configs, splits, strict=True)
            if split.shifts
        ]
        given = [text for text in texts if text is not None]
        return Samples(
            self._tensor([split.x for split in splits]),
            self._tensor([split.clean if name == "test_clean" else split.y for split in splits]),
            self._tensor(given) if given else None,
        )

    def _tensor(self, arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.as_tensor(np.stack(arrays), dtype=dtype_of(self.precision), device=self.device)
