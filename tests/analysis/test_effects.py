"""Effects of settings: those of plain loops and of scipy, and what makes a ratio unknown."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import DECIDING, cell_of, markdown_rows, render, summary_of, write_run
from random_tables import QUALITY, named
from scipy import stats

from analysis.legend import UNCHECKED, noise_note, unchecked
from analysis.names import ALL
from analysis.settings import swept
from analysis.stats.effects import LOSS, RATIO, effects
from analysis.table import with_columns
from qlexp.store.files import write_folder
from qlexp.store.store import Store

SEEDS = (0, 1, 2, 3)
FUNCTIONS = ("drop_wave", "matyas")
SIZES = ("4", "8", "16")
FACTORIAL = {
    "method.gated": ("true", "false"),
    "method.atoms": SIZES,
    "trainer.adapt.schedule": ("cosine", "constant"),
}
Grid = Mapping[str, Sequence[str]]
Changes = Callable[[dict], dict]


def runs(axes: Grid, functions: Sequence[str] = FUNCTIONS, method: str = "queryable") -> list[dict]:
    """The full grid of `axes` as rows of the long table, with losses drawn at random."""
    draw = np.random.default_rng([len(axes), *map(ord, method)])
    return [
        {
            "budget": "equal_rank",
            "function": function,
            "method": method,
            "overrides": "; ".join(
                f"{axis}={word}" for axis, word in zip(axes, words, strict=True)
            ),
            "seed": seed,
            "run_id": f"{function}-{method}-{'-'.join(words)}-{seed}",
            "status": "done",
            "reading": False,
            "trainable_parameters": 1000,
            "reference_parameters": 1000,
            **QUALITY,
            "validation_loss": 0.1,
            "test_loss": 0.1,
            "loss": float(draw.lognormal(-3, 1)),
        }
        for function in functions
        for words in itertools.product(*axes.values())
        for seed in SEEDS
    ]


def table_of(rows: list[dict], axes: Sequence[str] | None = None) -> pd.DataFrame:
    frame = named(pd.DataFrame(rows))
    return effects(with_columns(frame), list(axes or swept(frame)))


def log_ratios(rows: list[dict], effect: dict, function: str) -> list[float]:
    """By seed the mean log ratio of an effect on one function, by a plain loop."""
    new, old = (f"{effect['setting']}={effect[name]}" for name in ("value", "first"))
    losses = {
        (frozenset(run["overrides"].split("; ")), run["seed"]): run["loss"]
        for run in rows
        if (run["function"], run["method"]) == (function, effect["method"])
    }
    found = []
    for seed in sorted({seed for _, seed in losses}):
        logs = [
            math.log(loss / losses[words - {new} | {old}, seed])
            for (words, own), loss in losses.items()
            if own == seed and new in words and (words - {new} | {old}, seed) in losses
        ]
        found.append(sum(logs) / len(logs))
    return found


def ends_of(effect: dict) -> list[float]:
    return [math.log(effect[name]) for name in ("ratio", "low", "high")]


def test_a_factorial_has_the_main_effects_of_a_plain_loop() -> None:
    schedule = {"trainer.adapt.schedule": FACTORIAL["trainer.adapt.schedule"]}
    rows = runs(FACTORIAL) + runs(schedule, method="lora")
    table = table_of(rows)
    changes = table[["method", "setting", "value", "first"]].drop_duplicates().to_numpy().tolist()
    assert changes == [
        ["lora", "trainer.adapt.schedule", "cosine", "constant"],
        ["queryable", "method.gated", "true", "false"],
        ["queryable", "method.atoms", "8", "4"],
        ["queryable", "method.atoms", "16", "4"],
        ["queryable", "trainer.adapt.schedule", "cosine", "constant"],
    ]
    assert len(table) == len(changes) * (len(FUNCTIONS) + 1)
    for effect in table[table["function"] != ALL].to_dict("records"):
        logs = log_ratios(rows, effect, effect["function"])
        low, high = stats.ttest_1samp(logs, 0.0).confidence_interval(0.95)
        assert ends_of(effect) == pytest.approx([np.mean(logs), low, high])
        assert effect["seeds"] == len(SEEDS)
    pairs = table.loc[table["function"] == ALL, "pairs"] / (len(FUNCTIONS) * len(SEEDS))
    assert pairs.tolist() == [1, 6, 4, 4, 6]  # combinations of the other settings


def test_over_two_functions_it_is_half_of_welchs_difference() -> None:
    """mean(a) / 2 + mean(b) / 2 is half of the difference between a and -b."""
    rows = runs(FACTORIAL)
    table = table_of(rows)
    overall = table[table["function"] == ALL].to_dict("records")
    assert len(overall) == 4
    for effect in overall:
        first, second = (np.array(log_ratios(rows, effect, name)) for name in FUNCTIONS)
        welch = stats.ttest_ind(first, -second, equal_var=False).confidence_interval(0.95)
        middle = (first.mean() + second.mean()) / 2
        assert ends_of(effect) == pytest.approx([middle, welch.low / 2, welch.high / 2])


def test_over_one_function_it_is_that_of_the_function() -> None:
    one, overall = table_of(runs({"method.top_k": ("1", "2")}, ["levy"])).to_dict("records")
    assert (one.pop("function"), overall.pop("function")) == ("levy", ALL)
    assert one == overall
    assert one["low"] < one["ratio"] < one["high"]


def lacking(rows: list[dict], words: str, change: Changes) -> list[dict]:
    """`rows` with seed 1 of one cell on Drop-Wave changed; None takes it away."""
    identity = f"drop_wave-queryable-{words}-1"
    assert identity in {run["run_id"] for run in rows}
    changed = [change(run) if run["run_id"] == identity else run for run in rows]
    return [run for run in changed if run]


LACKS: dict[str, Changes] = {
    "infinite": lambda run: {**run, "status": "diverged", "loss": math.inf},
    "missing": lambda run: {**run, "status": "missing", "loss": math.nan},
    "failed": lambda run: {**run, "status": "failed", "loss": math.nan},
    "unasked": lambda run: {},
}


@pytest.mark.parametrize("name", LACKS)
@pytest.mark.parametrize("words", ["true-16", "true-4"])
def test_one_run_that_is_lacking_makes_unknown_what_rests_on_it(name: str, words: str) -> None:
    axes = {axis: FACTORIAL[axis] for axis in ("method.gated", "method.atoms")}
    rows = runs(axes)
    whole, table = table_of(rows), table_of(lacking(rows, words, LACKS[name]))
    assert len(whole) == len(table) == 9
    for before, after in zip(whole.to_dict("records"), table.to_dict("records"), strict=True):
        rests = after["function"] in ("drop_wave", ALL) and (
            after["setting"] == "method.gated" or words in ("true-4", f"true-{after['value']}")
        )
        for count in LACKS:
            assert after[count] == (rests and count == name)
        for end in ("ratio", "low", "high"):
            assert math.isfinite(before[end])
            assert math.isnan(after[end]) if rests else after[end] == before[end]


def test_other_settings_count_where_both_values_were_asked_for() -> None:
    """One factor at a time: a start, and each setting changed alone."""
    axes = {"method.gated": ("false", "true"), "method.atoms": ("4", "8")}
    corner = "method.gated=true; method.atoms=8"
    rows = [run for run in runs(axes) if run["overrides"] != corner]
    table = table_of(rows)
    assert table["ratio"].notna().all()
    for effect in table[table["function"] != ALL].to_dict("records"):
        logs = log_ratios(rows, effect, effect["function"])
        assert math.log(effect["ratio"]) == pytest.approx(np.mean(logs))
        assert (effect["pairs"], effect["unasked"]) == (len(SEEDS), 0)


def test_without_the_settings_first_value_a_method_has_its_own() -> None:
    rows = runs({"method.top_k": ("1", "2", "4")})
    rows += runs({"method.top_k": ("4", "2")}, method="query_only")
    own = table_of(rows).query("method == 'query_only'")
    assert set(zip(own["value"], own["first"], strict=True)) == {("4", "2")}
    assert own["ratio"].notna().all()


def test_a_method_that_lacks_a_function_has_no_effect_over_all_of_them() -> None:
    rows = runs({"method.top_k": ("1", "2")}, ["levy"]) + runs({}, method="lora")
    table = table_of(rows).set_index("function")
    assert math.isfinite(table.loc["levy", "ratio"])
    assert math.isnan(table.loc[ALL, "ratio"])


def test_a_function_that_cannot_be_learnt_has_no_part_in_all_functions() -> None:
    rows = runs({"method.top_k": ("1", "2")}, ["levy", *FUNCTIONS])
    full = [{**run, "learnt_r2": -0.5} for run in runs({}, ["levy"], "full")]
    table = table_of(rows + full)
    expected = table_of([run for run in rows if run["function"] != "levy"])
    assert math.isfinite(table.set_index("function").loc["levy", "ratio"])
    table = table[table["function"] != "levy"]
    pd.testing.assert_frame_equal(table.reset_index(drop=True), expected)


def stored(root: Path, axes: Grid, *more: dict) -> Store:
    """Study "made" of a grid, with `more` rows beside it."""
    store, cells = Store(root / "store"), []
    for run in [*runs(axes), *more]:
        own = {name: run[name] for name in ("run_id", "status", "learnt_r2")}
        own |= dict.fromkeys((DECIDING, "test_loss", "unseen_loss"), run["loss"])
        summary = summary_of(run["function"], run["method"], run["seed"], **own)
        write_run(store, summary)
        cells.append(cell_of(summary, run["budget"], *filter(None, run["overrides"].split("; "))))
    store.write_study("made", cells)
    return store


def command(store: Store, out: Path, *more: str) -> Path:
    """The folder that the command writes to."""
    assert render("ablation", store, out, *more, study="made") == 0
    return out / "made"


def test_a_table_is_written_for_each_loss(tmp_path: Path) -> None:
    axes = {"method.gated": ("true", "false"), "method.atoms": ("4", "16")}
    store = stored(tmp_path, axes)
    stems = {DECIDING: "ablation"} | {
        loss: f"ablation_{loss}" for loss in ("test_loss", "unseen_loss")
    }
    for loss, stem in stems.items():
        folder = command(store, tmp_path / loss, "--loss", loss)
        found = {path.suffix for path in folder.glob(f"{stem}_effects.*")}
        assert found == {".md", ".csv", ".tex"}
        (rows,) = markdown_rows(folder / f"{stem}_effects.md").values()
        table = pd.read_csv(folder / f"{stem}_effects.csv", dtype={"value": str, "first": str})
        assert list(rows[0]) == [
            *("method", "setting", "value", "over"),
            *("Drop-Wave", "Matyas", "all functions"),
        ]
        assert [(row["value"], row["over"]) for row in rows] == [("true", "false"), ("16", "4")]
        for row, (_, effect) in zip(rows, table.groupby("setting", sort=False), strict=True):
            ratios = [float(text.split()[0]) for text in list(row.values())[4:]]
            assert ratios == pytest.approx(effect["ratio"].tolist(), rel=5e-3)
        text = (folder / f"{stem}_effects.md").read_text()
        assert "no correction for the number of intervals" in text
        assert "Unchecked" not in text
        assert "no correction for the number of intervals" in (folder / f"{stem}.md").read_text()


def test_gaps_stand_in_the_table(tmp_path: Path) -> None:
    store = stored(tmp_path, {"method.top_k": ("1", "2", "4")})
    for size, state in (("2", "diverged"), ("4", "failed")):
        identity = f"drop_wave-queryable-{size}-3"
        path = store.run_folder(identity) / "summary.json"
        summary = summary_of("drop_wave", "queryable", 3, run_id=identity, status=state)
        path.unlink()
        write_folder(path.parent, {**summary, "error": "OSError"} if state == "failed" else summary)
    folder = command(store, tmp_path, "--allow-missing")
    (rows,) = markdown_rows(folder / "ablation_effects.md").values()
    for row, text in zip(rows, ("1 diverged", "1 failed"), strict=True):
        assert row["Drop-Wave"] == row["all functions"] == text
        assert "[" in row["Matyas"]
    assert "of the runs that a ratio wants" in (folder / "ablation_effects.md").read_text()


def test_what_all_methods_share_has_the_effect_on_the_loss_over_loras() -> None:
    noise = {"data.noise": ("0", "0.1", "0.2")}
    gates = {**noise, "method.gated": ("true", "false")}
    loras = runs(noise, method="lora")
    table = table_of(runs(gates) + loras)
    changed = table[table["setting"] == "data.noise"]
    assert set(changed["method"]) == {"queryable"}
    assert set(changed["of"]) == {RATIO}
    beside = {(run["function"], run["overrides"], run["seed"]): run["loss"] for run in loras}
    relative = []
    for run in runs(gates):
        noise_only = run["overrides"].split("; ")[0]
        lora = beside[run["function"], noise_only, run["seed"]]
        relative.append({**run, "loss": run["loss"] / lora})
    for effect in changed[changed["function"] != ALL].to_dict("records"):
        logs = log_ratios(relative, effect, effect["function"])
        low, high = stats.ttest_1samp(logs, 0.0).confidence_interval(0.95)
        assert ends_of(effect) == pytest.approx([np.mean(logs), low, high])
    own = table[table["setting"] == "method.gated"].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, table_of(runs(gates))[lambda t: t["of"] == LOSS])


@pytest.mark.parametrize("name", LACKS)
@pytest.mark.parametrize("method", ["lora", "queryable"])
def test_a_run_that_is_lacking_on_either_side_makes_the_standing_unknown(
    name: str, method: str
) -> None:
    noise = {"data.noise": ("0", "0.1", "0.2")}
    rows = [
        LACKS[name](run)
        if (run["function"], run["run_id"]) == ("levy", f"levy-{method}-0.1-1")
        else run
        for own in ("lora", "queryable")
        for run in runs(noise, ["levy", "matyas"], own)
    ]
    table = table_of([run for run in rows if run]).set_index(["function", "value"])
    unknown = [("levy", "0.1"), (ALL, "0.1")]
    assert table.index[table["ratio"].isna()].tolist() == unknown
    assert table.loc[unknown, name].tolist() == [1, 1]
    assert table[list(LACKS)].to_numpy().sum() == 2


def test_losses_of_another_task_are_not_compared() -> None:
    """LoRA was asked for at one value of the noise only, which its overrides do not name."""
    lora = runs({}, method="lora")
    assert table_of(runs({"data.noise": ("0", "0.1", "0.2")}) + lora).empty
    some = runs({"data.noise": ("0.1", "0.2")}, method="lora")
    table = table_of(runs({"data.noise": ("0", "0.1", "0.2")}) + some)
    assert set(table["first"]) == {"0"}
    assert table["ratio"].isna().all()
    assert (table.loc[table["function"] != ALL, "unasked"] == len(SEEDS)).all()


def test_the_standing_is_taken_within_a_budget_and_beside_loras_row_of_the_same_variant() -> None:
    noise = {"data.noise": ("0", "0.1")}
    alone = table_of(runs(noise) + runs(noise, method="lora"))
    other = [{**run, "budget": "lora_r4"} for run in runs(noise) + runs(noise, method="lora")]
    other = [{**run, "loss": run["loss"] ** 2} for run in other]
    both = effects(
        with_columns(named(pd.DataFrame(runs(noise) + runs(noise, method="lora") + other))),
        ["data.noise"],
    )
    own = both[both["budget"] == "equal_rank"].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, alone)

    def variant(rows: list[dict], word: str, power: float) -> list[dict]:
        return [
            {
                **run,
                "overrides": f"{run['overrides']}; {word}",
                "run_id": f"{run['run_id']}-{word}",
                "loss": run["loss"] ** power,
            }
            for run in rows
        ]

    loras = runs(noise, method="lora")
    rows = runs(noise) + variant(loras, "x=1", 2) + variant(loras, "x=2", 1)
    assert table_of(rows, ["data.noise"]).empty  # neither is the one
    told = effects(
        with_columns(named(pd.DataFrame(variant(runs(noise), "x=2", 1) + rows))), ["data.noise"]
    )
    assert told["variant"].unique().tolist() == ["x=2"]
    assert told["ratio"].tolist() == pytest.approx(alone["ratio"].tolist())


def test_two_settings_of_the_task_are_averaged_over_each_other() -> None:
    axes = {"shift.strength": ("0", "0.2"), "shift.rotation": ("0", "15", "45")}
    loras = runs(axes, method="lora")
    table = table_of(runs(axes) + loras)
    relative = [
        {**run, "loss": run["loss"] / lora["loss"]}
        for run, lora in zip(runs(axes), loras, strict=True)
    ]
    expected = [("shift.strength", "0.2"), ("shift.rotation", "15"), ("shift.rotation", "45")]
    one = table[table["function"] == "matyas"]
    assert list(zip(one["setting"], one["value"], strict=True)) == expected
    for effect in one.to_dict("records"):
        assert math.log(effect["ratio"]) == pytest.approx(
            np.mean(log_ratios(relative, effect, "matyas"))
        )


def test_losses_of_zero_tie_and_do_not_pass_for_divergence() -> None:
    noise = {"data.noise": ("0", "0.1")}
    still = [
        {**run, "loss": 0.0} for own in ("lora", "queryable") for run in runs(noise, method=own)
    ]
    table = table_of(still)
    assert table["ratio"].tolist() == [1.0, 1.0, 1.0]
    assert not table[list(LACKS)].to_numpy().any()


def test_notes_say_what_is_compared(tmp_path: Path) -> None:
    noise = {"data.noise": ("0", "0.2")}
    both = {**noise, "method.gated": ("true", "false")}
    loras = runs(noise, method="lora")
    store = stored(tmp_path / "alone", noise, *loras)
    text = (command(store, tmp_path / "alone") / "ablation_effects.md").read_text()
    assert text.startswith("# Effects on the test loss without noise over lora's of data.noise")
    assert "Another value of data.noise is another task" in text
    assert "below 1 the value has the lower one" not in text
    assert "| of |" not in text
    assert "No effects of" not in text
    store = stored(tmp_path / "mixed", both, *loras)
    text = (command(store, tmp_path / "mixed") / "ablation_effects.md").read_text()
    assert "below 1 the value has the lower one" in text
    (rows,) = markdown_rows(tmp_path / "mixed" / "made" / "ablation_effects.md").values()
    assert [(row["setting"], row["of"]) for row in rows] == [
        ("data.noise", "ratio"),
        ("method.gated", "loss"),
    ]


@pytest.mark.parametrize("loss", ["test_loss", "unseen_loss", "post_train_loss", DECIDING])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_losses_that_hold_the_noise_are_told(noise: float, loss: str) -> None:
    frame = pd.DataFrame({"status": "done", "config.data.noise": [0.0, noise]})
    text = " ".join(noise_note(frame, loss))
    assert bool(text) == (noise > 0 and loss in ("test_loss", "unseen_loss"))
    assert (DECIDING in text) == (noise > 0 and loss == "test_loss")
    assert noise_note(frame[["status"]], loss) == []


def test_what_all_methods_share_has_no_effect_without_lora(tmp_path: Path) -> None:
    noise = {"data.noise": ("0", "0.2")}
    folder = command(stored(tmp_path / "noise", noise), tmp_path / "noise")
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".svg") == [
        "ablation.csv",
        "ablation.md",
        "ablation.tex",
    ]
    both = {**noise, "method.gated": ("true", "false")}
    folder = command(stored(tmp_path / "both", both), tmp_path / "both")
    (rows,) = markdown_rows(folder / "ablation_effects.md").values()
    assert [row["setting"] for row in rows] == ["method.gated"]
    assert "No effects of data.noise: another value" in (folder / "ablation_effects.md").read_text()
    expected = table_of(runs(both))
    written = pd.read_csv(folder / "ablation_effects.csv")
    assert written["ratio"].tolist() == pytest.approx(expected["ratio"].tolist())


@pytest.mark.parametrize(("status", "noted"), [("done", False), ("diverged", False), (None, True)])
def test_functions_are_unchecked_without_a_run_of_full(
    status: str | None, noted: bool, tmp_path: Path
) -> None:
    full = [{**run, "status": status} for run in runs({}, method="full") if status]
    store = stored(tmp_path, {"method.top_k": ("1", "2")}, *full)
    folder = command(store, tmp_path)
    for name in ("ablation.md", "ablation_effects.md"):
        assert (f"- {UNCHECKED}" in (folder / name).read_text()) == noted


def test_a_run_of_full_that_is_missing_checks_nothing() -> None:
    rows = pd.DataFrame(runs({}, method="full"))
    assert unchecked(rows) == []
    assert unchecked(rows.assign(status="missing")) == [UNCHECKED]
