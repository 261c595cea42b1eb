"""The command that answers claims."""

import itertools
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import STUDY, cell_of, render, summary_of, write_run

from analysis.claims.evidence import stored_norms
from analysis.claims.rules import SUPPORTED, UNDECIDED
from analysis.paper.claims import CLAIMS, QUERYABLE
from analysis.study import Study
from analysis.table import read_table
from qlexp.errors import UsageError
from qlexp.store.files import write_folder
from qlexp.store.store import Store

command = partial(render, "claims")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two functions, three seeds, adapters with gradient norms of three layers."""
    store = Store(tmp_path / "store")
    cells = []
    methods = ("lora", "shared_lora", QUERYABLE, "full")
    for function, method, seed in itertools.product(("drop_wave", "matyas"), methods, range(3)):
        summary = summary_of(function, method, seed, reading=method == "shared_lora")
        summary["config"]["shift"]["targets"] = 8
        write_run(store, summary)
        cells += [cell_of(summary, budget) for budget in ("equal_rank", "lora_r4")]
        if method != QUERYABLE:
            continue
        run_id = f"{function}-instructed-{seed}"
        instructed = {**summary, "run_id": run_id, "method": "instruction_queryable"}
        curves = pd.DataFrame({"step": [0, 1], "loss": [1.0, 0.5], "learning_rate": 1e-3})
        for twin, size in ((instructed, 3.0), (summary, 1.0)):
            (store.run_folder(twin["run_id"]) / "summary.json").unlink(missing_ok=True)
            norms = {f"gradient_norm.layer_{i}": [size + i + seed, size + i] for i in (10, 2, 0)}
            write_folder(store.run_folder(twin["run_id"]), twin, curves.assign(**norms))
        cells += [cell_of(instructed, budget) for budget in ("equal_rank", "lora_r4")]
    store.write_study(STUDY, cells)
    return store


def test_the_command_writes_the_same_bytes_again(store: Store, tmp_path: Path) -> None:
    for out in ("a", "b"):
        assert command(store, tmp_path / out) == 0
        assert sorted(path.name for path in (tmp_path / out / STUDY).iterdir()) == [
            *("claims.csv", "claims.md")
        ]
    for name in ("claims.csv", "claims.md"):
        one, other = (tmp_path / out / STUDY / name for out in ("a", "b"))
        assert one.read_bytes() == other.read_bytes()
    text = (tmp_path / "a" / STUDY / "claims.md").read_text().replace("\\", "")
    assert "Left out: methods whose formula is partly a reading (shared_lora)." in text
    found = pd.read_csv(tmp_path / "a" / STUDY / "claims.csv", keep_default_na=False)
    assert set(found["budget"]) == {"equal_rank / lora_r4"}  # of the same runs
    assert len(found) == len(CLAIMS)
    own = found[(found["claim"] == "gradients_larger_queryable")].iloc[0]
    assert len(own["runs"].split()) == 12
    means = [(3 + seed / 2 + 4, 1 + seed / 2 + 4) for seed in range(3)]
    expected = np.mean([math.log(one / other) for one, other in means])
    assert float(own["effect"]) == pytest.approx(expected)
    assert f"qlexp experiment={STUDY} 'seed=range(0,N)'" in text


def test_norms_come_in_the_order_of_the_layers(store: Store) -> None:
    norms = stored_norms(Study(STUDY, store, read_table(store, STUDY)))
    assert norms("drop_wave-instructed-2").tolist() == [4.0, 6.0, 14.0]
    with pytest.raises(UsageError, match="curves of run nowhere are not readable"):
        norms("nowhere")


def test_gaps_are_refused_or_named(store: Store, tmp_path: Path, capsys) -> None:
    (store.run_folder("matyas-lora-2") / "summary.json").unlink()
    assert command(store, tmp_path) == 2
    assert "missing: lora on matyas (equal_rank), seed 2" in capsys.readouterr().err
    assert not (tmp_path / STUDY).exists()
    assert command(store, tmp_path, "--allow-missing") == 0
    assert "Gaps: missing: lora on matyas" in (tmp_path / STUDY / "claims.md").read_text()


def swept_study(store: Store, **swept: tuple[str, ...]) -> None:
    """LoRA and queryable under each value, their losses growing from one to the next."""
    ((key, values),) = swept.items()
    cells = []
    for (i, value), method, seed in itertools.product(
        enumerate(values), ("lora", QUERYABLE, "full"), range(3)
    ):
        gain = 0.5 if method == QUERYABLE and i == 0 else 1.0
        loss = (1 + i) * gain * (1 + 0.01 * seed)
        summary = summary_of(
            "drop_wave",
            method,
            seed,
            run_id=f"{value}-{method}-{seed}",
            validation_loss=loss,
            test_loss=2 * loss,
            test_loss_clean=loss,
            learnt_r2=-0.5 if i else 0.9,
        )
        write_run(store, summary)
        cells.append(cell_of(summary, "equal_rank", f"{key.replace('__', '.')}={value}"))
    store.write_study(STUDY, cells)


def test_each_method_stands_at_its_own_rate(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    swept_study(store, trainer__adapt__learning_rate=("1e-3", "2e-3", "4e-3"))
    assert command(store, tmp_path) == 0
    found = pd.read_csv(tmp_path / STUDY / "claims.csv").set_index("claim")
    assert found.loc["drop_wave", "effect"] == pytest.approx(-math.log(2))
    text = (tmp_path / STUDY / "claims.md").read_text().replace("\\", "")
    assert "Tuned: 3 trials for every method" in text
    assert "not learnable" not in text  # by bad rates of full fine-tuning
    assert command(store, tmp_path, "--tune") == 0
    found = pd.read_csv(tmp_path / STUDY / "claims.csv").set_index("claim")
    assert set(found["answer"]) == {UNDECIDED}


def test_conditions_are_refused_but_for_the_network(tmp_path: Path, capsys) -> None:
    store = Store(tmp_path / "store")
    swept_study(store, data__noise=("0", "0.2"))
    assert command(store, tmp_path) == 2
    error = capsys.readouterr().err
    assert f"qlexp show ablation {STUDY}" in error
    assert error.count("\n") == 1
    swept_study(store, backbone=("small", "deep_narrow"))
    assert command(store, tmp_path) == 0


# Claims of one's own

EXAMPLE = Path(__file__).parents[2] / "examples" / "extending" / "claim" / "dora.yaml"


def test_the_example_is_answered(tmp_path: Path) -> None:
    store, cells = Store(tmp_path / "store"), []
    methods = ("lora", "shared_lora", "dora", "full")
    functions = ("drop_wave", "rastrigin", "matyas")
    for function, method, seed in itertools.product(functions, methods, range(3)):
        gain = {"dora": 0.5, "shared_lora": 2.0}.get(method, 1.0) if function != "matyas" else 1.0
        loss = 0.01 * gain * (1 + 0.01 * seed * (method == "dora"))
        losses = dict.fromkeys(("validation_loss", "test_loss", "test_loss_clean"), loss)
        like = method if method == "full" else "lora"
        summary = summary_of(function, like, seed, **losses)
        summary |= {"method": method, "run_id": f"{function}-{method}-{seed}"}
        write_run(store, summary)
        cells.append(cell_of(summary, "equal_rank"))
    store.write_study(STUDY, cells)
    assert command(store, tmp_path, "--claims", str(EXAMPLE)) == 0
    found = pd.read_csv(tmp_path / STUDY / "claims_dora.csv").set_index("claim")
    assert dict(found["answer"]) == {
        "dora_gains": SUPPORTED,
        "dora_on_ripples": SUPPORTED,
        "dora_harms_little": SUPPORTED,
    }
    assert found["effect"].tolist() == pytest.approx(
        [-2 / 3 * math.log(2), -math.log(4), 0.0], abs=0.02
    )
    assert "Claims of dora.yaml" in (tmp_path / STUDY / "claims_dora.md").read_text()
    assert not (tmp_path / STUDY / "claims.md").exists()


GOOD = {"name": "a", "text": "A", "method": "dora", "at_most": 0.9}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[", "Could not read the claims in"),
        ("name: a", "holds no claims"),
        ("", "holds no claims"),
        ("- a", "entry 1"),
        (json.dumps([{**GOOD, "agianst": "lora"}]), "entry 1: Key 'agianst' not in 'Entry'"),
        (json.dumps([GOOD, {"name": "b"}]), "entry 2"),
        (json.dumps([{**GOOD, "at_most": "much"}]), "entry 1: Value 'much'"),
        *(
            (json.dumps([{**GOOD, "at_most": ratio}]), "at_most is a ratio between 0 and 1")
            for ratio in (1.1, 1.0, 0.0, -0.5, math.nan)
        ),
        *(
            (json.dumps([{**GOOD, "at_most": None, "little": ratio}]), "little one above 1")
            for ratio in (0.9, 1.0, 0.0, math.inf)
        ),
        (json.dumps([{**GOOD, "little": 1.1}]), "either at_most, a ratio below 1, or little"),
        (json.dumps([{**GOOD, "at_most": None}]), "either at_most, a ratio below 1, or little"),
        (json.dumps([{**GOOD, "at_least": 1.1}]), "entry 1: Key 'at_least' not in 'Entry'"),
        (json.dumps([{**GOOD, "functions": ["akley"]}]), "Did you mean 'ackley'?"),
        (json.dumps([{**GOOD, "loss": "tets_loss"}]), "Did you mean 'test_loss'?"),
        (json.dumps([GOOD, GOOD]), "several claims called a"),
    ],
)
def test_a_mistake_in_ones_own_claims_is_one_sentence(
    store: Store, tmp_path: Path, capsys, text: str, wanted: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert command(store, tmp_path, "--claims", str(tmp_path / "mine.yaml")) == 2
    error = capsys.readouterr().err
    assert wanted in error
    assert error.count("\n") == 1
    assert command(store, tmp_path, "--claims", str(tmp_path / "no.yaml")) == 2
    assert "No such file" in capsys.readouterr().err


def test_a_method_that_the_study_lacks_leaves_its_claim_open(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(json.dumps([GOOD]))
    assert command(store, tmp_path, "--claims", str(tmp_path / "mine.yaml")) == 0
    text = (tmp_path / STUDY / "claims_mine.md").read_text()
    assert "since the study has no usable run of dora: A." in text
