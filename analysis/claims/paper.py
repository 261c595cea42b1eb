"""The claims of "Queryable LoRA" (arXiv 2605.08423) on its synthetic study, one entry each.

To add one, write what it measures as a function from `Evidence` to `Finding` and an entry in
`CLAIMS`. Readings of this project, where the paper gives no measure:

- "helps": queryable LoRA's test loss is below LoRA's, on the same function, seed and network;
- "above all": more than on any other function;
- "locally heterogeneous": the target has ripples (a period) and is none of the four on which the
  paper says that it helps little; against all others;
- "little": between 10 % less and 10 % more, so that much harm is not little either;
- a gain of interest: 2 %, since tuned variants of LoRA end within 1 to 2 % of each other
  (arXiv 2602.04998); gradient norms and atoms: 10 %;
- gradient norms: the mean over all recorded updates, by layer; "more even": a smaller coefficient
  of variation over layers; "middle and late": the last two thirds of the layers against the first;
- instructions: one adapter serves several targets, so that their texts differ; "its own text" is
  compared with texts dealt out at random (shuffled) and with none (empty);
- "more stable": less spread over seeds, the standard deviation of the logarithm of the test loss,
  function by function. It is inf where a seed diverged, and two such are tied.
"""

from functools import partial

from analysis.claims.evidence import LOSS, TEXT_LOSSES, Evidence
from analysis.claims.measures import (
    LORA,
    QUERYABLE,
    gain_above_all,
    gain_everywhere,
    gain_on,
    gain_on_ripples,
    gain_with_depth,
    gradients,
    larger,
    larger_later,
    larger_there,
    more_even,
    retention,
    sparsity,
    stability,
    text_gain,
)
from analysis.claims.rules import LITTLE, Claim, Finding, LackingError
from analysis.names import function_title

SETTLED = 1.1  # the ratio up to which a difference is little
LITTLE_HELPED = ("sin_cos", "matyas", "ackley", "rastrigin")  # says the paper


def inference_order(evidence: Evidence) -> Finding:
    """Inference times are no part of a run, and three of the five methods are readings."""
    raise LackingError(
        "runs hold no inference times, and RepLoRA, HyRA and DoRAN are readings of their papers"
    )


_SYNTHETIC = "arXiv 2605.08423, synthetic study"
_FIGURES = "arXiv 2605.08423, Figures 3 and 4"
_TEST = "LoRA's test loss over queryable LoRA's"
_ANY = "experiment=quick"

CLAIMS = (
    Claim(
        "held_out",
        "Lower held-out loss than LoRA at a comparable parameter count",
        _SYNTHETIC,
        f"{_TEST}, mean over functions",
        gain_everywhere,
        _ANY,
    ),
    Claim(
        "drop_wave",
        "Helps on Drop-Wave",
        _SYNTHETIC,
        _TEST,
        partial(gain_on, "drop_wave"),
        _ANY,
    ),
    Claim(
        "drop_wave_above_all",
        "Helps on Drop-Wave above all",
        _SYNTHETIC,
        f"{_TEST}: on Drop-Wave over the closest other function",
        partial(gain_above_all, "drop_wave"),
        _ANY,
    ),
    Claim(
        "heterogeneous",
        "Helps most on locally heterogeneous targets",
        _SYNTHETIC,
        f"{_TEST}: on Drop-Wave, Griewank, Levy and their like over all other targets",
        partial(gain_on_ripples, LITTLE_HELPED),
        _ANY,
    ),
    *(
        Claim(
            f"little_{function}",
            f"Helps little, and harms little, on {function_title(function)}",
            _SYNTHETIC,
            _TEST,
            partial(gain_on, function),
            _ANY,
            LITTLE,
            SETTLED,
        )
        for function in LITTLE_HELPED
    ),
    Claim(
        "deep_narrow",
        "Helps more in the deep, narrow network",
        "arXiv 2605.08423, appendix B",
        f"{_TEST}: in the deepest network of the study over the shallowest",
        gain_with_depth,
        "experiment=deep_narrow",
    ),
    Claim(
        "stability",
        "More stable optimisation than LoRA's",
        _SYNTHETIC,
        "LoRA's spread over seeds over queryable LoRA's",
        stability,
        _ANY,
        smallest=SETTLED,
    ),
    *(
        Claim(
            f"gradients_{name}_{other}",
            f"Adapter gradient norms {text} with instruction-conditioned routing than {without}",
            _FIGURES,
            what,
            partial(gradients, measure, part, other),
            "experiment=instructions",
            smallest=SETTLED,
        )
        for other, without in ((QUERYABLE, "without the instruction"), (LORA, "LoRA's"))
        for name, text, what, measure, part in (
            ("larger", "larger", "norms, mean over layers", larger, None),
            (
                "more_even",
                "more even over depth",
                "the other's variation over layers",
                more_even,
                None,
            ),
            (
                "later",
                "larger in middle and late layers above all",
                "norms: in the last two thirds of the layers over the first third",
                larger_later,
                larger_there,
            ),
        )
    ),
    *(
        Claim(
            f"text_{where}_{control}",
            f"A target's own text helps more than {what} on {place}",
            "arXiv 2605.08423, instruction-conditioned routing; the controls are ours",
            f"instruction-queryable LoRA's {loss.replace('_', ' ')}: with {what} over its own",
            partial(text_gain, loss, control),
            "experiment=instructions",
        )
        for where, loss, place in zip(
            ("test", "unseen", "paraphrased"),
            (LOSS, *TEXT_LOSSES),
            ("the targets served", "unseen targets", "held-out wordings"),
            strict=True,
        )
        for control, what in (("shuffled", "a random one"), ("empty", "an empty one"))
    ),
    Claim(
        "inference",
        "Slower in inference than LoRA, faster than RepLoRA, HyRA and DoRAN",
        "arXiv 2605.08423, Table 5",
        "seconds",
        inference_order,
        "python -m analysis.inference",
    ),
    Claim(
        "retention",
        "Retains the losses of old tasks better than LoRA",
        "arXiv 2605.08423, appendix C",
        "LoRA's growth of old tasks' losses over queryable LoRA's",
        retention,
        "experiment=continual",
    ),
    Claim(
        "sparsity",
        "Atoms are used sparsely, not uniformly",
        "arXiv 2605.08423, appendix C",
        "all atoms over those in effect used",
        sparsity,
        "experiment=continual",
        smallest=SETTLED,
    ),
)
