"""Packed layers compute what the layers that they were made from do."""

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from adapters.base_model import BaseModel
from adapters.packed_linear import PackedLinear, PackedWeight, pack_linears, packable
from adapters.targets import DOWN_PROJECTIONS, Targets
from adapters.versioned_linear import BASE, VersionTable
from adapters.workspace import Workspace

MakeBase = Callable[..., BaseModel]
KINDS = sorted(DOWN_PROJECTIONS)
pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this CPU build of torch has no oneDNN")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (3, 5, 24)])
def test_a_packed_layer_is_the_layer(shape: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    layer = nn.Linear(24, 40, bias=bias, dtype=dtype).requires_grad_(False)
    x = torch.randn(shape, dtype=dtype)
    found = PackedLinear(layer)(x)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found, layer(x), rtol=tolerance, atol=tolerance)


class Attention(nn.Module):
    """Three layers of one input, and one of another."""

    def __init__(self, bias: bool, dtype: torch.dtype, value_bias: bool | None = None) -> None:
        super().__init__()
        self.q_proj = nn.Linear(24, 40, bias=bias, dtype=dtype)
        self.k_proj = nn.Linear(24, 8, bias=bias, dtype=dtype)
        self.v_proj = nn.Linear(24, 8, bias=bias if value_bias is None else value_bias, dtype=dtype)
        self.o_proj = nn.Linear(40, 24, bias=False, dtype=dtype)

    def forward(self, x: Tensor, other: Tensor) -> tuple[Tensor, ...]:
        """Also what a layer makes of an input of its own, before and after the others have had theirs."""
        return self.q_proj(x), self.k_proj(other), self.k_proj(x), self.v_proj(x), self.q_proj(other), self.v_proj(other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("bias", "value_bias"), [(False, None), (True, None), (True, False)])
@pytest.mark.parametrize("rows", [1, 7])
def test_layers_of_one_input_are_one_product_and_each_gets_its_own_part(
    rows: int, bias: bool, value_bias: bool | None, dtype: torch.dtype
) -> None:
    model = Attention(bias, dtype, value_bias).requires_grad_(False)
    x, other = torch.randn(rows, 24, dtype=dtype), torch.randn(rows, 24, dtype=dtype)
    plain = model(x, other)
    pack_linears(model)
    products = {id(layer._product) for layer in (model.q_proj, model.k_proj, model.v_proj) if isinstance(layer, PackedLinear)}
    assert len(products) == (1 if value_bias is None else 3)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for found, wanted in zip(model(x, other), plain, strict=True):
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def test_a_product_keeps_nothing_once_its_last_part_was_taken() -> None:
    model = Attention(False, torch.float32).requires_grad_(False)
    pack_linears(model)
    x = torch.randn(2, 24)
    seen = weakref.ref(x)
    for layer in (model.q_proj, model.k_proj, model.v_proj):
        layer(x)
    del x
    assert seen() is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_unpacked_weight_is_the_weight(dtype: torch.dtype) -> None:
    weight = torch.randn(40, 24, dtype=dtype)
    assert torch.equal(PackedWeight(weight).rows.to(dtype), weight)


@pytest.mark.parametrize("rows", [1, 2])
def test_for_a_row_or_two_of_bfloat16_the_layers_own_weights_are_read(rows: int) -> None:
    layer = nn.Linear(24, 40, dtype=torch.bfloat16).requires_grad_(False)
    x = torch.randn(rows, 24, dtype=torch.bfloat16)
    assert torch.equal(PackedLinear(layer)(x), layer(x))


@pytest.mark.parametrize("rows", [1, 2])
def test_for_a_row_or_two_a_versions_own_weights_are_read_too(rows: int) -> None:
    layer = nn.Linear(24, 40, dtype=torch.bfloat16).requires_grad_(False)
    model = nn.Sequential(layer)
    pack_linears(model)
    table = VersionTable(model, Targets("", 0, ("0",)))
    weight, x = torch.randn(40, 24, dtype=torch.bfloat16), torch.randn(rows, 24, dtype=torch.bfloat16)
    table.install("v1", {"0": weight})
    table.route(["v1"] * rows)
    assert torch.equal(model(x), nn.functional.linear(x, weight, layer.bias))
    assert torch.equal(table.weights("v1")["0"], weight)


@pytest.mark.parametrize("layer", [nn.Linear(2, 2, dtype=torch.float64), nn.Conv1d(1, 1, 1), nn.Linear(2, 2, device="meta")])
def test_what_has_no_faster_layout_stays_as_it_is(layer: nn.Module) -> None:
    assert not packable(layer)
    holder = nn.Sequential(layer)
    pack_linears(holder)
    assert holder[0] is layer


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_model_serves_its_versions_and_leaves_the_learners_view_alone(
    kind: str, make_workspace: Callable[..., Workspace]
) -> None:
    workspace = make_workspace(kind)
    model, batch = workspace.base.model, workspace.batch([[3, 4, 5, 6], [7, 8]])
    table = VersionTable(model, workspace.targets)
    pack_linears(model)
    assert any(isinstance(layer, PackedLinear) for layer in model.modules()) or kind == "gpt2"
    changed = {name: weight + 0.1 * torch.randn(weight.shape) for name, weight in workspace.base_weights.items()}
    table.install("v1", changed)
    table.install("same", {name: weight.clone() for name, weight in workspace.base_weights.items()})

    def served(*versions: str) -> Tensor:
        table.route(versions)
        return model(batch.ids, attention_mask=batch.mask, use_cache=False).logits * batch.mask[..., None]

    def learned(weights: dict[str, Tensor]) -> Tensor:
        workspace.install(weights)
        return workspace.logits(batch) * batch.mask[..., None]

    base, other = learned(workspace.base_weights), learned(changed)
    torch.testing.assert_close(served(BASE, BASE), base, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(served("v1", "v1"), other, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(served("v1", BASE), torch.stack([other[0], base[1]]), rtol=1e-4, atol=1e-4)
    assert torch.equal(served("same", "same"), served(BASE, BASE))
