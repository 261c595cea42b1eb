"""What peft asks of a tuner: adding, choosing, deleting, saving, loading, training."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from models import CLOSE, FAMILIES, ROUTINGS, adapted, config, jolt, tiny, tokens
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import Trainer, TrainingArguments

from qlexp import UsageError
from qlexp.peft import QueryableLoraConfig, QueryableLoraLinear, QueryableLoraModel
from qlexp.peft.checkpointing import RoutedCheckpoint

each_family = pytest.mark.parametrize("family", FAMILIES)
both_routings = pytest.mark.parametrize("routing", ROUTINGS)


def bank(model: PeftModel, adapter: str = "default") -> dict[str, torch.Tensor]:
    return dict(model.base_model.queryable_bank[adapter].named_parameters())


def trainable(model: PeftModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_every_adapter_has_a_bank_of_its_own() -> None:
    model, ids = adapted(), tokens()
    first = model(ids).logits
    model.add_adapter("second", config(r=2, atoms=4, routing="token"))
    jolt(model.base_model.model, seed=5)
    jolted = model(ids).logits
    assert bank(model, "second")["keys"].shape == (1, 4, 5)
    assert all("second" not in name for name in trainable(model))
    model.set_adapter("second")
    assert all("second" in name for name in trainable(model))
    assert {f"base_model.queryable_bank.second.{name}" for name in bank(model)} <= trainable(model)
    second = model(ids).logits
    assert not torch.allclose(second, jolted)
    model.delete_adapter("second")
    assert list(model.base_model.queryable_bank) == ["default"]
    assert model.active_adapters == ["default"]
    assert torch.equal(model(ids).logits, jolted)
    assert not torch.allclose(first, jolted)


def test_a_deleted_adapter_leaves_the_other_one() -> None:
    model, ids = adapted(), tokens()
    model.add_adapter("second", config(block_size=3))
    jolt(model, seed=5)
    model.set_adapter("second")
    second = model(ids).logits
    model.set_adapter("default")
    with pytest.warns(UserWarning, match="Setting active adapter to second"):
        model.delete_adapter("default")
    assert torch.equal(model(ids).logits, second)
    assert all("second" in name for name in trainable(model))
    model.delete_adapter("second")
    assert torch.equal(model.base_model.model(ids).logits, tiny()(ids).logits)


def test_two_adapters_are_never_active_together() -> None:
    model = adapted()
    model.add_adapter("second", config())
    with pytest.raises(UsageError, match="default, second cannot be active together"):
        model.base_model.set_adapter(["default", "second"])


def test_switched_off_it_is_the_model() -> None:
    model, ids = adapted(), tokens()
    on, names = model(ids).logits, trainable(model)
    with model.disable_adapter():
        assert torch.equal(model(ids).logits, tiny()(ids).logits)
        assert not trainable(model)
    assert torch.equal(model(ids).logits, on)
    assert trainable(model) == names


def test_adding_to_a_frozen_adapter_leaves_it_frozen() -> None:
    model = adapted()
    model.set_adapter("default", inference_mode=True)
    model.add_adapter("second", config())
    assert not trainable(model)
    model.set_requires_grad("second")
    assert trainable(model) == {n for n, _ in model.named_parameters() if ".second" in n}


def test_unloading_gives_the_model_back() -> None:
    model, ids = adapted(), tokens()
    model.gradient_checkpointing_enable()
    model.train()
    model(ids)
    layer = model.base_model.model.model.layers[0]
    assert isinstance(layer._gradient_checkpointing_func, RoutedCheckpoint)
    base = model.unload()
    assert not any(isinstance(module, QueryableLoraLinear) for module in base.modules())
    assert not base.model._forward_hooks
    assert not base.model._forward_pre_hooks
    assert not isinstance(layer._gradient_checkpointing_func, RoutedCheckpoint)
    assert torch.equal(base.eval()(ids).logits, tiny()(ids).logits)


@pytest.mark.parametrize("how", ["merge_and_unload", "merge_adapter", "unmerge_adapter"])
def test_merging_is_refused(how: str) -> None:
    model, ids = adapted(), tokens()
    logits = model(ids).logits
    with pytest.raises(UsageError, match=r"cannot be merged.*depends on the input"):
        getattr(model, how)()
    assert torch.equal(model(ids).logits, logits)


@each_family
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_saved_and_loaded(family: str, low_cpu_mem_usage: bool, tmp_path: Path) -> None:
    model, ids = adapted(family), tokens()
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(
        tiny(family), str(tmp_path), low_cpu_mem_usage=low_cpu_mem_usage
    )
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert not trainable(loaded)
    again = PeftModel.from_pretrained(tiny(family), str(tmp_path), is_trainable=True)
    assert trainable(again) == trainable(model)


def test_the_bank_is_saved_once_and_without_the_adapters_name(tmp_path: Path) -> None:
    model = adapted()
    model.add_adapter("second", config(r=2))
    model.save_pretrained(str(tmp_path))
    for name, folder in (("default", tmp_path), ("second", tmp_path / "second")):
        saved = load_file(folder / "adapter_model.safetensors")
        assert not any(name in key for key in saved)
        banks = {key for key in saved if "queryable_bank" in key}
        assert banks == {f"base_model.queryable_bank.{key}" for key in bank(model, name)}
        assert saved.keys() == get_peft_model_state_dict(model, adapter_name=name).keys()
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["peft_type"] == "QUERYABLE_LORA"
    assert isinstance(PeftConfig.from_pretrained(str(tmp_path)), QueryableLoraConfig)


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_loaded_under_another_name(low_cpu_mem_usage: bool, tmp_path: Path) -> None:
    model, ids = adapted(), tokens()
    model.save_pretrained(str(tmp_path))
    other = get_peft_model(tiny(), config(r=2))
    other.load_adapter(str(tmp_path), "saved", low_cpu_mem_usage=low_cpu_mem_usage)
    other.set_adapter("saved")
    assert torch.equal(other(ids).logits, model(ids).logits)


def test_a_fresh_process_loads_it(tmp_path: Path) -> None:
    model, ids = adapted(dtype=torch.float32), tokens()
    tiny(dtype=torch.float32).save_pretrained(tmp_path / "base")
    model.save_pretrained(str(tmp_path / "adapter"))
    torch.save(ids, tmp_path / "ids")
    code = """
        import sys
        import qlexp
        assert "peft" not in sys.modules
        import torch, qlexp.peft
        from peft import PeftModel
        from transformers import AutoModelForCausalLM
        torch.set_num_threads(1)
        base = AutoModelForCausalLM.from_pretrained("base")
        model = PeftModel.from_pretrained(base, "adapter")
        torch.save(model(torch.load("ids")).logits, "logits")
        model.generate(input_ids=torch.load("ids"), max_new_tokens=2)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, check=True)
    assert_close(torch.load(tmp_path / "logits"), model(ids).logits.detach())


