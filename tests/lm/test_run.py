"""Whole runs on a tiny network: what is stored, what is not computed twice, and resuming."""

import json
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from made import planned
from peft import PeftModel
from torch import Tensor

from qlexp.lm import run as lm_run
from qlexp.lm.data import prepare
from qlexp.lm.evaluate import mean_loss
from qlexp.lm.exam import examine
from qlexp.lm.identity import run_id
from qlexp.lm.methods import attach, reference_count
from qlexp.lm.plan import model_of
from qlexp.lm.run import execute, forgetting
from qlexp.lm.schema import PartConfig, TaskConfig
from qlexp.lm.tokens import collate
from qlexp.lm.train import train
from qlexp.store.files import read_curves, read_tensors
from qlexp.store.store import Store
from qlexp.train.checkpoint import Checkpoint

METHODS = [path.stem for path in sorted(Path("conf/lm/method").glob("*.yaml"))]


def weights(store: Path, identity: str) -> dict[str, Tensor]:
    return read_tensors(Store(store).run_folder(identity) / "adapter_model.safetensors")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_is_stored(method: str, tmp_path: Path) -> None:
    config = planned(
        f"method={method}", "instruction=hashing", "budget.enforce=false", store=tmp_path
    )
    summary = execute(config)
    assert summary["status"] == "done"
    assert (
        json.loads((Store(tmp_path).run_folder(run_id(config)) / "summary.json").read_text())
        == summary
    )
    if method == "frozen":
        assert summary["test_loss"] == summary["frozen_loss"]
        return
    tensors = weights(tmp_path, run_id(config))
    saved = sum(one.numel() for one in tensors.values())
    if method == "lily":  # peft saves what layers share once a layer
        assert saved > summary["trainable_parameters"]
    else:
        assert saved == summary["trainable_parameters"]
    reference = reference_count(config, model_of(config)[0])
    assert reference is not None
    assert summary["trainable_parameters"] == pytest.approx(reference, rel=0.2)
    curves = read_curves(Store(tmp_path).run_folder(run_id(config)))
    layers = [name for name in curves if name.startswith("gradient_norm.layer_")]
    assert len(layers) == model_of(config)[0].config.num_hidden_layers
    assert curves["loss"].notna().all()
    assert curves[layers].to_numpy().max() > 0


@pytest.mark.parametrize("method", [name for name in METHODS if name != "vb_lora"])
@torch.no_grad()
def test_an_adapted_model_begins_as_the_frozen_one(method: str) -> None:
    """Also under weights in bfloat16; VB-LoRA's vectors are not zero at the start."""
    config = planned(f"method={method}", "instruction=hashing", "budget.enforce=false")
    model, tokenizer = model_of(config)
    sample = prepare(config, tokenizer).test["addition"][:1]
    batch = collate(sample, tokenizer.pad_token_id, model.device)
    logits = attach(model, config)(input_ids=batch.ids).logits
    torch.testing.assert_close(logits, model(input_ids=batch.ids).logits, rtol=0, atol=1e-6)


def test_a_run_does_not_depend_on_what_ran_before_it(tmp_path: Path) -> None:
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        dropped = ("method=lora", "method.lora_dropout=0.3")
        losses.append(execute(planned(*dropped, store=tmp_path / str(seed)))["test_loss"])
    assert losses[0] == losses[1]


