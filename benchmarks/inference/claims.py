"""What the paper says of inference time (Table 5), beside what was measured."""

from collections.abc import Callable, Iterable
from functools import partial

from analysis.claims.rules import NOT_SUPPORTED, SUPPORTED, UNDECIDED
from analysis.names import REFERENCES
from analysis.render import Grid
from analysis.stats.intervals import Interval
from benchmarks.contenders import REFERENCE
from benchmarks.inference.measured import LORA, Form, Measured, Setting
from benchmarks.report import interval_text, section
from benchmarks.timing import LEVEL

OURS = "queryable"
SAME = (REFERENCE, "rslora", "shared_lora")  # adapters with LoRA's arithmetic
SLOWER = ("rep_lora", "hyra", "doran")  # than queryable, says the paper
NEGLIGIBLE = 0.05  # of the backbone's FLOPs; the paper gives no number
NOT_JUDGED = "style: not judged"

Finding = tuple[str, str]  # the figures, the verdict
Judge = Callable[[Measured, Setting], Finding]


def claims_grid(measured: Measured) -> Grid:
    """A section a claim, a row a setting; claims on methods that were not timed are left out."""
    claims: dict[str, Judge] = {f"{REFERENCE} is the fastest adapter": fastest}
    if OURS in measured.methods:
        claims[f"{OURS} is slower than {REFERENCE}"] = slower
        for other in SLOWER:
            if other in measured.methods:
                name = f"{OURS} is faster than {measured.label(other)}"
                claims[name] = partial(faster, other=other)
    claims["the adapters' arithmetic is negligible"] = negligible
    sections = [
        section(f"The paper: {claim}", [[str(s), *judge(measured, s)] for s in measured.settings])
        for claim, judge in claims.items()
    ]
    headers = ["setting", "measured", "verdict"]
    caption = "What the paper says and what was measured"
    return Grid("inference_claims", caption, headers, sections, _notes(measured))


def _notes(measured: Measured) -> list[str]:
    rivals = rivals_of(measured.methods, measured.reading)
    return [
        f"A claim on a ratio is {SUPPORTED}, or {NOT_SUPPORTED}, where the whole interval lies on "
        f"one side of 1; else it is {UNDECIDED}. Intervals are of {LEVEL:.0%}; those of the first "
        f"claim, over the number of adapters compared ({len(rivals)}), of "
        f"{joint_level(len(rivals)):.2%} each (Bonferroni). Settings are judged one by one.",
        "Merged adapters take no part: they are the backbone. Nor do "
        f"{' and '.join(SAME[1:])}, which have {REFERENCE}'s arithmetic.",
        f"Negligible is judged by FLOPs, below {NEGLIGIBLE:.0%} of the backbone's, a bound of "
        "ours; the time beside it, over the bare backbone's in the same rounds less 1, with its "
        f"{LEVEL:.0%} interval, is not judged. It holds the calls of small operations too.",
        "Rows marked style are readings of their papers: they say nothing of the authors' code, "
        "so they get a ratio and no verdict.",
        "The paper timed language models, which decode token by token; this is one pass.",
    ]


def rivals_of(methods: Iterable[str], reading: Callable[[str], bool]) -> list[str]:
    """Adapters that LoRA is compared with: of other arithmetic, and no readings."""
    return [name for name in methods if name not in (*REFERENCES, *SAME) and not reading(name)]


def joint_level(count: int) -> float:
    """Of each of `count` intervals, so that all hold together at `LEVEL`: Bonferroni's."""
    return 1 - (1 - LEVEL) / max(count, 1)


def fastest(measured: Measured, setting: Setting) -> Finding:
    """LoRA against every rival."""
    rivals = rivals_of(measured.methods, measured.reading)
    if not rivals:
        return "no other adapter that is no reading", UNDECIDED
    level = joint_level(len(rivals))
    found: dict[str, list[str]] = {SUPPORTED: [], NOT_SUPPORTED: [], UNDECIDED: []}
    for name in rivals:
        ratio = _ratio(measured, setting, Form(name), level=level)
        found[verdict(ratio.low > 1, ratio.high < 1)].append(f"{name} {ratio.value:.2f}")
    parts = [f"slower: {len(found[SUPPORTED])} of {len(rivals)}"]
    for word, answer in (("faster", NOT_SUPPORTED), ("not told apart", UNDECIDED)):
        if found[answer]:
            parts.append(f"{word}: {', '.join(found[answer])}")
    decided = not found[NOT_SUPPORTED] and not found[UNDECIDED]
    return "; ".join(parts), verdict(decided, bool(found[NOT_SUPPORTED]))


def slower(measured: Measured, setting: Setting) -> Finding:
    """Queryable over LoRA."""
    ratio = _ratio(measured, setting, Form(OURS))
    return interval_text(ratio), verdict(ratio.low > 1, ratio.high < 1)


def faster(measured: Measured, setting: Setting, other: str) -> Finding:
    """Queryable over another."""
    ratio = _ratio(measured, setting, Form(OURS), over=Form(other))
    judged = verdict(ratio.high < 1, ratio.low > 1)
    return interval_text(ratio), NOT_JUDGED if measured.reading(other) else judged


def negligible(measured: Measured, setting: Setting) -> Finding:
    """FLOPs that LoRA and queryable add, which are judged, and the time that they add.

    The time is over the bare backbone's, which is LoRA merged, round by round.
    """
    shares, parts = [], []
    for name in (REFERENCE, OURS):
        if name not in measured.methods:
            continue
        share = measured.cost(setting, name).share
        ratio = _ratio(measured, setting, Form(name), over=Form(REFERENCE, merged=True))
        median, low, high = (f"{limit - 1:+.0%}" for limit in ratio)
        shares.append(share)
        parts.append(f"{name} {share:+.1%} FLOPs, {median} ({low} to {high}) time")
    found = SUPPORTED if max(shares) < NEGLIGIBLE else NOT_SUPPORTED
    return "; ".join(parts), f"FLOPs: {found}"


def _ratio(
    measured: Measured,
    setting: Setting,
    form: Form,
    over: Form = LORA,
    level: float = LEVEL,
) -> Interval:
    ratio = measured.ratio(setting, form, over, level)
    assert ratio is not None  # all of these are timed
    return ratio


def verdict(confirmed: bool, refuted: bool) -> str:
    return SUPPORTED if confirmed else NOT_SUPPORTED if refuted else UNDECIDED
