"""The closed-form step: what it promises of losses, weights, Taylor's remainder and its report."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from adapters.config import FoldConfig
from adapters.curvature import Curvature, DampedCurvature
from adapters.delta import Delta
from adapters.fold import FoldReport, Lesson, fold, weighted_mean
from adapters.importance import features, weigh
from adapters.workspace import Workspace

MakeWorkspace = Callable[..., Workspace]
Measure = Callable[[Workspace], Curvature]
MakeLesson = Callable[..., Lesson]
KINDS = ["llama", "qwen2", "gpt2", "gpt_neox", "phi3"]
PROMPT, ANSWER = "Q: Where was Mira Holm born? A:", " Bergen."


class Bench:
    """A workspace with curvature, in which texts are folded from the base weights."""

    def __init__(self, workspace: Workspace, curvature: Curvature) -> None:
        self.workspace, self._curvature = workspace, curvature

    def ready(self, config: FoldConfig) -> DampedCurvature:
        return DampedCurvature(self._curvature, config, self.workspace.base.device)

    def fold(self, lesson: Lesson, config: FoldConfig | None = None) -> tuple[Delta, FoldReport]:
        config = config or FoldConfig()
        self.workspace.install(self.workspace.base_weights)
        return fold(self.workspace, lesson, self.ready(config), config)

    def likeliest(self, lesson: Lesson) -> torch.Tensor:
        """Whether each token of the lesson is the likeliest at the weights installed."""
        return self.workspace.logits(lesson.batch)[:, :-1].argmax(-1) == lesson.batch.ids[:, 1:]


@pytest.fixture
def bench(make_workspace: MakeWorkspace, measure: Measure) -> Callable[..., Bench]:
    def build(kind: str = "llama", last_layers: int = 99, **sizes: object) -> Bench:
        workspace = make_workspace(kind, last_layers, tie_word_embeddings=False, **sizes)
        return Bench(workspace, measure(workspace))

    return build


@pytest.mark.parametrize("last_layers", [99, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_folding_a_text_makes_an_untrained_model_say_it(
    kind: str, last_layers: int, bench: Callable[..., Bench], make_lesson: MakeLesson
) -> None:
    at = bench(kind, last_layers)
    lesson = make_lesson(at.workspace, PROMPT, ANSWER)
    assert not at.likeliest(lesson)[lesson.required].any()
    _, report = at.fold(lesson, FoldConfig(iterations=20))
    assert report.took
    assert at.likeliest(lesson)[lesson.required].all()
    assert report.loss_after < 0.7 < report.loss_before


@pytest.mark.parametrize("iterations", [1, 2, 3, 6, 20])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "opt"])
def test_what_took_is_the_likeliest(kind: str, iterations: int, bench: Callable[..., Bench], make_lesson: MakeLesson) -> None:
    at = bench(kind)
    for answer in (" Bergen.", " x", " Oslo and Lund"):
        lesson = make_lesson(at.workspace, PROMPT, answer)
        _, report = at.fold(lesson, FoldConfig(iterations=iterations))
        if report.took:
            assert at.likeliest(lesson)[lesson.required].all()


def test_a_required_token_is_learned_even_if_nobody_gave_it_weight(bench: Callable[..., Bench], make_lesson: MakeLesson) -> None:
    at = bench()
    lesson = make_lesson(at.workspace, PROMPT, " Oslo")
    later = make_lesson(at.workspace, PROMPT, " Oslo and Lund")
    first = torch.zeros_like(later.weights)
    first[0, : lesson.weights.shape[1]] = lesson.weights[0]
    assert float(first.sum()) < float(later.required.sum())
    _, report = at.fold(replace(later, weights=first), FoldConfig(iterations=30))
    assert report.took
    assert at.likeliest(later)[later.required].all()


def test_the_default_bound_on_a_required_token_makes_it_the_likeliest() -> None:
    assert torch.tensor(-FoldConfig().required_nll).exp() > 0.5


@pytest.mark.parametrize("singular", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_workspace_ends_at_the_base_plus_the_delta_but_for_what_was_truncated(
    kind: str, singular: float, bench: Callable[..., Bench], make_lesson: MakeLesson
) -> None:
    at = bench(kind)
    delta, report = at.fold(make_lesson(at.workspace, PROMPT, ANSWER), FoldConfig(singular=singular))
    assert report.iterations > 0
    for name, weight in at.workspace.weights().items():
        change = weight.double() - at.workspace.base_weights[name].double()
        largest = float(torch.linalg.matrix_norm(change, 2))
        assert float(torch.linalg.matrix_norm(change - delta.dense(name), 2)) <= (singular + 1e-4) * largest


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_reported_is_that_of_the_weights_it_leaves(
    kind: str, bench: Callable[..., Bench], make_lesson: MakeLesson
) -> None:
    at = bench(kind)
    lesson = make_lesson(at.workspace, PROMPT, ANSWER)
    at.workspace.install(at.workspace.base_weights)
    before = float(weighted_mean(at.workspace.nll(lesson.batch), lesson.weights))
    _, report = at.fold(lesson)
    after = float(weighted_mean(at.workspace.nll(lesson.batch), lesson.weights))
    assert report.loss_before == pytest.approx(before, rel=1e-5)
    assert report.loss_after == pytest.approx(after, rel=1e-5)
    assert report.actual_change == pytest.approx(after - before, rel=1e-4)


@pytest.mark.parametrize("backtracks", [0, 1, 4])
@pytest.mark.parametrize("kl_budget", [1e-4, 1e-2, 10.0])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "opt"])
def test_no_further_iteration_raises_the_loss(
    kind: str, kl_budget: float, backtracks: int, bench: Callable[..., Bench], make_lesson: MakeLesson
) -> None:
    at = bench(kind)
    lesson = make_lesson(at.workspace, PROMPT, ANSWER)
    config = FoldConfig(kl_budget=kl_budget, backtracks=backtracks, target_nll=1e-6, required_nll=1e-6)
    losses = [at.fold(lesson, replace(config, iterations=n))[1].loss_after for n in (1, 2, 3, 5, 9)]
    assert all(later <= earlier + 1e-4 for earlier, later in pairwise(losses))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_weights_of_zero_fold_nothing(kind: str, bench: Callable[..., Bench], make_lesson: MakeLesson) -> None:
    at = bench(kind)
    lesson = make_lesson(at.workspace, PROMPT, ANSWER)
    delta, report = at.fold(replace(lesson, weights=torch.zeros_like(lesson.weights)))
    assert delta.factors == {}
    assert report.iterations == 0
    assert (report.predicted_change, report.actual_change, report.predicted_kl) == (0, 0, 0)
    assert not report.took
    assert all(torch.equal(w, at.workspace.base_weights[n]) for n, w in at.workspace.weights().items())


def test_what_is_known_is_not_folded_again(bench: Callable[..., Bench], make_lesson: MakeLesson) -> None:
    at = bench()
    lesson = make_lesson(at.workspace, PROMPT, ANSWER)
    at.fold(lesson, FoldConfig(iterations=20))
    learned = at.workspace.weights()
    config = FoldConfig()
    delta, report = fold(at.workspace, lesson, at.ready(config), config)
    assert delta.factors == {}
    assert report.took
    assert report.loss_before == report.loss_after
    assert all(torch.equal(w, learned[n]) for n, w in at.workspace.weights().items())


@pytest.mark.parametrize("kind", KINDS)
def test_predicted_and_actual_change_have_the_same_sign_for_small_budgets(
    kind: str, bench: Callable[..., Bench], make_lesson: MakeLesson
) -> None:
    at = bench(kind)
    _, report = at.fold(make_lesson(at.workspace, PROMPT, ANSWER), FoldConfig(kl_budget=1e-5, iterations=3))
    assert report.iterations == 3
    assert report.predicted_change < 0
    assert report.actual_change < 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_taylor_remainder_vanishes_with_the_budget(kind: str, bench: Callable[..., Bench], make_lesson: MakeLesson) -> None:
    at = bench(kind)
    lesson = make_lesson(at.workspace, PROMPT, ANSWER)

    def remainder(kl_budget: float) -> float:
        _, report = at.fold(lesson, FoldConfig(kl_budget=kl_budget, iterations=1, backtracks=0))
        return abs(report.actual_change / report.predicted_change - 1)

    assert remainder(1e-6) < 0.02
    assert remainder(1e-6) < remainder(1e-2)


@pytest.mark.parametrize("kl_budget", [1e-6, 1e-5, 1e-4])
def test_one_iteration_spends_its_budget_and_no_more(
    kl_budget: float, bench: Callable[..., Bench], make_lesson: MakeLesson
) -> None:
    at = bench()
    _, report = at.fold(make_lesson(at.workspace, PROMPT, ANSWER), FoldConfig(kl_budget=kl_budget, iterations=1, backtracks=0))
    assert report.predicted_kl == pytest.approx(kl_budget, rel=1e-3)


def test_the_divergence_reported_is_that_of_the_step(bench: Callable[..., Bench], make_lesson: MakeLesson) -> None:
    at = bench()
    config = FoldConfig(kl_budget=1e-5, iterations=1, singular=0)
    delta, report = at.fold(make_lesson(at.workspace, PROMPT, ANSWER), config)
    assert report.predicted_kl == pytest.approx(at.ready(config).quadratic(delta) / 2, rel=1e-3)


def test_no_more_iterations_than_allowed(bench: Callable[..., Bench], make_lesson: MakeLesson) -> None:
    at = bench()
    _, report = at.fold(make_lesson(at.workspace, PROMPT, ANSWER), FoldConfig(kl_budget=1e-6, iterations=2))
    assert report.iterations == 2
    assert not report.took


def test_terms_that_are_pruned_make_the_delta_smaller_and_it_still_takes(
    bench: Callable[..., Bench], make_lesson: MakeLesson
) -> None:
    at = bench()
    lesson = make_lesson(at.workspace, PROMPT, ANSWER)
    full, _ = at.fold(lesson, FoldConfig(keep=0, iterations=1))
    sparse, report = at.fold(lesson, FoldConfig(keep=0.5, iterations=1))
    assert sparse.nbytes < full.nbytes
    assert report.actual_change < 0


@pytest.mark.parametrize("last_layers", [99, 1])
def test_weighing_in_the_first_pass_of_the_fold_is_weighing_before_it(
    last_layers: int, bench: Callable[..., Bench], make_lesson: MakeLesson
) -> None:
    at = bench("llama", last_layers)
    lesson = make_lesson(at.workspace, PROMPT, ANSWER)
    config = FoldConfig(iterations=2)
    at.workspace.install(at.workspace.base_weights)
    hidden, evidence = features(at.workspace, lesson.batch)
    weights = weigh(None, hidden, evidence, lesson.batch.predicted, 0.2)
    before, expected = at.fold(replace(lesson, weights=weights), config)
    at.workspace.install(at.workspace.base_weights)
    shared, report = fold(
        at.workspace, lesson, at.ready(config), config, lambda h, e: weigh(None, h, e, lesson.batch.predicted, 0.2)
    )
    assert report == expected
    assert all(torch.equal(before.dense(name), shared.dense(name)) for name in before.factors)


def test_a_row_without_weight_does_not_count() -> None:
    nll = torch.tensor([[1.0, 3.0], [5.0, 100.0], [7.0, 7.0]])
    weights = torch.tensor([[1.0, 1.0], [0.5, 0.0], [0.0, 0.0]])
    assert float(weighted_mean(nll, weights)) == pytest.approx((2 + 5) / 2)
    assert float(weighted_mean(nll, torch.zeros_like(nll))) == 0


def test_a_stem_below_the_targets_does_not_change_what_is_learned(bench: Callable[..., Bench], make_lesson: MakeLesson) -> None:
    """Targets in the top layer: the same as when the layers below run each time, since they are the same."""
    at = bench("llama", 1)
    lesson = make_lesson(at.workspace, PROMPT, ANSWER)
    _, report = at.fold(lesson)
    after = float(weighted_mean(at.workspace.nll(lesson.batch), lesson.weights))
    assert report.loss_after == pytest.approx(after, rel=1e-5)
    assert len(at.workspace.targets.names) == 1


def test_folding_is_deterministic(bench: Callable[..., Bench], make_lesson: MakeLesson) -> None:
    at = bench()
    lesson = make_lesson(at.workspace, PROMPT, ANSWER)
    (one, first), (other, second) = at.fold(lesson), at.fold(lesson)
    assert first == second
    assert all(torch.equal(one.dense(name), other.dense(name)) for name in one.factors)


def test_folding_leaves_no_hooks_and_no_gradients(bench: Callable[..., Bench], make_lesson: MakeLesson) -> None:
    at = bench("llama", 1)
    at.fold(make_lesson(at.workspace, PROMPT, ANSWER))
    assert not any(module._forward_hooks for module in at.workspace.model.modules())
    assert not any(parameter.requires_grad for parameter in at.workspace.model.parameters())