def test_another_file_is_another_run(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    config = planned("method=lora", store=tmp_path)
    part = PartConfig(source="jsonl", name=str(path), score="exact")
    config.task = TaskConfig(name="mine", parts={"mine": part})
    ids = []
    for text in ("a", "b", "a"):
        path.write_text(json.dumps({"question": text, "answer": text}))
        ids.append(run_id(config))
    assert ids[0] == ids[2] != ids[1]


def test_a_number_is_one_number_however_it_is_written() -> None:
    own = planned("budget=equal_rank", "method.r=8", "method.lora_alpha=16")
    assert run_id(own) == run_id(planned("budget=lora_r8"))
    assert run_id(own) == run_id(planned("budget=lora_r8", "data.longest=700"))
    assert run_id(own) != run_id(planned("budget=lora_r4"))


def test_the_frozen_exam_is_shared_and_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exams = []
    monkeypatch.setattr(lm_run, "examine", lambda *given: exams.append(given[0]) or examine(*given))
    one, other = (execute(planned(f"method={m}", store=tmp_path)) for m in ("lora", "rslora"))
    assert len(exams) == 3  # the frozen model's, then one each
    assert one["frozen_loss"] == other["frozen_loss"]
    assert one["backbone_id"] == other["backbone_id"]
    execute(planned("method=lora", store=tmp_path))
    assert len(exams) == 3


@pytest.mark.parametrize("method", [name for name in METHODS if name != "frozen"])
def test_peft_reads_the_stored_adapter_that_was_examined(method: str, tmp_path: Path) -> None:
    config = planned(
        f"method={method}", "instruction=hashing", "budget.enforce=false", store=tmp_path
    )
    summary = execute(config)
    model, tokenizer = model_of(config)
    folder = Store(tmp_path).run_folder(run_id(config))
    loaded = PeftModel.from_pretrained(deepcopy(model), str(folder)).eval()
    data = prepare(config, tokenizer)
    assert examine(loaded, data, tokenizer).test_loss == pytest.approx(
        summary["test_loss"], rel=1e-6
    )


@pytest.mark.parametrize("task", ["addition", "sequence"])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(place: str) -> Any:
        return planned(
            "method=queryable", f"task={task}", "trainer.steps=5", store=tmp_path / place
        )

    whole = execute(config("whole"))
    monkeypatch.setattr(lm_run, "CHECKPOINT_SECONDS", 0.0)

    class KilledError(BaseException):
        pass

    def until(stop: int) -> list[int]:
        """Runs until `stop` updates are done in all; what was told of them."""
        told: list[int] = []

        def advance(updates: int) -> None:
            told.append(updates)
            if sum(told) == stop:
                raise KilledError

        with pytest.raises(KilledError):
            execute(config("killed"), advance)
        return told

    stops = (3, 4, 7) if task == "sequence" else (2, 4)
    for before, stop in pairwise((0, *stops)):
        assert until(stop)[:2] == [before // 5 * 5, before % 5]  # whole tasks, then updates
    resumed = execute(config("killed"))
    same = ("test_loss", "accuracy", "path", "steps", "task_accuracy", "route_drift")
    for key in same:
        assert resumed.get(key) == whole.get(key)
    one, other = (weights(tmp_path / place, whole["run_id"]) for place in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    curves = [
        read_curves(Store(tmp_path / place).run_folder(whole["run_id"]))
        for place in ("whole", "killed")
    ]
    assert curves[0].equals(curves[1])
    assert not any((tmp_path / "killed" / "groups").iterdir())


def test_tasks_in_sequence_are_looked_back_at(tmp_path: Path) -> None:
    summary = execute(planned("method=queryable", "task=sequence", store=tmp_path))
    tasks = len(summary["task_accuracy"])
    assert [len(row) for row in summary["task_accuracies"]] == [tasks] * (tasks + 1)
    assert summary["task_accuracies"][-1] == list(summary["task_accuracy"].values())
    assert summary["task_accuracies"][0] == list(summary["frozen_task_accuracy"].values())
    assert [len(row) for row in summary["route_drift"]] == list(range(1, tasks + 1))
    assert all(row[-1] == 0 for row in summary["route_drift"])  # a task has just been learnt
    assert all(0 <= moved <= 1 for row in summary["route_drift"] for moved in row)


def test_one_answer_to_every_question(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [{"question": f"q{i}", "answer": "yes" if i % 4 else "no"} for i in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    config = planned("method=frozen", store=tmp_path)
    part = PartConfig(source="jsonl", name=str(path), score="exact")
    config.task = TaskConfig(name="mine", parts={"mine": part})
    summary = execute(config)
    _, tokenizer = model_of(config)
    answers = [one.sample.answer for one in prepare(config, tokenizer).test["mine"]]
    assert summary["constant_accuracy"] == answers.count("yes") / len(answers)


def test_forgetting_is_what_was_lost_since() -> None:
    assert forgetting([[0, 0, 0], [0.9, 0, 0], [0.5, 0.8, 0], [0.3, 0.4, 1]]) == pytest.approx(
        ((0.9 - 0.3) + (0.8 - 0.4)) / 2
    )


def test_atoms_are_used_in_full(tmp_path: Path) -> None:
    summary = execute(planned("method=queryable", "task=mixture", store=tmp_path))
    assert set(summary["atom_usage"]) == set(summary["task_accuracy"])
    for blocks in summary["atom_usage"].values():
        assert len(blocks) == 2
        for weights_of_atoms in blocks:
            assert sum(weights_of_atoms) == pytest.approx(1)


def test_a_controlled_text_is_another_run_and_a_reader_alone_has_one() -> None:
    own, shuffled, empty = (
        run_id(
            planned(
                "method=instruction_queryable",
                "instruction=hashing",
                f"instruction.control={control}",
                "budget.enforce=false",
            )
        )
        for control in ("matched", "shuffled", "empty")
    )
    assert len({own, shuffled, empty}) == 3
    assert run_id(planned("instruction=hashing")) == run_id(planned("instruction=none"))


@pytest.mark.parametrize("keep", ["validation_loss", "last"])
def test_the_checkpoint_that_is_kept(keep: str) -> None:
    config = planned(
        f"trainer.keep={keep}", "trainer.learning_rate=0.3", "trainer.steps=8", "method=lora"
    )
    model, tokenizer = model_of(config)
    data = prepare(config, tokenizer)
    adapted = attach(model, config)
    samples, validation = (next(iter(own.values())) for own in (data.train, data.validation))
    found = train(
        adapted,
        samples,
        validation,
        config.trainer,
        tokenizer.pad_token_id,
        0,
        Checkpoint(Path("/nowhere/checkpoint.pt"), 1e9),
        lambda: 0.0,
    )
    loss = mean_loss(adapted, validation, tokenizer.pad_token_id)
    by_step = {step: value for step, value, _ in found.path}
    assert loss == by_step[found.best_step]
    wanted = min(by_step.values()) if keep == "validation_loss" else by_step[8]
    assert loss == wanted
