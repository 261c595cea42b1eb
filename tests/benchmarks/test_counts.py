"""What is counted of a forward pass: floating-point operations by hand, and bytes."""

import pytest
import torch
from torch import Tensor, nn

from benchmarks.contenders import config_of, inputs_of, merged, shapes_of, trained
from benchmarks.inference.counts import bare_flops, check_memory, count_flops, pass_bytes
from qlexp.config.schema import Config
from qlexp.errors import UsageError
from qlexp.main import choices
from qlexp.model.backbone import Backbone
from qlexp.model.initial import Draw

CPU = torch.device("cpu")
METHODS = choices("method")


def small(method: str, rank: int = 4) -> Config:
    return config_of(method, rank, "backbone=small")


def added(method: str, rows: int, rank: int = 4) -> int:
    """FLOPs that a method adds on the small backbone."""
    config = small(method, rank)
    return count_flops(*shapes_of(config, rows)) - bare_flops(config.backbone, rows)


# Two tokens a point, 8 layers of four linears (d_out, d_in); R, K, d_k: rank, atoms, key dimension.
SIDES = [(96, 32), (32, 32), (128, 32), (32, 128)] * 8
IN, OUT = sum(d_in for _, d_in in SIDES), sum(d_out for d_out, _ in SIDES)
ENTRIES = sum(d_out * d_in for d_out, d_in in SIDES)


def lora_flops(rows: int, rank: int) -> int:
    """Two for each entry of A and B at each of two tokens."""
    return 2 * rows * 2 * rank * (IN + OUT)


def queryable_flops(rows: int, rank: int) -> int:
    """LoRA's and, for each point, R A h and the routing of four blocks over sixteen atoms."""
    atoms, blocks, d_k = 16, 4, rank
    routed = len(SIDES) * 2 * 2 * rank**2  # R A h, at two tokens
    a_block = 2 * d_k * rank + 2 * d_k * atoms + 2 * atoms * rank**2  # U u, k · q, sum w M
    first = (blocks - 1) * 2 * d_k * rank  # S c
    # Keys, scores and their mean, from two earlier blocks on: V v, keys · q, sum of p v.
    looked = sum(e * (2 * d_k * rank + 2 * d_k + 2 * rank) for e in range(2, blocks))
    return lora_flops(rows, rank) + rows * (routed + blocks * a_block + first + looked)


def norm_flops(rank: int) -> int:
    """W Aᵀ and A Aᵀ, B A Aᵀ, and the diagonals of two products with B, once a pass."""
    products = 2 * rank * ENTRIES + 2 * rank**2 * IN + 2 * rank**2 * OUT
    return products + 2 * 2 * rank * OUT


def instructed(rows: int, *channels: str) -> int:
    """Z e(z), P e(z) and the keys' scores of it, in each of four blocks."""
    own = {"query": 2 * 4 * 16, "prior": 2 * 4 * 16 + 2 * 4 * 16}
    return queryable_flops(rows, 4) + rows * 4 * sum(own[channel] for channel in channels)


def by_hand(rows: int) -> dict[str, int]:
    """What every method adds at rank 4, from its formula and the sizes in its YAML."""
    lora, seeds, linears = lora_flops(rows, 4), 4 * (IN + OUT), len(SIDES)
    networks = 2 * 2 * 8 * seeds  # U and V of 8 hidden units on the rank axis of A and B
    return {
        "frozen": 0,
        "full": 0,
        "full_adamw": 0,
        "lora": lora,
        "rslora": lora,
        "shared_lora": lora,
        "dora": lora + norm_flops(4),
        "vera": 2 * 256 * ENTRIES,
        "vb_lora": 2 * lora + 2 * 8 * seeds,  # twice the rank; 8 vectors in the bank
        "lily": lora + rows * 2 * linears * 2 * 4 * 4 + 2 * 4 * 4 * OUT,  # 4 experts: R A h, B
        "hira": 2 * 4 * ENTRIES,
        "lora_xs": lora + rows * 2 * linears * 2 * 4 * 4,  # R A h
        "core": lora + rows * 2 * linears * 2 * 4 * 4,  # C A h
        "core_block": lora + rows * 2 * linears * 2 * 4 * 4,
        "core_network": lora + rows * 2 * linears * 2 * 4 * 4,
        "comol": lora + rows * 2 * linears * 2 * 3 * (4 + 4 * 4 + 4),  # R A h, M A h, their sum
        "nara": lora + rows * (2 * 32 * (4 + 16) + 2 * linears * 2 * 4 * 4),  # 32 hidden; C A h
        "ld_mole": (
            3 * lora
            + rows * 2 * (2 * 3 * IN + 2 * 4 * IN + linears * 2 * 4)  # W_g; 4 hidden of f
            + linears * 2 * 3  # the balance
        ),
        "mix_lora": rows * 2 * 2 * 8 * (3 * IN + OUT) + rows * linears * 2 * 8 * 8,  # pools of 8
        "moe_lora": 3 * lora + rows * 2 * 2 * 3 * IN + linears * 2 * 3,  # gates; their balance
        "rep_lora": lora + networks,
        "doran": lora + networks + norm_flops(4),
        "hyra": lora + linears * 4 * 2 * 32 * 8 + 2 * 8 * seeds,  # embeddings 32, 8 hidden
        "text_to_lora": (
            lora
            + linears * 2 * (2 * 8 * 7 + 7 * 7)  # W_1 of place, W_2
            + 2 * 8 * 7  # W_1 of the text
            + 2 * 8 * seeds  # H_A, H_B
        ),
        "queryable": queryable_flops(rows, 4),
        "instruction_queryable": instructed(rows, "query", "prior"),
        "prior_only": instructed(rows, "prior"),
        "query_only": instructed(rows, "query"),
    }


