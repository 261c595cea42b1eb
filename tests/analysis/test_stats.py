"""Statistics of a study: what leaves them alone, what is printed, and the command."""

import io
import itertools
import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import DECIDING, LEARNING_RATE, NINE, STUDY, cell_of, render, summary_of, write_run
from random_tables import FUNCTIONS, SEEDS, TABLES, long_table, named, pairs_of, row, same

from analysis.figures.stats import iqm_figure, ranks_figure
from analysis.render import NO_CELL
from analysis.stats.aggregates import by_function, improvement, iqm, profiles
from analysis.stats.pairs import paired
from analysis.stats.ranks import against_baseline, average_ranks, function_ranks
from analysis.table import with_columns
from analysis.tuning import tune
from analysis.views import stats
from qlexp.store.files import write_folder
from qlexp.store.store import Store

# Invariances
command = partial(render, "stats")


def statistics_of(frame: pd.DataFrame) -> list[pd.DataFrame]:
    cells = pairs_of(frame)
    return [
        f(cells) for f in (iqm, by_function, improvement, profiles, against_baseline, average_ranks)
    ]


def test_the_order_of_rows_is_nothing() -> None:
    frame = long_table(*TABLES["diverged_and_tied"])
    shuffled = frame.sample(frac=1.0, random_state=5, ignore_index=True)
    same(statistics_of(frame), statistics_of(shuffled))


def test_a_method_may_have_any_name() -> None:
    frame = long_table(*TABLES["diverged_and_tied"])
    renamed = frame.replace({"method": {"dora": "zeta"}})
    back = [table.replace({"zeta": "dora"}) for table in statistics_of(renamed)]
    same(statistics_of(frame), back)


def test_the_scale_of_a_function_is_nothing() -> None:
    frame = long_table(4, 0.1)
    scale = frame["function"].map({name: 10.0**i for i, name in enumerate(FUNCTIONS)})
    same(
        statistics_of(frame),
        statistics_of(frame.assign(test_loss_clean=frame["test_loss_clean"] * scale)),
    )


def test_ranks_and_improvement_need_the_order_of_losses_alone(frame: pd.DataFrame) -> None:
    bent = frame.assign(
        test_loss_clean=np.arctan(frame["test_loss_clean"]).where(
            np.isfinite(frame["test_loss_clean"]), math.inf
        )
    )
    one, other = (pairs_of(table) for table in (frame, bent))
    same([improvement(one), average_ranks(one)], [improvement(other), average_ranks(other)])
    block = one[one["budget"] == "lora_r4"]
    assert function_ranks(block).sum(axis=1).tolist() == pytest.approx([6.0] * len(FUNCTIONS))


def test_blocks_do_not_touch_each_other() -> None:
    frame = long_table()
    changed = frame.assign(
        test_loss_clean=frame["test_loss_clean"].where(
            frame["budget"] == "equal_rank", 0.25 * frame["seed"] + 1
        )
    )
    one, other = (statistics_of(table) for table in (frame, changed))
    same(*([t[t["budget"] == "equal_rank"] for t in tables] for tables in (one, other)))
    assert not one[0].equals(other[0])


# What is printed


def ordered_table(few: Sequence[str] = FUNCTIONS) -> pd.DataFrame:
    """Queryable is first, dora second, LoRA last; `few` are the second block's functions."""
    frame = long_table(infinite=0.0, functions=list(NINE))
    factors = frame["method"].map({"queryable": 1.0, "dora": 2.0}).fillna(4.0)
    frame = frame.assign(test_loss_clean=factors * (1 + frame["seed"]))
    return frame[(frame["budget"] == "equal_rank") | frame["function"].isin(few)]


def printed(frame: pd.DataFrame) -> tuple[dict[tuple[str, str], dict], list[str], pd.DataFrame]:
    """The cells of the summary by section and row, its notes, and its long table."""
    frame = with_columns(frame)
    cells = paired(frame, DECIDING)
    table = stats.summary(cells, improvement(cells))
    notes = stats.notes_of(frame, cells, table, DECIDING)
    grid = stats.summary_grid(table, "mine", "stats", notes)
    rows = {
        (section.title, own[0].text): dict(zip(grid.headers, own, strict=True))
        for section in grid.sections
        for own in section.rows
    }
    return rows, notes, table


def note_with(notes: Sequence[str], text: str) -> str:
    (note,) = (note for note in notes if text in note)
    return note


