"""The adapted linear: y = W x + s B (I + g R) A x, with R from the route in progress."""

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from qlexp.errors import UsageError
from qlexp.peft.config import QueryableLoraConfig
from qlexp.peft.state import Carrier

UNMERGEABLE = (
    "Queryable LoRA cannot be merged into the weights: its change depends on the input. Keep the "
    "adapter beside the model, or unload() it."
)


class QueryableLoraLinear(nn.Module, BaseTunerLayer):
    """A frozen linear with A, B and gate g of each adapter; the bank is the model's.

    Args:
        base_layer: the linear.
        carrier: where the route of the forward pass in progress is found.
    """

    adapter_layer_names = ("queryable_A", "queryable_B", "queryable_gate")
    other_param_names = ("layers", "scales", "dropouts")

    def __init__(self, base_layer: nn.Linear, carrier: Carrier) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.carrier = carrier
        self.queryable_A = nn.ModuleDict()  # rank x in
        self.queryable_B = nn.ModuleDict()  # out x rank
        self.queryable_gate = nn.ParameterDict()  # scalars
        self.layers: dict[str, int] = {}  # which of the adapter's layers the linear is in
        self.scales: dict[str, float] = {}
        self.dropouts: dict[str, float] = {}
        self.merged_adapters: list[str] = []

    def add(self, adapter: str, config: QueryableLoraConfig, layer: int) -> None:
        """Gives the linear, which is in the adapter's layer `layer`, an adapter; B = 0."""
        self.layers[adapter], self.scales[adapter] = layer, config.scale
        self.dropouts[adapter] = config.dropout
        up = nn.Linear(config.r, self.out_features, bias=False)
        nn.init.zeros_(up.weight)
        self.queryable_A[adapter] = nn.Linear(self.in_features, config.r, bias=False)
        self.queryable_B[adapter] = up
        if config.gated:
            self.queryable_gate[adapter] = nn.Parameter(torch.tensor(config.gate))
        self._move_adapter_to_device_of_base_layer(adapter)
        self.set_adapter(self.active_adapters)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = self.base_layer(x, *args, **kwargs)
        adapter = next(iter(self.active_adapters), "")
        if self.disable_adapters or adapter not in self.queryable_A:
            return y
        A: Any = self.queryable_A[adapter]
        B = self.queryable_B[adapter]
        h = self._cast_input_dtype(x, A.weight.dtype)
        if self.training and self.dropouts[adapter]:
            h = F.dropout(h, self.dropouts[adapter])
        low = A(h)
        routed = self.carrier.routed(self.layers[adapter], low)
        if adapter in self.queryable_gate:
            low = torch.addcmul(low, self.queryable_gate[adapter], routed)
        else:
            low = low + routed
        return torch.add(y, B(low).to(y.dtype), alpha=self.scales[adapter])

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise UsageError(UNMERGEABLE)

    def unmerge(self) -> None:
        raise UsageError(UNMERGEABLE)

    def __repr__(self) -> str:
        return "queryable." + super().__repr__()
