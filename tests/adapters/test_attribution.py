"""A score is a directional derivative, and linear in the change."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from adapters.attribution import Stack, margin, margin_terms
from adapters.delta import Delta, join
from adapters.targets import DOWN_PROJECTIONS
from adapters.workspace import Workspace

MakeWorkspace = Callable[..., Workspace]
KINDS = sorted(DOWN_PROJECTIONS)


def some_delta(workspace: Workspace, rank: int, layers: slice = slice(None)) -> Delta:
    """Of random factors."""
    shapes = {name: workspace.base_weights[name].shape for name in workspace.targets.names[layers]}
    return Delta({name: (torch.randn(out, rank), torch.randn(inner, rank)) for name, (out, inner) in shapes.items()})


def asked(workspace: Workspace) -> tuple[list[int], list[int]]:
    """A prompt and an answer, as token ids."""
    return workspace.base.encode("Q: Where was Mira Holm born? A:"), workspace.base.encode(" Bergen.")[1:]


def scores(workspace: Workspace, deltas: Sequence[Delta]) -> Tensor:
    return Stack.of(deltas).scores(margin_terms(workspace, *asked(workspace)))


def margin_at(workspace: Workspace) -> Tensor:
    """Of the answer, at the weights that the workspace holds."""
    prompt, answer = asked(workspace)
    logits = workspace.logits(workspace.batch([prompt + answer]))[0, len(prompt) - 1 : -1]
    return margin(logits, torch.tensor(answer))


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_is_the_derivative_of_the_margin_along_the_change(kind: str, make_workspace: MakeWorkspace) -> None:
    """d/de m(W + e D) at e = 0, by autograd with respect to the whole weights."""
    workspace = make_workspace(kind, dtype=torch.float64)
    delta = some_delta(workspace, 3)
    expected = 0.0
    for name in workspace.targets.names:
        weight = workspace.model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        weight.requires_grad_()
        gradient = torch.autograd.grad(margin_at(workspace), weight)[0]
        weight.requires_grad_(False)
        expected += float((gradient * workspace.as_parameter(name, delta)).sum())
    assert float(scores(workspace, [delta])) == pytest.approx(expected, rel=1e-4)


def test_a_score_foretells_a_small_change_of_the_margin(make_workspace: MakeWorkspace) -> None:
    """By a central difference, as far as float32 inside the model's norms lets it see."""
    workspace, step = make_workspace(dtype=torch.float64), 1e-4
    delta = some_delta(workspace, 2)
    found = float(scores(workspace, [delta]))
    workspace.step(delta, step)
    above = float(margin_at(workspace))
    workspace.step(delta, -2 * step)
    assert (above - float(margin_at(workspace))) / (2 * step) == pytest.approx(found, rel=2e-2)


def test_scores_add_up_over_joined_deltas(workspace: Workspace) -> None:
    first, second = some_delta(workspace, 2), some_delta(workspace, 5, slice(1, None))
    apart, together = scores(workspace, [first, second]), scores(workspace, [join([first, second])])
    torch.testing.assert_close(apart.sum(), together[0], rtol=1e-4, atol=1e-4)


def test_all_scores_sum_to_the_derivative_along_the_summed_change(workspace: Workspace) -> None:
    """<gradient, sum of all D_k>, from dense matrices."""
    deltas = [some_delta(workspace, rank) for rank in (1, 4, 2)]
    terms = margin_terms(workspace, *asked(workspace))
    summed = join(deltas)
    expected = sum(float(((d.T @ x).double() * summed.dense(name)).sum()) for name, (x, d) in terms.items())
    assert float(scores(workspace, deltas).sum()) == pytest.approx(expected, rel=1e-3)


def test_a_change_of_nothing_scores_nothing(workspace: Workspace) -> None:
    nothing = Delta({name: (0 * left, right) for name, (left, right) in some_delta(workspace, 2).factors.items()})
    found = scores(workspace, [Delta.zero(), some_delta(workspace, 1), nothing])
    assert found[0] == found[2] == 0
    assert found[1] != 0
    assert scores(workspace, []).shape == (0,)


def test_a_change_and_its_opposite_cancel(workspace: Workspace) -> None:
    delta = some_delta(workspace, 2)
    opposite = Delta({name: (-left, right) for name, (left, right) in delta.factors.items()})
    for_it, against_it = scores(workspace, [delta, opposite])
    assert float(for_it) == pytest.approx(-float(against_it), rel=1e-5)


def test_stacks_add_up_to_the_stack_of_all(workspace: Workspace) -> None:
    """Also where a delta changes some layers only, or none."""
    deltas = [some_delta(workspace, 2, slice(1)), some_delta(workspace, 3, slice(1, None)), Delta.zero(), some_delta(workspace, 1)]
    terms = margin_terms(workspace, *asked(workspace))
    whole = Stack.of(deltas)
    for cut in range(len(deltas) + 1):
        grown = Stack.of(deltas[:cut]) + Stack.of(deltas[cut:])
        assert (grown.count, grown.nbytes) == (whole.count, whole.nbytes)
        torch.testing.assert_close(grown.scores(terms), whole.scores(terms))


def test_the_margin_is_the_log_odds_and_keeps_a_gradient_where_a_token_is_sure() -> None:
    logits = torch.randn(3, 7, dtype=torch.float64)
    tokens = torch.tensor([4, 0, 6])
    likely = logits.softmax(-1).gather(-1, tokens[:, None])
    torch.testing.assert_close(margin(logits, tokens), (likely / (1 - likely)).log().sum())
    sure = torch.zeros(1, 5).index_fill(1, torch.tensor([2]), 60.0).requires_grad_()
    margin(sure, torch.tensor([2])).backward()
    assert sure.grad is not None
    assert float(sure.grad[0, 2]) == pytest.approx(1)
