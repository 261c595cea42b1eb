"""The cells of a study."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One cell of a study: what its row is called, and the run that fills it."""

    run_id: str
    function: str
    method: str
    seed: int
    budget: str
    overrides: tuple[str, ...] = ()
    reference_parameters: int | None = None  # LoRA's count that this budget compares with
