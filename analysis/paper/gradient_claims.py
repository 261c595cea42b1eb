"""What the paper claims of adapter gradient norms, on functions and on language models alike."""

from collections.abc import Callable, Iterator

from analysis.claims.evidence import Evidence
from analysis.claims.rules import ABOVE, BELOW, Claim, Finding
from analysis.claims.traces import evenness, gradients, larger, larger_later, larger_there
from analysis.paper.names import LORA, PAPER, QUERYABLE, SETTLED

Compute = Callable[[Evidence], Finding]


def gradient_claims(instructed: Callable[..., Compute], answered_by: str) -> Iterator[Claim]:
    """Size, evenness and place of the norms with an instruction beside those without, and LoRA's.

    Args:
        instructed: makes of a measure and what it is held against that of instruction-queryable
            LoRA.
    """
    for other, without in ((QUERYABLE, "without the instruction"), (LORA, "LoRA's")):
        for name, text, what, rule, measure, part in (
            ("larger", "larger", "norms, mean over layers", ABOVE, larger, None),
            ("more_even", "more even over depth", "variation over layers", BELOW, evenness, None),
            (
                "later",
                "larger in middle and late layers above all",
                "norms: in the last two thirds of the layers over the first third",
                ABOVE,
                larger_later,
                larger_there,
            ),
        ):
            yield Claim(
                f"gradients_{name}_{other}",
                f"Adapter gradient norms {text} with instruction-conditioned routing than "
                f"{without}",
                f"{PAPER}, Figures 3 and 4",
                what,
                instructed(gradients, other, measure=measure, part=part),
                answered_by,
                rule,
                SETTLED,
            )
