"""Claims of the paper or of one's own, answered: supported, not supported or undecided.

    claims.md           claim, answer, effect, interval, runs; a section a budget
    claims.csv          the same in full, with the run_ids behind each answer
    claims_<file>.*     the same of the claims in a file of one's own, by --claims FILE

The rule is that of `analysis.claims.rules`; how a file of one's own looks: `analysis.claims.own`.
The paper's are those of "Queryable LoRA" (arXiv 2605.08423), on its synthetic study one entry each
of `CLAIMS`, on language models of `analysis.paper.language_claims`. Readings of this project, where
the paper gives no measure:

- "helps": queryable LoRA's test loss, its noise left out, is below LoRA's, on the same function,
  seed and network, each adapter serving one target;
- "fits better" (the paper's Table 1): its post-training loss is below LoRA's; "keeps it": its test
  loss over LoRA's lies at most 2 % above its post-training loss over LoRA's, where it fits better;
- "above all": more than on any other function;
- "locally heterogeneous": the target has ripples (a period) and is none of the four on which the
  paper says that it helps little; against all others;
- "little": between 10 % less and 10 % more, so that much harm is not little either;
- a change of interest: 2 %, since tuned variants of LoRA end within 1 to 2 % of each other
  (arXiv 2602.04998); gradient norms and atoms: 10 %;
- gradient norms: the mean over all recorded updates, by layer; "more even": a smaller coefficient
  of variation over layers; "middle and late": the last two thirds of the layers against the first;
- instructions: one adapter serves several targets, so that their texts differ; "its own text" is
  compared with texts dealt out at random (shuffled) and with none (empty);
- "more stable": less spread over seeds, the standard deviation of the logarithm of the test loss,
  function by function. It is inf where a seed diverged, and two such are tied.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from analysis.benchmark import LANGUAGE, SYNTHETIC
from analysis.claims.answers import answer, grid, table
from analysis.claims.evidence import Evidence, stored_norms
from analysis.claims.measures import (
    kept_ratio,
    loss_ratio,
    lowest_ratio,
    ratio_on_ripples,
    ratio_with_depth,
    spread_ratio,
)
from analysis.claims.own import read_claims
from analysis.claims.rules import KEPT, LITTLE, Claim, Finding, LackingError
from analysis.claims.traces import forgetting, text_ratio
from analysis.names import function_title, loss_title
from analysis.paper.atom_claims import sparsity_claim
from analysis.paper.gradient_claims import gradient_claims
from analysis.paper.language_claims import LANGUAGE_CLAIMS
from analysis.paper.names import INSTRUCTED, LORA, PAPER, QUERYABLE, SETTLED
from analysis.settings import require_one
from analysis.study import Study
from analysis.view import Shown

LITTLE_HELPED = ("sin_cos", "matyas", "ackley", "rastrigin")  # says the paper


def add_options(command: ArgumentParser) -> None:
    """`--claims`."""
    command.add_argument("--claims", metavar="FILE", help="YAML file of claims of one's own")


def show(study: Study, options: Namespace | None = None) -> Shown:
    """The claims of the paper, or of a file, as the study answers them.

    Raises:
        UsageError: the study has several conditions, backbones apart, or the file is no claims.
    """
    claims, of, name = CLAIMS_OF[study.benchmark.name], "the paper", "claims"
    if file := getattr(options, "claims", None):
        claims, of, name = read_claims(file, study), Path(file).name, f"claims_{Path(file).stem}"
    require_one(study.frame, study.name, backbones=False)
    frame, tuning = study.kept
    answers = answer(frame, stored_norms(study), claims)
    answered = grid(answers, frame, tuning, study.name, name, of)
    return Shown({name: [answered]}, {name: table(answers)})


def _on_one(measure: Callable[..., Finding], /, **options: Any) -> Callable[[Evidence], Finding]:
    """`measure` of queryable LoRA against LoRA, each adapted to one target as in the paper."""

    def compute(evidence: Evidence) -> Finding:
        if (evidence.runs(QUERYABLE)["targets"] > 1).any():
            raise LackingError("several targets an adapter: the paper's study has one")
        return measure(QUERYABLE, LORA, evidence, **options)

    return compute


def _on_several(
    measure: Callable[..., Finding], /, *against: str, **options: Any
) -> Callable[[Evidence], Finding]:
    """`measure` of instruction-queryable LoRA, whose text tells several targets apart."""

    def compute(evidence: Evidence) -> Finding:
        if (evidence.runs(INSTRUCTED)["targets"] < 2).any():
            raise LackingError("one target: the text is a constant")
        return measure(INSTRUCTED, *against, evidence, **options)

    return compute


def _synthetic(
    name: str,
    text: str,
    measure: str,
    compute: Callable[[Evidence], Finding],
    place: str = "synthetic study",
    **rule: Any,
) -> Claim:
    return Claim(name, text, f"{PAPER}, {place}", measure, compute, _QUICK, **rule)


_QUICK, _INSTRUCTIONS = "experiment=quick", "experiment=instructions"
_CONTINUAL = "experiment=continual"
_TEST = "queryable LoRA's test loss without noise over LoRA's"

CLAIMS: list[Claim] = [
    _synthetic(
        "held_out",
        "Lower held-out loss than LoRA at a comparable parameter count",
        f"{_TEST}, mean over functions",
        _on_one(loss_ratio, comparable=True),
    ),
    _synthetic(
        "fit",
        "Lower post-training loss than LoRA at a comparable parameter count",
        "queryable LoRA's post-training loss over LoRA's, mean over functions",
        _on_one(loss_ratio, comparable=True, loss="post_train_loss"),
        place="Table 1",
    ),
    _synthetic(
        "fit_kept",
        "What it gains over LoRA in training it keeps on held-out data",
        "the ratio of noisy test losses over that of post-training losses, mean over functions",
        _on_one(kept_ratio, loss="test_loss", fitted="post_train_loss"),
        place="Tables 1 and 2",
        rule=KEPT,
    ),
    _synthetic(
        "drop_wave", "Helps on Drop-Wave", _TEST, _on_one(loss_ratio, functions=["drop_wave"])
    ),
    _synthetic(
        "drop_wave_above_all",
        "Helps on Drop-Wave above all",
        f"{_TEST}: on Drop-Wave over the closest other function",
        _on_one(lowest_ratio, function="drop_wave"),
    ),
    _synthetic(
        "heterogeneous",
        "Helps most on locally heterogeneous targets",
        f"{_TEST}: on Drop-Wave, Griewank, Levy and their like over all other targets",
        _on_one(ratio_on_ripples, without=LITTLE_HELPED),
    ),
    *(
        _synthetic(
            f"little_{function}",
            f"Helps little, and harms little, on {function_title(function)}",
            _TEST,
            _on_one(loss_ratio, functions=[function]),
            rule=LITTLE,
            smallest=SETTLED,
        )
        for function in LITTLE_HELPED
    ),
    Claim(
        "deep_narrow",
        "Helps more in the deep, narrow network",
        f"{PAPER}, appendix B",
        f"{_TEST}: in the deepest network of the study over the shallowest",
        _on_one(ratio_with_depth),
        "experiment=deep_narrow",
    ),
    _synthetic(
        "stability",
        "More stable optimisation than LoRA's",
        "queryable LoRA's spread over seeds over LoRA's",
        _on_one(spread_ratio),
        smallest=SETTLED,
    ),
    *gradient_claims(_on_several, _INSTRUCTIONS),
    *(
        Claim(
            f"text_{where}_{control}",
            f"A target's own text helps more than {what} on {place}",
            f"{PAPER}, instruction-conditioned routing; the controls are ours",
            f"instruction-queryable LoRA's {loss_title(loss)}: with its own over with {what}",
            _on_several(text_ratio, loss=loss, control=control),
            _INSTRUCTIONS,
        )
        for where, loss, place in zip(
            ("test", "unseen", "paraphrased"),
            (SYNTHETIC.deciding, *SYNTHETIC.extra_losses),
            ("the targets served", "unseen targets", "held-out wordings"),
            strict=True,
        )
        for control, what in (("shuffled", "a random one"), ("empty", "an empty one"))
    ),
    Claim(
        "retention",
        "Retains the losses of old tasks better than LoRA",
        f"{PAPER}, appendix C",
        "queryable LoRA's growth of old tasks' losses over LoRA's",
        partial(forgetting, QUERYABLE, LORA),
        _CONTINUAL,
    ),
    sparsity_claim(_CONTINUAL),
]

CLAIMS_OF = {SYNTHETIC.name: CLAIMS, LANGUAGE.name: LANGUAGE_CLAIMS}
