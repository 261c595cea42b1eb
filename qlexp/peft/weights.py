"""Whether saved weights are those of an adapter."""

from collections.abc import Mapping

from torch import Tensor

from qlexp.errors import UsageError

SHOWN = 3  # differences named in full


def check_weights(prefix: str, own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Compares names and shapes of saved tensors with the adapter's own; both by checkpoint name.

    Args:
        prefix: what the names of the method's tensors contain; others are peft's affair.

    Raises:
        UsageError: they differ.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in own.items()}
    found = {name: tuple(one.shape) for name, one in saved.items() if f".{prefix}" in name}
    differing = [
        f"{name} (wanted {_shown(wanted.get(name))}, found {_shown(found.get(name))})"
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
    ]
    if differing:
        more = f", and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        raise UsageError(
            "These weights were saved for another base model or config: they differ in "
            f"{', '.join(differing[:SHOWN])}{more}."
        )


def _shown(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else str(shape)
