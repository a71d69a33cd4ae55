"""Rank-one terms are the gradient; what lies below the targets runs once."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from adapters.capture import Capture, frozen_stem
from adapters.targets import DOWN_PROJECTIONS
from adapters.workspace import Batch, Workspace

MakeWorkspace = Callable[..., Workspace]
KINDS = sorted(DOWN_PROJECTIONS)


def some_batch(workspace: Workspace) -> Batch:
    return workspace.batch([workspace.base.encode(text) for text in ("Mira Holm was born in Oslo.", "Q: Where was", "a")])


def mean_loss(workspace: Workspace, batch: Batch) -> Tensor:
    return (workspace.nll(batch) * batch.predicted).sum() / batch.predicted.sum()


def dense_gradients(workspace: Workspace, batch: Batch) -> dict[str, Tensor]:
    """By autograd, as (d_out, d_in)."""
    layers = {name: workspace.model.get_submodule(name) for name in workspace.targets.names}
    weights = [layer.weight.requires_grad_() for layer in layers.values()]
    gradients = torch.autograd.grad(mean_loss(workspace, batch), weights)
    workspace.model.requires_grad_(False)
    return {
        name: gradient.T if isinstance(layer, Conv1D) else gradient
        for (name, layer), gradient in zip(layers.items(), gradients, strict=True)
    }


@pytest.mark.parametrize("last_layers", [99, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_the_terms_sum_to_the_gradient_of_the_weight(kind: str, last_layers: int, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(kind, last_layers, dtype=torch.float64)
    batch = some_batch(workspace)
    with Capture(workspace.model, workspace.targets) as capture:
        terms = capture.terms(mean_loss(workspace, batch))
    expected = dense_gradients(workspace, batch)
    assert list(terms) == list(workspace.targets.names)
    for name, (x, d) in terms.items():
        assert len(x) == len(d) == batch.ids.numel()
        scale = float(expected[name].abs().max())
        torch.testing.assert_close((d.T @ x).double(), expected[name].double(), rtol=1e-4, atol=1e-5 * scale)


def test_terms_come_in_float32_whatever_the_model_holds(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(dtype=torch.bfloat16)
    with Capture(workspace.model, workspace.targets) as capture:
        terms = capture.terms(mean_loss(workspace, some_batch(workspace)))
    assert {t.dtype for pair in terms.values() for t in pair} == {torch.float32}


def test_padding_adds_nothing_to_the_gradient(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace()
    batch = some_batch(workspace)
    with Capture(workspace.model, workspace.targets) as capture:
        terms = capture.terms(mean_loss(workspace, batch))
    padded = batch.mask.flatten() == 0
    assert padded.any()
    assert not any(d[padded].any() for _, d in terms.values())


def test_capturing_does_not_change_what_is_computed(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace()
    batch = some_batch(workspace)
    before = workspace.nll(batch)
    with Capture(workspace.model, workspace.targets):
        assert torch.equal(workspace.nll(batch), before)
    assert not workspace.nll(batch).requires_grad


def test_a_capture_without_gradients_leaves_no_graph(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace()
    with Capture(workspace.model, workspace.targets), torch.no_grad():
        assert not workspace.nll(some_batch(workspace)).requires_grad


def test_only_the_last_forward_pass_is_differentiated(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace()
    batch, other = some_batch(workspace), workspace.batch([workspace.base.encode("Lund")])
    with Capture(workspace.model, workspace.targets) as capture:
        expected = capture.terms(mean_loss(workspace, batch))
        mean_loss(workspace, other)
        terms = capture.terms(mean_loss(workspace, batch))
    assert all(torch.equal(a, b) for name in terms for a, b in zip(terms[name], expected[name], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_stem_gives_the_same_losses_and_gradients(kind: str, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(kind, 1)
    batch = some_batch(workspace)
    with Capture(workspace.model, workspace.targets) as capture:
        expected_loss = mean_loss(workspace, batch)
        expected = capture.terms(expected_loss)
        with frozen_stem(workspace.model, workspace.targets):
            for _ in range(3):
                loss = mean_loss(workspace, batch)
                terms = capture.terms(loss)
                assert torch.equal(loss, expected_loss)
                assert all(torch.equal(a, b) for name in terms for a, b in zip(terms[name], expected[name], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_layers_below_the_targets_run_once(kind: str, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(kind, 1)
    batch, ran = some_batch(workspace), []
    layers = workspace.model.get_submodule(workspace.targets.layers_path)
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
    with frozen_stem(workspace.model, workspace.targets):
        for _ in range(3):
            workspace.nll(batch)
    assert ran == [0, 1, 2, 2, 2]


def test_a_frozen_stem_sees_changes_of_the_targets(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace("llama", 1)
    batch = some_batch(workspace)
    changed = {name: 2 * weight for name, weight in workspace.base_weights.items()}
    with frozen_stem(workspace.model, workspace.targets):
        workspace.nll(batch)
        workspace.install(changed)
        within = workspace.nll(batch)
    assert torch.equal(within, workspace.nll(batch))


@pytest.mark.parametrize("passes", [0, 1, 2])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_a_frozen_stem_restores_the_layers_even_after_an_error(kind: str, passes: int, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(kind, 1)
    batch = some_batch(workspace)
    layers = workspace.model.get_submodule(workspace.targets.layers_path)
    before, nll = list(layers), workspace.nll(batch)

    def fail() -> None:
        with frozen_stem(workspace.model, workspace.targets):
            for _ in range(passes):
                workspace.nll(batch)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert all(a is b for a, b in zip(before, layers, strict=True))
    assert torch.equal(workspace.nll(batch), nll)
    assert not any(layer._forward_hooks for layer in layers)


def test_a_stem_may_be_frozen_again_for_other_tokens(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace("llama", 1)
    for text in ("Mira Holm", "was born in Graz and in Lund"):
        batch = workspace.batch([workspace.base.encode(text)])
        with frozen_stem(workspace.model, workspace.targets):
            workspace.nll(batch)
            again = workspace.nll(batch)
        assert torch.equal(again, workspace.nll(batch))


@pytest.mark.parametrize("last_layers", [99, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_of_the_lowest_targets_layer_only_what_follows_it_runs_again(
    kind: str, last_layers: int, make_workspace: MakeWorkspace
) -> None:
    workspace = make_workspace(kind, last_layers)
    batch, ran = some_batch(workspace), []
    name = workspace.targets.names[0]
    layer = workspace.model.get_submodule(f"{workspace.targets.layers_path}.{workspace.targets.first_layer}")
    for attention in (child for path, child in layer.named_children() if path in ("self_attn", "attn", "attention")):
        attention.register_forward_pre_hook(lambda *_: ran.append("attention"))
    workspace.model.get_submodule(name).register_forward_pre_hook(lambda *_: ran.append("target"))
    with frozen_stem(workspace.model, workspace.targets):
        losses = [workspace.nll(batch) for _ in range(3)]
    assert ran == ["attention", "target", "target", "target"]
    assert all(torch.equal(loss, losses[0]) for loss in losses)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stem_known_from_before_does_not_run_at_all(kind: str, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(kind, 1)
    batch, ran = some_batch(workspace), []
    with frozen_stem(workspace.model, workspace.targets) as stem:
        expected = workspace.nll(batch)
    layers = workspace.model.get_submodule(workspace.targets.layers_path)
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
    with frozen_stem(workspace.model, workspace.targets, stem):
        assert torch.equal(workspace.nll(batch), expected)
    assert ran == [2]
    assert torch.equal(workspace.nll(batch), expected)