@pytest.mark.parametrize("method", METHODS)
def test_flops_of_every_method_are_those_counted_by_hand(method: str) -> None:
    assert added(method, 3) == by_hand(3)[method]


@pytest.mark.parametrize(("rows", "rank"), [(1, 4), (3, 2)])
def test_flops_follow_rows_and_rank(rows: int, rank: int) -> None:
    assert added("lora", rows, rank) == lora_flops(rows, rank)
    assert added("queryable", rows, rank) == queryable_flops(rows, rank)


def test_flops_of_the_backbone_are_its_products_and_the_scores_of_its_attention() -> None:
    shape = small("lora").backbone
    tokens = 2 * (ENTRIES + 33 * 32) * 2  # 16 sines, 16 cosines and the value, to width 32
    assert bare_flops(shape, 1) == tokens + 8 * 2 * 2 * 32 + 2 * 32


class Contraction(nn.Module):
    """Rows of x times y, summed, as a product or written out."""

    def __init__(self, product: bool) -> None:
        super().__init__()
        self.product = product

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.product:
            return torch.bmm(x, y)
        return (x.unsqueeze(-1) * y.unsqueeze(1)).sum(2)


def test_flops_do_not_depend_on_how_a_contraction_is_written() -> None:
    x, y = torch.ones(2, 3, 4), torch.ones(2, 4, 5)
    torch.testing.assert_close(Contraction(False)(x, y), Contraction(True)(x, y))
    for product in (False, True):
        assert count_flops(Contraction(product), (x, y)) == 2 * 2 * 3 * 4 * 5


def test_a_merged_adapter_and_the_frozen_backbone_add_nothing() -> None:
    config = small("dora")
    inputs = inputs_of(config, 3, CPU)
    model = merged(config, CPU)
    assert model is not None
    assert count_flops(model, inputs) == count_flops(Backbone(config.backbone, Draw([0])), inputs)
    assert added("frozen", 3) == 0


@pytest.mark.parametrize("method", METHODS)
def test_what_merges_gives_the_same_outputs_and_no_adapter_is_at_its_start(method: str) -> None:
    config = small(method)
    inputs = inputs_of(config, 5, CPU)
    model, folded = trained(config, CPU), merged(config, CPU)
    with torch.no_grad():
        output = model(*inputs)
        bare = Backbone(config.backbone, Draw([config.seed]))(inputs[0])
        if folded is not None:
            torch.testing.assert_close(folded(inputs[0]), output, rtol=1e-3, atol=1e-4)
    assert output.shape == (1, 5)
    assert output.isfinite().all()
    assert torch.equal(output, bare) == (method == "frozen")


def test_methods_whose_change_depends_on_the_input_cannot_be_merged() -> None:
    refused = {name for name in METHODS if merged(small(name), CPU) is None}
    routed = {"queryable", "instruction_queryable", "prior_only", "query_only"}
    assert refused == {*routed, "lily", "mix_lora", "moe_lora", "comol", "ld_mole", "nara"}


def test_a_batch_that_fills_the_memory_is_refused_and_half_of_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = small("queryable")
    sized = {"small": [config]}
    monkeypatch.setattr("benchmarks.inference.counts.free_bytes", lambda device: 2**30)
    points = 2**30 // (pass_bytes(config, 2**16) // 2**16)
    check_memory(sized, points // 2, [CPU])
    with pytest.raises(UsageError, match="a pass of queryable on small"):
        check_memory(sized, points, [CPU])


def test_bytes_of_a_pass_hold_the_widest_of_its_results() -> None:
    """Hidden units of two tokens, twice: before GELU and after."""
    config, points = small("frozen"), 2**12
    a_point = (pass_bytes(config, 2 * points) - pass_bytes(config, points)) / points
    hidden = 2 * 128 * 4
    assert 2 * hidden < a_point < 4 * hidden
