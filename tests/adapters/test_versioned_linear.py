"""Rows of one batch on several versions: exact, whatever else is in the batch."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from adapters.base_model import BaseModel
from adapters.targets import DOWN_PROJECTIONS
from adapters.versioned_linear import BASE, FIXED, VersionedLinear, VersionTable
from adapters.workspace import Batch, Workspace

MakeBase = Callable[..., BaseModel]
KINDS = sorted(DOWN_PROJECTIONS)
TEXTS = ["Mira Holm was born in Oslo.", "Anna", "Q: Where was Jon Vik born? A:", "News: x"]


class Served:
    """A model that serves versions, and a workspace of the same model to compare with."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.model = workspace, workspace.base.model
        self.batch = workspace.batch([workspace.base.encode(text) for text in TEXTS])
        self.table = VersionTable(self.model, workspace.targets)

    def changed(self, seed: int, scale: float = 0.05) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            name: (weight + scale * torch.randn(weight.shape, generator=generator)).to(weight.dtype)
            for name, weight in self.workspace.base_weights.items()
        }

    def run(self, versions: Sequence[str], batch: Batch | None = None) -> Tensor:
        """Logits of the rows, zero where padded."""
        self.table.route(versions)
        batch = batch or self.batch
        out = self.model(batch.ids, attention_mask=batch.mask, use_cache=False).logits
        return out * batch.mask[..., None]

    def alone(self, weights: dict[str, Tensor]) -> Tensor:
        """Logits of all rows at these weights, from the workspace."""
        self.workspace.install(weights)
        return self.workspace.logits(self.batch) * self.batch.mask[..., None]


