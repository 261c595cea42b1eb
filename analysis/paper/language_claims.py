"""What the paper claims of language models, one entry each of `LANGUAGE_CLAIMS`.

Readings of this project, where the paper gives no measure:

- "higher accuracy": a lower test error, the smoothed share of wrong answers to the test examples,
  on the same task and seed, at a parameter count within 10 % of LoRA's; a change of interest: 2 %
  of the error;
- instructions: with the text over the same method without it, and over texts dealt out at random
  (shuffled) or left out (empty);
- gradient norms: as on functions (`analysis.paper.claims`);
- "forgets less": of tasks in sequence, the growth of the test error since a task was learnt, mean
  over all but the last;
- "route drift is small": at most a tenth of the atom weight of old tasks' inputs has moved at the
  end;
- "no worse": the loss on neutral text after adaptation is at most 2 % above that after LoRA's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from analysis.claims.evidence import Evidence
from analysis.claims.measures import loss_ratio
from analysis.claims.rules import LITTLE, NO_WORSE, Claim, Finding, LackingError
from analysis.claims.traces import forgetting, stillness, text_ratio
from analysis.paper.atom_claims import sparsity_claim
from analysis.paper.gradient_claims import gradient_claims
from analysis.paper.names import INSTRUCTED, LORA, PAPER, QUERYABLE, SETTLED

_TASKS, _CONTINUAL = "experiment=lm_tasks", "experiment=lm_continual"
_TITLES = {QUERYABLE: "queryable LoRA", INSTRUCTED: "instruction-queryable LoRA"}


def _at_once(
    measure: Callable[..., Finding], /, *methods: str, **options: Any
) -> Callable[[Evidence], Finding]:
    """`measure` of the first of `methods` against the other, tasks in sequence left out."""

    def compute(evidence: Evidence) -> Finding:
        if evidence.runs(methods[0])["task_losses"].notna().any():
            raise LackingError("tasks in sequence: the claim is on tasks that are learnt at once")
        return measure(*methods, evidence, **options)

    return compute


def _instructed(
    measure: Callable[..., Finding], /, *against: str, **options: Any
) -> Callable[[Evidence], Finding]:
    """The same of instruction-queryable LoRA."""
    return _at_once(measure, INSTRUCTED, *against, **options)


LANGUAGE_CLAIMS: list[Claim] = [
    *(
        Claim(
            f"accuracy_{method}",
            f"Higher accuracy of {title} than LoRA's at a comparable parameter count",
            f"{PAPER}, Tables 3, 4 and 11",
            f"{title}'s test error over LoRA's, mean over tasks",
            _at_once(loss_ratio, method, LORA, comparable=True),
            _TASKS,
        )
        for method, title in _TITLES.items()
    ),
    Claim(
        "instruction",
        "Higher accuracy with instruction-conditioned routing than without",
        f"{PAPER}, Tables 3, 4 and 11",
        "instruction-queryable LoRA's test error over queryable LoRA's, mean over tasks",
        _instructed(loss_ratio, QUERYABLE),
        _TASKS,
    ),
    *(
        Claim(
            f"text_{control}",
            f"An example's own text helps more than {what}",
            f"{PAPER}, instruction-conditioned routing; the controls are ours",
            f"instruction-queryable LoRA's test error: with its own over with {what}",
            _instructed(text_ratio, control=control),
            f"instruction.control=matched,{control}",
        )
        for control, what in (("shuffled", "a random one"), ("empty", "an empty one"))
    ),
    *gradient_claims(_instructed, _TASKS),
    Claim(
        "forgetting",
        "Forgets tasks in sequence less than LoRA",
        f"{PAPER}, appendix C",
        "queryable LoRA's growth of old tasks' test error over LoRA's",
        partial(forgetting, QUERYABLE, LORA),
        _CONTINUAL,
    ),
    Claim(
        "route_drift",
        "The routes of old tasks drift little",
        f"{PAPER}, appendix C",
        "the share of old tasks' atom weight that has not moved at the end",
        partial(stillness, QUERYABLE),
        _CONTINUAL,
        LITTLE,
        SETTLED,
    ),
    sparsity_claim(_CONTINUAL),
    *(
        Claim(
            f"retention_{method}",
            f"No worse loss on neutral text after {title} than after LoRA",
            f"{PAPER}, lightweight adaptation; the measure is ours",
            f"{title}'s loss on neutral text over LoRA's, mean over tasks",
            partial(loss_ratio, method, LORA, loss="retention_loss"),
            _TASKS,
            NO_WORSE,
        )
        for method, title in _TITLES.items()
    ),
]