def test_modules_to_save(tmp_path: Path) -> None:
    model, ids = get_peft_model(tiny(), config(modules_to_save=["lm_head"])), tokens()
    jolt(model)
    head = model.base_model.model.lm_head.modules_to_save["default"]
    head.weight.data.mul_(1.5)
    assert "base_model.model.lm_head.modules_to_save.default.weight" in trainable(model)
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(tiny(), str(tmp_path))
    assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)


@each_family
@both_routings
def test_training_changes_the_adapter_alone(family: str, routing: str) -> None:
    """And after two steps every trainable tensor has received a gradient."""
    model, ids = get_peft_model(tiny(family), config(routing=routing, top_k=6)), tokens()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    names = trainable(model)
    assert all("queryable_" in name for name in names)
    assert {name for name in before if "queryable_" in name} == names
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    reached = set()
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
        if len(losses) <= 2:
            reached |= {
                n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()
            }
        optimizer.step()
    assert reached == names
    after = dict(model.named_parameters())
    assert {name for name in before if not torch.equal(before[name], after[name])} == names


def test_what_cannot_learn_is_not_built() -> None:
    for block_size, blocks, built in (
        (1, 4, {"S", "V"}),
        (2, 2, {"S"}),
        (3, 2, {"S"}),
        (4, 1, set()),
    ):
        model = get_peft_model(tiny(), config(block_size=block_size))
        assert {"S", "V"} & bank(model).keys() == built
        assert bank(model)["priors"].shape == (1, blocks, 5)


def test_layers_without_an_adapted_linear_are_in_no_block() -> None:
    model = get_peft_model(tiny("lfm2"), config(target_modules=["q_proj", "v_proj"]))
    linears = [one for one in model.modules() if isinstance(one, QueryableLoraLinear)]
    assert [one.layers["default"] for one in linears] == [0, 0, 1, 1]
    assert len(bank(model)["priors"][0]) == 1
    jolt(model)
    few = get_peft_model(tiny(), config(layers_to_transform=[1, 3], block_size=1))
    assert len(bank(few)["priors"][0]) == 2
    assert few(tokens()).logits.isfinite().all()


def test_the_tuner_is_peft_s() -> None:
    model = adapted()
    assert isinstance(model.base_model, QueryableLoraModel)
    status = model.get_model_status()
    assert status.trainable_params == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert status.peft_types == {"default": "QUERYABLE_LORA"}
    assert status.devices == {"default": ["cpu"]}


def test_dropout_takes_inputs_of_a_off_in_training() -> None:
    model, ids = adapted(dropout=0.5), tokens()
    assert_close(model(ids).logits, adapted()(ids).logits, **CLOSE)
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits)


@both_routings
def test_the_trainer_trains_and_goes_on(routing: str, tmp_path: Path) -> None:
    """With checkpoints of activations, and from a checkpoint of the run."""
    data = [{"input_ids": row, "labels": row, "instruction": row[:7] / 48.0} for row in tokens(8)]

    def trained(steps: int, resume: bool = False) -> dict[str, torch.Tensor]:
        model = get_peft_model(
            tiny(dtype=torch.float32), config(routing=routing, instruction_dim=7)
        )
        options = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=steps,
            save_steps=2,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            gradient_checkpointing=True,
            remove_unused_columns=False,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Trainer(model=model, args=options, train_dataset=data)
        trainer.train(resume_from_checkpoint=resume)
        return get_peft_model_state_dict(model)

    trained(2)
    resumed, straight = trained(4, resume=True), trained(4)
    for name, tensor in straight.items():
        assert_close(resumed[name], tensor)