@pytest.fixture
def serve(make_workspace: Callable[..., Workspace]) -> Callable[..., Served]:
    def build(kind: str = "llama", **sizes: object) -> Served:
        return Served(make_workspace(kind, **sizes))

    return build


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_version_is_bit_equal_to_the_model_before(kind: str, serve: Callable[..., Served]) -> None:
    served = serve(kind)
    before = served.alone(served.workspace.base_weights)
    assert torch.equal(served.run([BASE] * len(TEXTS)), before)
    served.table.install("v1", served.changed(1))
    assert torch.equal(served.run([BASE] * len(TEXTS)), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_version_equal_to_the_base_is_bit_equal_to_it(kind: str, dtype: torch.dtype, serve: Callable[..., Served]) -> None:
    served = serve(kind, dtype=dtype)
    served.table.install("v1", {name: weight.clone() for name, weight in served.workspace.base_weights.items()})
    assert torch.equal(served.run(["v1"] * len(TEXTS)), served.run([BASE] * len(TEXTS)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_version_serves_what_the_learner_measured(kind: str, serve: Callable[..., Served]) -> None:
    served = serve(kind)
    weights = served.changed(1)
    served.table.install("v1", weights)
    torch.testing.assert_close(served.run(["v1"] * len(TEXTS)), served.alone(weights), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_rows_equal_separate_runs(kind: str, serve: Callable[..., Served]) -> None:
    served = serve(kind)
    for version in ("v1", "v2"):
        served.table.install(version, served.changed(int(version[1])))
    rows = ["v2", BASE, "v1", "v2"]
    separate = {version: served.run([version] * len(rows)) for version in set(rows)}
    expected = torch.stack([separate[version][row] for row, version in enumerate(rows)])
    torch.testing.assert_close(served.run(rows), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(separate["v1"], separate["v2"], atol=1e-2)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_rows_that_are_decoded_token_by_token_keep_their_version(kind: str, serve: Callable[..., Served]) -> None:
    served = serve(kind)
    served.table.install("v1", served.changed(1, scale=0.5))
    prompt = served.workspace.batch([served.workspace.base.encode("Q: Where was")] * 2)

    def decode(versions: Sequence[str]) -> list[list[int]]:
        served.table.route(versions)
        out = served.model.generate(
            prompt.ids, attention_mask=prompt.mask, max_new_tokens=6, do_sample=False, eos_token_id=[], pad_token_id=0
        )
        return out.tolist()

    assert decode([BASE, "v1"]) == [decode([BASE, BASE])[0], decode(["v1", "v1"])[1]]
    assert decode([BASE, "v1"])[0] != decode([BASE, "v1"])[1]


def test_a_retired_version_is_gone_and_the_others_are_as_they_were(serve: Callable[..., Served]) -> None:
    served = serve()
    for version in ("v1", "v2"):
        served.table.install(version, served.changed(int(version[1])))
    before = served.run(["v2"] * len(TEXTS))
    assert served.table.resident == {BASE, "v1", "v2"}
    served.table.retire("v1")
    assert served.table.resident == {BASE, "v2"}
    assert torch.equal(served.run(["v2"] * len(TEXTS)), before)
    with pytest.raises(AssertionError, match="v1 is not resident"):
        served.run(["v1"] * len(TEXTS))


def test_a_version_may_be_installed_again_with_other_weights(serve: Callable[..., Served]) -> None:
    served = serve()
    served.table.install("v1", served.changed(1))
    weights = served.changed(2)
    served.table.install("v1", weights)
    torch.testing.assert_close(served.run(["v1"] * len(TEXTS)), served.alone(weights), rtol=1e-5, atol=1e-5)


def test_the_base_version_cannot_be_replaced_or_retired(serve: Callable[..., Served]) -> None:
    served = serve()
    before = served.run([BASE] * len(TEXTS))
    with pytest.raises(AssertionError):
        served.table.install(BASE, served.changed(1))
    served.table.retire(BASE)
    assert torch.equal(served.run([BASE] * len(TEXTS)), before)


def test_a_version_must_cover_every_target(serve: Callable[..., Served]) -> None:
    served = serve()
    weights = served.changed(1)
    weights.popitem()
    with pytest.raises(AssertionError):
        served.table.install("v1", weights)
    assert served.table.resident == {BASE}


def test_a_model_that_serves_versions_has_no_more_parameters_than_before(make_workspace: Callable[..., Workspace]) -> None:
    workspace = make_workspace("gpt2")
    model = workspace.base.model
    before = {p.data_ptr() for p in model.parameters()}
    table = VersionTable(model, workspace.targets)
    table.install("v1", {name: weight.clone() for name, weight in workspace.base_weights.items()})
    assert {p.data_ptr() for p in model.parameters()} == before
    assert sum(isinstance(module, VersionedLinear) for module in model.modules()) == len(workspace.targets.names)


@pytest.mark.parametrize("kind", KINDS)
def test_a_version_that_is_swapped_in_serves_what_it_serves_by_name(kind: str, serve: Callable[..., Served]) -> None:
    served = serve(kind)
    versions = {"v1": served.changed(1), "v2": served.changed(2)}
    for version, weights in versions.items():
        served.table.install(version, weights)
    wanted = {version: served.run([version] * len(TEXTS)) for version in (BASE, *versions)}
    for version in ("v1", BASE, "v2", "v1", "v1"):
        served.table.swap(version)
        out = (
            served.model(served.batch.ids, attention_mask=served.batch.mask, use_cache=False).logits * served.batch.mask[..., None]
        )
        torch.testing.assert_close(out, wanted[version], rtol=1e-6, atol=1e-6)
    assert served.table.resident == {BASE, "v1", "v2"}


def test_the_place_that_versions_are_swapped_into_never_moves(serve: Callable[..., Served]) -> None:
    served = serve("llama")
    served.table.install("v1", served.changed(1))
    served.table.swap(BASE)
    before = {name: weight.data_ptr() for name, weight in served.table.weights(FIXED).items()}
    served.table.swap("v1")
    served.table.retire("v1")
    assert {name: weight.data_ptr() for name, weight in served.table.weights(FIXED).items()} == before