def test_what_too_few_functions_cannot_decide_is_not_printed() -> None:
    rows, notes, table = printed(ordered_table())
    known = rows["Equal rank", "queryable"]["p (Holm)"]
    assert (known.text, known.bold) == ("0.0078", True)
    means = [rows["Equal rank", method]["mean ratio"].text for method in ("queryable", "dora")]
    assert [mean.split(" ")[0] for mean in means] == ["0.250", "0.500"]  # stands beside its p
    assert rows["Equal rank", "lora"]["mean ratio"].text == NO_CELL
    hidden = rows["Equal count: LoRA's at rank 4", "queryable"]["p (Holm)"]
    assert (hidden.text, hidden.bold) == (NO_CELL, False)
    assert row(table, budget="lora_r4", method="queryable")["p_holm"] == pytest.approx(0.125)
    note = note_with(notes, "Wilcoxon")
    assert note.startswith("In lora_r4 no difference can be significant after the correction")
    assert "In equal_rank" not in note


def test_a_reading_is_printed_without_a_correction() -> None:
    frame = ordered_table(list(NINE))
    rows, notes, _ = printed(frame.assign(reading=frame["method"] == "queryable"))
    for section in ("Equal rank", "Equal count: LoRA's at rank 4"):
        own = rows[section, "queryable (style)"]
        assert (own["p"].text, own["p (Holm)"].text) == ("0.0039", NO_CELL)
        assert own["average rank"].text == "1.00"
        assert not any(text.bold for text in own.values())
        assert rows[section, "dora"]["p (Holm)"].text == "0.0039"  # of one test
    assert "(style) are not among the tests" in note_with(notes, "Wilcoxon")


@pytest.mark.parametrize(
    ("functions", "wanted"), [(("levy", "matyas"), "none"), (tuple(NINE), "queryable")]
)
def test_rows_beyond_the_critical_difference_are_named(
    functions: Sequence[str], wanted: str
) -> None:
    """Ranks 1, 2 and 3: two of them differ by 2, and two functions allow no less than 2.34."""
    _, notes, _ = printed(ordered_table(functions))
    note = note_with(notes, "Nemenyi")
    assert note.endswith(f"LoRA's rank: equal_rank queryable; lora_r4 {wanted}.")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("loss", "text"), [(0.0, "0"), (math.inf, "inf")])
def test_ratios_that_a_logarithmic_axis_cannot_show_are_written(loss: float, text: str) -> None:
    frame = long_table(infinite=0.0)
    frame = frame[frame["budget"].eq("lora_r4") & frame["method"].ne("lora")]
    figure = iqm_figure(iqm(pairs_of(frame.assign(test_loss_clean=loss))))
    figure.savefig(io.BytesIO())
    (axis,) = figure.axes
    assert [found.get_text() for found in axis.texts] == [text, text]


@pytest.mark.filterwarnings("error")
def test_a_wide_table_is_read_without_a_warning() -> None:
    table = long_table()
    trials = [named(table, f"{LEARNING_RATE}={rate}") for rate in (1, 2)]
    frame = pd.concat(trials, ignore_index=True).assign(validation_loss=1.0)
    frame["run_id"] += frame["overrides"]
    values = (1, 1.5, True, None)
    more = {f"field_{i}": [values[i % 4]] * len(frame) for i in range(400)}
    wide = pd.DataFrame({name: frame[name].tolist() for name in frame} | more)
    assert len(pairs_of(tune(wide)[0])) == len(pairs_of(table))


