"""What one sets of queryable LoRA on a language model."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from peft import PeftConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME

from qlexp.adapters.instruction_queryable import InstructionQueryableConfig
from qlexp.adapters.queryable import QueryableConfig
from qlexp.config.checks import Checked, bounded, one_of, require_at_most
from qlexp.errors import UsageError


class QueryableType(str, Enum):  # noqa: UP042 (peft splits the text "Class.MEMBER" of its types)
    """The name under which peft knows the method; peft's own `PeftType` cannot be added to."""

    QUERYABLE_LORA = "QUERYABLE_LORA"


@dataclass
class QueryableLoraConfig(PeftConfig):
    """LoRA's fields and the bank's; the defaults are those of `qlexp.adapters.queryable`.

    Attributes:
        r: rank of A, B and the atoms.
        alpha: the update is scaled by alpha / r.
        dropout: probability with which an input of A is dropped in training.
        target_modules: linears of the decoder layers, as in peft; "all-linear": all but the head.
        exclude_modules: linears that are left as they are, as in peft.
        layers_to_transform: indices of the decoder layers that are adapted; None: all. Blocks are
            made of adapted layers.
        modules_to_save: modules that are trained and saved whole, as in peft.
        atoms: K, how many atoms the bank has.
        key_dim: d_k of keys and queries; None: r.
        top_k: how many atoms are mixed.
        block_size: how many consecutive decoder layers share a route.
        gated: whether every linear has a gate g; otherwise g = 1.
        gate: where the gates start.
        depth_summary: whether a block's query remembers the earlier blocks.
        routing: what a token's route depends on. "prefix": the mean of A h over the tokens so far,
            padding left out; "token": its own A h.
        state_norm: whether the state is normalised (RMSNorm).
        straight_through: gives the router the gradient of the softmax over all atoms.
        instruction_dim: d_e of an encoded instruction, which the model then takes as the input
            `instruction`, (N, d_e); None: it reads none.
        channels: where the instruction enters: "query", "prior" or "both".
        prior_strength: lambda of the language prior.
    """

    near_lora: ClassVar[bool] = True  # its count promises to stay near LoRA's

    r: int = bounded(8, minimum=1)
    alpha: float = bounded(16.0, above=0.0)
    dropout: float = bounded(0.0, minimum=0.0, below=1.0)
    target_modules: list[str] | set[str] | str = "all-linear"
    exclude_modules: list[str] | set[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    modules_to_save: list[str] | None = None
    atoms: int = bounded(16, minimum=2)
    key_dim: int | None = bounded(None, minimum=1)
    top_k: int = bounded(4, minimum=1)
    block_size: int = bounded(2, minimum=1)
    gated: bool = True
    gate: float = bounded(0.5, minimum=-100.0, maximum=100.0)
    depth_summary: bool = True
    routing: str = field(default="prefix", metadata={"options": ("prefix", "token")})
    state_norm: bool = True
    straight_through: bool = False
    instruction_dim: int | None = bounded(None, minimum=1)
    channels: str = one_of("both", "both", "prior", "query")
    prior_strength: float = bounded(1.0, minimum=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = QueryableType.QUERYABLE_LORA
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        if self.routing in ("example", "sequence"):
            raise UsageError(
                f"routing='{self.routing}' averages over the whole sequence, so that later tokens "
                "would change the logits of earlier ones: name 'prefix' (the tokens so far) or "
                "'token'."
            )
        Checked.__post_init__(self)  # type: ignore[arg-type]
        require_at_most("top_k", self.top_k, "the bank", "atoms", self.atoms)
        if self.top_k == 1 and not self.straight_through:
            raise UsageError(
                "top_k=1 gives the router no gradient: use top_k of at least 2, or name "
                "straight_through=True."
            )

    @property
    def scale(self) -> float:
        return self.alpha / self.r

    def bank(self) -> QueryableConfig:
        """The bank's part, in the words of the synthetic adapters; every token has a route."""
        fields: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "alpha",
                "atoms",
                "key_dim",
                "top_k",
                "block_size",
                "gated",
                "gate",
                "depth_summary",
                "state_norm",
                "straight_through",
            )
        }
        fields |= {"rank": self.r, "routing": "token"}
        if self.instruction_dim is None:
            return QueryableConfig(**fields)
        return InstructionQueryableConfig(
            **fields,
            instruction_dim=self.instruction_dim,
            channels=self.channels,
            prior_strength=self.prior_strength,
        )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any
    ) -> "QueryableLoraConfig":
        """As peft's, for a folder whose weights are safetensors.

        Raises:
            UsageError: the folder has pickled weights only.
        """
        folder = Path(pretrained_model_name_or_path, subfolder or "")
        if (folder / WEIGHTS_NAME).exists() and not (folder / SAFETENSORS_WEIGHTS_NAME).exists():
            raise UsageError(
                f"{folder / WEIGHTS_NAME} is a pickle, which can run code when read: save the "
                f"adapter as {SAFETENSORS_WEIGHTS_NAME} (safe_serialization=True)."
            )
        return super().from_pretrained(pretrained_model_name_or_path, subfolder, **kwargs)
