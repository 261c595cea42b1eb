"""The tuner: peft's side of queryable LoRA."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.integrations import init_empty_weights
from torch import Tensor, nn
from transformers.cache_utils import Cache

from qlexp.adapters.instruction_queryable import InstructedRouter, InstructionQueryableConfig
from qlexp.adapters.queryable import Router
from qlexp.errors import UsageError
from qlexp.model.initial import Draw
from qlexp.peft.checkpointing import route_checkpoints, unroute_checkpoints
from qlexp.peft.config import QueryableLoraConfig
from qlexp.peft.layer import UNMERGEABLE, QueryableLoraLinear
from qlexp.peft.passage import Inputs, begin, end
from qlexp.peft.state import Carrier
from qlexp.peft.targets import Targets, find_targets, name_all_linears
from qlexp.peft.weights import check_weights


class QueryableLoraModel(BaseTuner):
    """A causal language model under queryable LoRA.

    Every adapter has a bank of its own (keys, atoms, one prior a block, U, and S and V where they
    can learn), which all of its linears share. One adapter is active at a time.

    Attributes:
        queryable_bank: the banks, by the name of the adapter. They stay in float32 at least.
    """

    prefix = "queryable_"
    tuner_layer_cls = QueryableLoraLinear
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 (peft's declaration)
    uses_shared_state = True

    def _pre_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        self.queryable_bank = nn.ModuleDict()
        self.carrier = Carrier()
        self.targets: dict[str, Targets] = {}
        self.hooks: list[torch.utils.hooks.RemovableHandle] = []
        self.disabled = False

    # Injection

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        """As peft's; the bank is made first.

        Raises:
            UsageError: the config does not fit the model.
        """
        config = self._config(adapter_name)
        name_all_linears(config, model)
        targets = find_targets(
            model, config, lambda name: bool(self._check_target_module_exists(config, name))
        )
        if any(other.decoder != targets.decoder for other in self.targets.values()):
            raise UsageError(
                f"Adapter '{adapter_name}' targets {targets.decoder}, and the others another stack "
                "of layers: name linears of the same one."
            )
        frozen = [one for one in self.queryable_bank.parameters() if not one.requires_grad]
        self.targets[adapter_name] = targets
        weight = _weight(model, targets)
        with init_empty_weights() if low_cpu_mem_usage else nullcontext():
            self.queryable_bank[adapter_name] = _new_bank(config, len(targets.layers), weight)
        try:
            super().inject_adapter(
                model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage, state_dict
            )
        except Exception:
            self._forget(adapter_name)
            raise
        for one in frozen:  # adding an adapter leaves the others as trainable as they were
            one.requires_grad_(False)
        if not self.hooks:
            self._watch(model.get_submodule(targets.decoder))

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = self.targets[adapter_name].layer_of[current_key]
        if isinstance(target, QueryableLoraLinear):
            target.add(adapter_name, peft_config, layer)
            return
        assert isinstance(target, nn.Linear)
        adapted = QueryableLoraLinear(target, self.carrier)
        adapted.add(adapter_name, peft_config, layer)
        if adapter_name not in self.active_adapters:
            adapted.requires_grad_(False)
        self._replace_module(parent, target_name, adapted, target)

    def _config(self, adapter_name: str) -> QueryableLoraConfig:
        config = self.peft_config[adapter_name]
        assert isinstance(config, QueryableLoraConfig)
        return config

    # The forward pass

    def forward(self, *args: Any, instruction: Tensor | None = None, **kwargs: Any) -> Any:
        """The model's output; `instruction` (N, d_e) goes to a router that reads one."""
        with self._asked(instruction):
            return self.model(*args, **kwargs)

    def generate(self, *args: Any, instruction: Tensor | None = None, **kwargs: Any) -> Any:
        """As the model's own, under one instruction for the whole continuation, (N, d_e)."""
        with self._asked(instruction):
            return self.model.generate(*args, **kwargs)

    @contextmanager
    def _asked(self, instruction: Tensor | None) -> Iterator[None]:
        self.carrier.instruction = instruction
        try:
            yield
        finally:
            self.carrier.instruction = None

    def _watch(self, decoder: nn.Module) -> None:
        """Has every pass through the decoder begin and end with a route."""
        self.inputs = tuple(inspect.signature(decoder.forward).parameters)
        self.hooks = [
            decoder.register_forward_pre_hook(self._enter, with_kwargs=True),
            decoder.register_forward_hook(self._leave, with_kwargs=True),
        ]

    def _enter(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        adapter = next(iter(self.active_adapters), "")
        self.carrier.route = None
        if adapter in self.queryable_bank and not self.disabled:
            inputs = Inputs(self.inputs, args, kwargs)
            inputs.values.setdefault("instruction", self.carrier.instruction)
            checkpointed = decoder.training and self._is_checkpointing()
            if checkpointed:
                route_checkpoints(self._decoder_layers(), self.carrier)
            bank = self.queryable_bank[adapter]
            assert isinstance(bank, Router)
            recording = not checkpointed and inputs.caching(decoder)
            self.carrier.route = begin(self._config(adapter), bank, adapter, inputs, recording)
        return args, {name: value for name, value in kwargs.items() if name != "instruction"}

    def _leave(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        route, self.carrier.route = self.carrier.route, None
        if route is None or not route.sums:
            return
        values = output.values() if isinstance(output, dict) else output
        cache = Inputs(self.inputs, args, kwargs).cache
        if cache is None:
            cache = next((one for one in values if isinstance(one, Cache)), None)
        if cache is not None:
            end(route, self.active_adapters[0], cache)

    def routes(self, *args: Any, **kwargs: Any) -> Tensor:
        """The weights of every block for the tokens of one forward pass, (N, T, N_b, K)."""
        self.carrier.routes = []
        try:
            self(*args, **kwargs)
            return torch.stack(self.carrier.routes, dim=-2)
        finally:
            self.carrier.routes = None

    def _decoder_layers(self) -> list[nn.Module]:
        names = {name for targets in self.targets.values() for name in targets.layers}
        return [self.model.get_submodule(name) for name in names]

    def _is_checkpointing(self) -> bool:
        return any(getattr(one, "gradient_checkpointing", False) for one in self._decoder_layers())

    # Which adapter is active, trained, there at all

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Makes one adapter the active one.

        Raises:
            UsageError: several were named.
        """
        names = [adapter_name] if isinstance(adapter_name, str) else adapter_name
        if len(names) > 1:
            raise UsageError(
                f"Adapters {', '.join(names)} cannot be active together: a token has the route of "
                "one bank. Name one."
            )
        super().set_adapter(adapter_name, inference_mode=inference_mode)
        for name, bank in self.queryable_bank.items():
            bank.requires_grad_(name in names and not inference_mode)

    def set_requires_grad(
        self, adapter_names: str | Sequence[str], requires_grad: bool = True
    ) -> None:
        super().set_requires_grad(adapter_names, requires_grad)
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        for name in names:
            if name in self.queryable_bank:
                self.queryable_bank[name].requires_grad_(requires_grad)

    def _enable_adapter_layers(self, enabled: bool = True) -> None:
        super()._enable_adapter_layers(enabled)
        self.disabled = not enabled
        for name, bank in self.queryable_bank.items():
            bank.requires_grad_(enabled and name in self.active_adapters)

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        self._forget(adapter_name)
        for name, bank in self.queryable_bank.items():
            bank.requires_grad_(name in self.active_adapters)

    def _forget(self, adapter_name: str) -> None:
        del self.targets[adapter_name]
        del self.queryable_bank[adapter_name]

    # Devices, weights, merging

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        """What peft asks of layers after loading onto the meta device; here of the bank."""
        weight, bank = (
            _weight(self.model, self.targets[adapter_name]),
            self.queryable_bank[adapter_name],
        )
        if not any(one.is_meta for one in bank.parameters()):
            bank.to(weight.device if device is None else device)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls,
        model: nn.Module,
        config: Any,
        adapter_name: str,
        state_dict: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        own = super()._get_adapter_state_dict(model, config, adapter_name, model.state_dict(), [])
        own = {
            cls._remove_adapter_name_from_key(name, adapter_name): tensor
            for name, tensor in own.items()
            if name.split(".")[-1] == adapter_name or f".{adapter_name}." in name
        }
        check_weights(cls.prefix, own, state_dict)
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)

    def _check_merge_allowed(self) -> None:
        raise UsageError(UNMERGEABLE)

    def unmerge_adapter(self) -> None:
        raise UsageError(UNMERGEABLE)

    def _unload_and_optionally_merge(  # type: ignore[override]
        self, merge: bool = True, **kwargs: Any
    ) -> Any:
        if not merge:
            for hook in self.hooks:
                hook.remove()
            self.hooks = []
            unroute_checkpoints(self._decoder_layers())
        return super()._unload_and_optionally_merge(merge=merge, **kwargs)


def _weight(model: nn.Module, targets: Targets) -> Tensor:
    """The weight of the first adapted linear."""
    weight = model.get_submodule(next(iter(targets.layer_of))).weight
    assert isinstance(weight, Tensor)
    return weight


def _new_bank(config: QueryableLoraConfig, depth: int, weight: Tensor) -> Router:
    """A bank for `depth` adapted layers, drawn by torch's seed, on the device of `weight`."""
    seed = int(torch.randint(2**63 - 1, (), device="cpu"))
    dtype = torch.promote_types(weight.dtype, torch.float32)
    fields = config.bank()
    build = InstructedRouter if isinstance(fields, InstructionQueryableConfig) else Router
    bank = build(fields, depth, Draw([seed], dtype))  # type: ignore[arg-type]
    return bank if bank.keys.is_meta else bank.to(weight.device)