# The command


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three functions, two budgets; lora diverged on ackley with seed 1."""
    store = Store(tmp_path / "store")
    cells = []
    for function, method, seed in itertools.product(
        ("drop_wave", "matyas", "ackley"),
        ("frozen", "lora", "shared_lora", "queryable", "full"),
        SEEDS,
    ):
        diverged = (function, method, seed) == ("ackley", "lora", 1)
        changes = {"status": "diverged"} if diverged else {}
        summary = summary_of(function, method, seed, **changes, reading=method == "shared_lora")
        write_run(store, summary)
        cells += [cell_of(summary, budget) for budget in ("equal_rank", "lora_r4")]
    store.write_study(STUDY, cells)
    return store


def test_the_command_writes_the_same_bytes_again(store: Store, tmp_path: Path) -> None:
    for out in ("a", "b"):
        assert command(store, tmp_path / out) == 0
    names = sorted(path.name for path in (tmp_path / "a" / STUDY).iterdir())
    assert names == sorted(
        [f"stats{part}.{kind}" for part in ("", "_functions") for kind in ("md", "csv", "tex")]
        + ["stats_improvement.csv", "stats_profiles.csv"]
        + [
            f"stats_{figure}_{budget}.svg"
            for figure in ("iqm", "improvement", "profiles", "ranks")
            for budget in ("equal_rank", "lora_r4")
        ]
    )
    for name in names:
        one, other = (tmp_path / out / STUDY / name for out in ("a", "b"))
        assert one.read_bytes() == other.read_bytes()
        if name.endswith(".svg"):
            assert ET.parse(one).getroot().tag.endswith("svg")
    text = (tmp_path / "a" / STUDY / "stats.md").read_text()
    assert "| lora | 1/9 | 1 |" in text
    assert "shared\\_lora (style)" in text
    assert "frozen |" not in text
    assert "was not checked" not in text
    table = pd.read_csv(tmp_path / "a" / STUDY / "stats.csv")
    assert set(table["method"]) == {"lora", "shared_lora", "queryable"}
    assert row(table, budget="lora_r4", method="lora")["diverged"] == 1


def test_a_loss_above_the_ceiling_is_no_divergence(store: Store, tmp_path: Path) -> None:
    summary = summary_of("matyas", "queryable", 0, test_loss_clean=11.0)
    (store.run_folder(summary["run_id"]) / "summary.json").unlink()
    write_run(store, summary)
    assert command(store, tmp_path) == 0
    text = (tmp_path / STUDY / "stats.md").read_text().replace("\\", "")
    assert "| queryable | 0/9, 1 inf |" in text
    assert "| lora | 1/9 | 1 |" in text
    assert "j have an infinite test_loss_clean" in text
    own = row(pd.read_csv(tmp_path / STUDY / "stats.csv"), budget="lora_r4", method="queryable")
    assert (own["diverged"], own["infinite"]) == (0, 1)


def test_another_loss_has_files_of_its_own(store: Store, tmp_path: Path) -> None:
    cells = [
        cell_of(summary_of("matyas", method, 0), "lora_r4") for method in ("lora", "queryable")
    ]
    store.write_study(STUDY, cells)
    assert command(store, tmp_path, "--loss", "post_train_loss") == 0
    assert (tmp_path / STUDY / "stats_post_train_loss_ranks_lora_r4.svg").exists()
    assert not (tmp_path / STUDY / "stats.md").exists()


def test_gaps_are_refused_or_named(store: Store, tmp_path: Path, capsys) -> None:
    (store.run_folder("matyas-lora-2") / "summary.json").unlink()
    assert command(store, tmp_path) == 2
    message = capsys.readouterr().err
    assert "missing: lora on matyas (equal_rank), seed 2" in message
    assert message.count("\n") == 1
    assert not (tmp_path / STUDY).exists()
    assert command(store, tmp_path, "--allow-missing") == 0
    text = (tmp_path / STUDY / "stats.md").read_text().replace("\\", "")
    assert "Gaps: missing: lora on matyas (equal_rank), seed 2" in text
    assert "so not normalised: shared_lora on matyas (equal_rank), seed 2;" in text


@pytest.mark.parametrize(
    ("methods", "seeds"), [(["lora"], (0,)), (["queryable"], SEEDS), (["lora", "queryable"], (0,))]
)
def test_small_studies_have_what_they_can_have(
    store: Store, tmp_path: Path, methods: list[str], seeds: tuple[int, ...]
) -> None:
    cells = [
        cell_of(summary_of("matyas", method, seed), "lora_r4")
        for method in methods
        for seed in seeds
    ]
    store.write_study(STUDY, cells)
    assert command(store, tmp_path) == 0
    folder = tmp_path / STUDY
    assert (folder / "stats_iqm_lora_r4.svg").exists()
    assert (folder / "stats_ranks_lora_r4.svg").exists() == (len(methods) > 1)
    assert ("No LoRA to stand beside" in (folder / "stats.md").read_text()) == (
        methods == ["queryable"]
    )
    assert "nan" not in (folder / "stats.md").read_text()
    assert "was not checked" in (folder / "stats.md").read_text()


def test_a_study_of_references_alone_is_refused(store: Store, tmp_path: Path, capsys) -> None:
    store.write_study(STUDY, [cell_of(summary_of("matyas", "full", 0), "lora_r4")])
    assert command(store, tmp_path) == 2
    assert "no finished run of an adapter" in capsys.readouterr().err


def test_a_failed_run_is_a_gap(store: Store, tmp_path: Path, capsys) -> None:
    folder = store.run_folder("matyas-lora-2")
    (folder / "summary.json").unlink()
    failed = {"run_id": folder.name, "function": "matyas", "method": "lora", "seed": 2}
    write_folder(folder, {**failed, "status": "failed", "error": "RuntimeError: no memory"})
    assert command(store, tmp_path) == 2
    assert "failed: lora on matyas (equal_rank), seed 2: RuntimeError" in capsys.readouterr().err


def test_the_rank_diagram_joins_what_is_not_told_apart() -> None:
    table = pd.DataFrame(
        {
            "method": ["lora", "dora", "queryable"],
            "variant": "",
            "rank": [1.0, 1.5, 3.0],
            "ranked_functions": 9,
            "critical_difference": 0.8,
        }
    )
    (axis,) = ranks_figure(table).axes
    bars = [line for line in axis.lines if line.get_linewidth() == 3.0]
    assert [(line.get_xdata()[0], line.get_xdata()[1]) for line in bars] == [
        pytest.approx((0.96, 1.54))
    ]
    assert [text.get_text() for text in axis.texts] == ["lora 1.00", "dora 1.50", "queryable 3.00"]
    assert axis.get_xlabel().startswith("average rank over 9 functions")
