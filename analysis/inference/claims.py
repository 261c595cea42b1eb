"""What the paper says of inference time (Table 5), beside what was measured."""

from collections.abc import Callable, Iterable

from analysis.claims.rules import NOT_SUPPORTED, SUPPORTED, UNDECIDED
from analysis.inference.measure import REFERENCE, Setting
from analysis.inference.report import Measured, ratio_text
from analysis.names import REFERENCES
from analysis.ratios import LEVEL, Ratio
from analysis.render import Grid, Section, Text

OURS = "queryable"
SAME = (REFERENCE, "rslora", "shared_lora")  # adapters with LoRA's arithmetic
SLOWER = ("rep_lora", "hyra", "doran")  # than queryable, says the paper
NEGLIGIBLE = 0.05  # of the backbone's FLOPs; the paper gives no number
NOT_JUDGED = "style: not judged"

Finding = tuple[str, str]  # the figures, the verdict
Judge = Callable[[Measured, Setting], Finding]


def claims_grid(measured: Measured) -> Grid:
    """A section a claim, a row a setting; claims on methods that were not timed are left out."""
    claims: list[tuple[str, Judge]] = [(f"{REFERENCE} is the fastest adapter", fastest)]
    if OURS in measured.methods:
        claims.append((f"{OURS} is slower than {REFERENCE}", slower))
        claims += [
            (f"{OURS} is faster than {measured.label(other)}", _faster_than(other))
            for other in SLOWER
            if other in measured.methods
        ]
    claims.append(("the adapters' arithmetic is negligible", negligible))
    sections = [
        Section(
            f"The paper: {claim}",
            [
                [Text(f"{s.place}, batch {s.batch}"), *map(Text, finding(measured, s))]
                for s in measured.settings
            ],
        )
        for claim, finding in claims
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
    ratios = {name: _ratio(measured, setting, name, level=level) for name in rivals}
    faster = {name: ratio for name, ratio in ratios.items() if ratio.below_one}
    unclear = {n: ratio for n, ratio in ratios.items() if not (ratio.below_one or ratio.above_one)}
    slow = len(ratios) - len(faster) - len(unclear)
    parts = [f"slower: {slow} of {len(ratios)}"]
    for word, found in (("faster", faster), ("not told apart", unclear)):
        listed = (f"{name} {ratio.median:.2f}" for name, ratio in found.items())
        if found:
            parts.append(f"{word}: {', '.join(listed)}")
    return "; ".join(parts), verdict(not faster and not unclear, bool(faster))


def slower(measured: Measured, setting: Setting) -> Finding:
    """Queryable over LoRA."""
    ratio = _ratio(measured, setting, OURS)
    return ratio_text(ratio), verdict(ratio.above_one, ratio.below_one)


def _faster_than(other: str) -> Judge:
    """Queryable over another."""

    def finding(measured: Measured, setting: Setting) -> Finding:
        ratio = _ratio(measured, setting, OURS, over=other)
        if measured.reading(other):
            return ratio_text(ratio), NOT_JUDGED
        return ratio_text(ratio), verdict(ratio.below_one, ratio.above_one)

    return finding


def negligible(measured: Measured, setting: Setting) -> Finding:
    """FLOPs that LoRA and queryable add, which are judged, and the time that they add."""
    shares, parts = [], []
    for name in (REFERENCE, OURS):
        if name not in measured.methods:
            continue
        share = measured.row(setting, name).share
        assert share is not None  # an unmerged form is always counted
        shares.append(share)
        parts.append(f"{name} {share:+.1%} FLOPs, {_added_time(measured, setting, name)} time")
    found = SUPPORTED if max(shares) < NEGLIGIBLE else NOT_SUPPORTED
    return "; ".join(parts), f"FLOPs: {found}"


def _added_time(measured: Measured, setting: Setting, method: str) -> str:
    """`+49% (+40% to +60%)`: over the bare backbone, which is LoRA merged, round by round."""
    ratio = measured.ratio(setting, method, over=REFERENCE, over_merged=True)
    assert ratio is not None
    return f"{ratio.median - 1:+.0%} ({ratio.low - 1:+.0%} to {ratio.high - 1:+.0%})"


def _ratio(
    measured: Measured, setting: Setting, method: str, over: str = REFERENCE, level: float = LEVEL
) -> Ratio:
    ratio = measured.ratio(setting, method, over=over, level=level)
    assert ratio is not None  # an unmerged form is always timed
    return ratio


def verdict(confirmed: bool, refuted: bool) -> str:
    return SUPPORTED if confirmed else NOT_SUPPORTED if refuted else UNDECIDED
