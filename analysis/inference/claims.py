"""What the paper says of inference time (Table 5), beside what was measured."""

from collections.abc import Callable

from analysis.claims.rules import NOT_SUPPORTED, SUPPORTED, UNDECIDED
from analysis.inference.measure import REFERENCE, Setting
from analysis.inference.report import Measured, ratio_text
from analysis.names import REFERENCES
from analysis.ratios import Ratio
from analysis.render import Grid, Section, Text

OURS = "queryable"
SAME = (REFERENCE, "rslora")  # adapters with LoRA's arithmetic
SLOWER = ("rep_lora", "hyra", "doran")  # than queryable, says the paper
NEGLIGIBLE = 0.05  # of the backbone's products; the paper gives no number

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
    notes = [
        f"A claim on a ratio is {SUPPORTED}, or {NOT_SUPPORTED}, where the whole 95 % interval "
        f"lies on one side of 1; else it is {UNDECIDED}. Merged adapters take no part: they are "
        "the backbone. rslora is LoRA but for its scale, and not compared with it.",
        f"Arithmetic counts as negligible below {NEGLIGIBLE:.0%} of the backbone's products, a "
        "bound of ours; the time that an adapter adds is measured over the same model merged, "
        f"which for {REFERENCE} is the bare backbone.",
        "Rows marked style are readings of their papers: they say nothing of the authors' code. "
        "The paper timed language models, which decode token by token; this is one pass.",
    ]
    headers = ["setting", "measured", "verdict"]
    caption = "What the paper says and what was measured"
    return Grid("inference_claims", caption, headers, sections, notes)


def fastest(measured: Measured, setting: Setting) -> Finding:
    """LoRA against every other adapter that does not do the same."""
    others = [name for name in measured.methods if name not in (*REFERENCES, *SAME)]
    ratios = {name: _ratio(measured, setting, name) for name in others}
    faster = {name: ratio for name, ratio in ratios.items() if ratio.below_one}
    unclear = {n: ratio for n, ratio in ratios.items() if not (ratio.below_one or ratio.above_one)}
    slow = len(ratios) - len(faster) - len(unclear)
    parts = [f"slower: {slow} of {len(ratios)}"]
    for word, found in (("faster", faster), ("not told apart", unclear)):
        listed = (f"{measured.label(name)} {ratio.median:.2f}" for name, ratio in found.items())
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
        return ratio_text(ratio), verdict(ratio.below_one, ratio.above_one)

    return finding


def negligible(measured: Measured, setting: Setting) -> Finding:
    """Products that LoRA and queryable add, and the time that they add."""
    shares, parts = [], []
    for name in (REFERENCE, OURS):
        if name not in measured.methods:
            continue
        row = measured.row(setting, name)
        assert row.adapter_flops is not None
        shares.append(row.adapter_flops / row.backbone_flops)
        added = _added_time(measured, setting, name)
        parts.append(f"{name} {shares[-1]:+.1%} products, {added:+.0%} time")
    return "; ".join(parts), SUPPORTED if max(shares) < NEGLIGIBLE else NOT_SUPPORTED


def _added_time(measured: Measured, setting: Setting, method: str) -> float:
    """Median over rounds of the time over the bare backbone's, which is LoRA merged, less 1."""
    bare = measured.ratio(setting, REFERENCE, merged=True)
    assert bare is not None
    return _ratio(measured, setting, method).median / bare.median - 1


def _ratio(measured: Measured, setting: Setting, method: str, over: str = REFERENCE) -> Ratio:
    ratio = measured.ratio(setting, method, over=over)
    assert ratio is not None  # an unmerged form is always timed
    return ratio


def verdict(confirmed: bool, refuted: bool) -> str:
    return SUPPORTED if confirmed else NOT_SUPPORTED if refuted else UNDECIDED
