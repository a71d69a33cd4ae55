"""The closed-form meta-gradient: two ways to the same derivative, and a fit to it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adapters.config import FoldConfig
from adapters.curvature import Curvature, DampedCurvature
from adapters.delta import Delta
from adapters.importance import TokenScorer
from adapters.scorer_training import (
    Example,
    Task,
    central_difference,
    fit_scorer,
    forward_mode,
    make_example,
    task_direction,
    token_derivatives,
)
from adapters.targets import DOWN_PROJECTIONS
from adapters.workspace import Workspace

MakeWorkspace = Callable[..., Workspace]
Measure = Callable[[Workspace], Curvature]
KINDS = sorted(DOWN_PROJECTIONS)
DAMPED = FoldConfig(input_damping=0.1, output_damping=0.1)
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own import


def task(workspace: Workspace) -> Task:
    base = workspace.base
    answer = base.tokenizer.encode(" Bergen.", add_special_tokens=False)
    return Task(base.encode("Lucie Martin was born in Bergen."), base.encode("Q: Where was Lucie Martin born? A:"), answer)


def direction(workspace: Workspace, seed: int = 0) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    return Delta(
        {
            name: (torch.randn(len(w), 3, generator=generator), torch.randn(w.shape[1], 3, generator=generator))
            for name, w in workspace.base_weights.items()
        }
    )


def unchanged(workspace: Workspace, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(weight, before[name]) for name, weight in workspace.weights().items())


@pytest.mark.parametrize("last_layers", [99, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_forward_mode_and_central_difference_agree(kind: str, last_layers: int, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(kind, last_layers)
    text, along = task(workspace).text, direction(workspace)
    exact, difference = forward_mode(workspace, text, along), central_difference(workspace, text, along)
    assert exact.shape == (1, len(text) - 1)
    torch.testing.assert_close(difference, exact, rtol=1e-2, atol=5e-3 * float(exact.abs().max()))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_the_derivative_is_the_inner_product_with_each_tokens_gradient(kind: str, make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(kind)
    text, along = task(workspace).text, direction(workspace)
    weights = {name: workspace.model.get_submodule(name).weight.requires_grad_() for name in workspace.targets.names}
    losses = workspace.nll(workspace.batch([text]))[0]
    expected = []
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(weights.values()), retain_graph=True)
        products = [(g * workspace.as_parameter(n, along)).sum() for n, g in zip(weights, gradients, strict=True)]
        expected.append(float(sum(products)))
    workspace.model.requires_grad_(False)
    largest = max(map(abs, expected))
    torch.testing.assert_close(forward_mode(workspace, text, along)[0], torch.tensor(expected), rtol=1e-3, atol=1e-4 * largest)


@pytest.mark.parametrize("way", [forward_mode, central_difference, token_derivatives])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_taking_derivatives_leaves_the_weights_as_they_were_bit_for_bit(
    kind: str, way: Callable[..., Tensor], make_workspace: MakeWorkspace
) -> None:
    workspace = make_workspace(kind)
    workspace.install({name: weight + 0.01 for name, weight in workspace.base_weights.items()})
    before = workspace.weights()
    way(workspace, task(workspace).text, direction(workspace))
    assert unchanged(workspace, before)


@pytest.mark.parametrize("way", [forward_mode, central_difference])
def test_along_nothing_nothing_changes(way: Callable[..., Tensor], workspace: Workspace) -> None:
    nothing = Delta({n: (torch.zeros(len(w), 2), torch.zeros(w.shape[1], 2)) for n, w in workspace.base_weights.items()})
    before = workspace.weights()
    assert not way(workspace, task(workspace).text, nothing).any()
    assert unchanged(workspace, before)


@pytest.mark.parametrize("size", [1e-20, 1e10])
def test_a_derivative_scales_with_its_direction(size: float, workspace: Workspace) -> None:
    text, along = task(workspace).text, direction(workspace)
    scaled = Delta({name: (left * size, right) for name, (left, right) in along.factors.items()})
    expected = central_difference(workspace, text, along)
    found = central_difference(workspace, text, scaled) / size
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_narrow_weights_are_differentiated_exactly(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(dtype=torch.bfloat16)
    text, along = task(workspace).text, direction(workspace)
    assert torch.equal(token_derivatives(workspace, text, along), forward_mode(workspace, text, along))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "phi3"])
def test_a_step_against_the_direction_of_a_task_makes_its_answer_likelier(
    kind: str, make_workspace: MakeWorkspace, measure: Measure
) -> None:
    workspace = make_workspace(kind)
    asked = task(workspace)
    along = task_direction(workspace, asked, DampedCurvature(measure(workspace), DAMPED, workspace.base.device))
    batch = workspace.batch([asked.prompt + asked.answer])

    def loss() -> float:
        return float(workspace.nll(batch)[0, len(asked.prompt) - 1 :].mean())

    before = loss()
    workspace.step(along, -1e-3 / max(along.norms().values()))
    assert loss() < before


def test_the_answers_own_tokens_are_useful_to_it(workspace: Workspace, measure: Measure) -> None:
    """The gradient of a loss along P times itself is positive, P being positive definite."""
    asked = task(workspace)
    along = task_direction(workspace, asked, DampedCurvature(measure(workspace), DAMPED, workspace.base.device))
    derivatives = token_derivatives(workspace, asked.prompt + asked.answer, along)[0]
    assert float(derivatives[len(asked.prompt) - 1 :].mean()) > 0


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_targets_are_weights(kind: str, make_workspace: MakeWorkspace, measure: Measure) -> None:
    workspace = make_workspace(kind)
    asked = task(workspace)
    ready = DampedCurvature(measure(workspace), DAMPED, workspace.base.device)
    example = make_example(workspace, asked, ready)
    derivatives = token_derivatives(workspace, asked.text, task_direction(workspace, asked, ready))
    assert example.target.shape == example.evidence.shape[:2] == (1, len(asked.text) - 1)
    assert float(example.target.min()) == 0
    assert float(example.target.max()) == pytest.approx(1)
    assert torch.equal(example.target > 0, derivatives > 0)
    assert torch.equal(example.target.argmax(), derivatives.argmax())


def examples(count: int = 8) -> list[Example]:
    """Targets that can be told from the evidence."""
    made = []
    for _ in range(count):
        evidence = 6 * torch.rand(1, 12, 2)
        made.append(Example(torch.randn(1, 12, 16), evidence, (evidence[..., 0] > 3).float()))
    return made


def cross_entropy(scorer: TokenScorer, on: list[Example]) -> float:
    losses = [torch.nn.functional.binary_cross_entropy(scorer(example.hidden, example.evidence), example.target) for example in on]
    return float(sum(losses)) / len(losses)


def test_fitting_lowers_the_cross_entropy_and_generalises() -> None:
    seen, unseen = examples(60), examples(20)
    before, after = fit_scorer(seen, epochs=0), fit_scorer(seen, epochs=15)
    assert cross_entropy(after, seen) < 0.5 * cross_entropy(before, seen)
    assert cross_entropy(after, unseen) < 0.6 * cross_entropy(before, unseen)


def test_fitting_is_deterministic_by_its_seed() -> None:
    on = examples()

    def fit(seed: int) -> list[Tensor]:
        torch.rand(seed + 1)
        return list(fit_scorer(on, epochs=2, seed=seed).state_dict().values())

    assert all(torch.equal(a, b) for a, b in zip(fit(3), fit(3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(fit(3), fit(4), strict=True))


def test_a_fitted_scorer_is_ready_for_use_and_told_how_far_it_is() -> None:
    shares: list[float] = []
    scorer = fit_scorer(examples(), epochs=4, progress=shares.append)
    assert shares == [0.25, 0.5, 0.75, 1.0]
    assert not scorer.training
    assert not any(parameter.requires_grad for parameter in scorer.parameters())
