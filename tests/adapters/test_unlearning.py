"""What taking a document back changes, and how it is mended, on a model that reads."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapters.anchors import Anchors
from adapters.base_model import BaseModel
from adapters.config import FoldConfig, GuardConfig, LearnConfig, ViewConfig
from adapters.curvature import Curvature
from adapters.delta import Delta, DeltaSum
from adapters.learner import Learner
from adapters.memory import Memory, of_answer, remembered
from adapters.sampling import continue_rows
from adapters.targets import find_targets
from adapters.unlearning import Answered, ForgetReport, Life, take_back, without
from adapters.views import ViewTemplate
from adapters.workspace import Workspace

lessons = st.lists(st.integers(0, 5).map(lambda n: of_answer((1, 40 + n), (9,))), max_size=12)


@given(lessons, lessons)
def test_taking_lessons_out_undoes_putting_them_in_whatever_was_there(kept: list[Memory], forgotten: list[Memory]) -> None:
    """As a multiset: what two documents taught stays once."""
    left = without([*forgotten, *kept], forgotten)
    assert sorted(left, key=lambda m: m.ids) == sorted(kept, key=lambda m: m.ids)
    assert without(kept, []) == kept


class Taught:
    """A document that was learned, and another question with the answer that is given then."""

    def __init__(self, learner: Learner) -> None:
        self.learner, self.base = learner, DeltaSum(learner.workspace.base_weights)
        learned = learner.learn("Anna Berg was born in Lyon.", self.base)
        self.lessons, self.delta, self.full = list(learned.memories), learned.delta, learned.total
        assert self.lessons, "the document was learned"
        learner.workspace.install(self.full.weights())
        assert all(remembered(learner.workspace, self.lessons))
        self.other = self.unmoved()

    def unmoved(self) -> Memory:
        """A question that is answered alike with and without the document."""
        workspace = self.learner.workspace
        for prompt in ("Q: Where was Jon Vik born? A:", "Mira Holm", "x", "Q: Who? A:", "Graz", "News: Lund"):
            row = workspace.base.encode(prompt)
            answers = []
            for total in (self.base, self.full):
                workspace.install(total.weights())
                answers += continue_rows(workspace, [row], 2, [0.0])
            if answers[0] == answers[1] and len(answers[0]) == 2:
                return of_answer(row, answers[0])
        raise AssertionError("the document changed every answer")

    def take_back(self, without: DeltaSum, mend: bool) -> tuple[Delta, DeltaSum, ForgetReport]:
        return take_back(self.learner, Life(self.base, self.full, without), self.lessons, [self.other], 2, mend)


@pytest.fixture(scope="module")
def taught(reader: BaseModel, template: ViewTemplate, measure: Callable[[Workspace], Curvature]) -> Taught:
    config = LearnConfig(
        views=ViewConfig(count=2, max_new_tokens=20), guard=GuardConfig(kl_step=1e6, kl_total=1e6), fold=FoldConfig(iterations=30)
    )
    workspace = Workspace(reader, find_targets(reader.model, config.targets))
    return Taught(Learner(workspace, measure(workspace), Anchors((), reader.digest), None, template, config))


def test_a_document_that_is_taken_back_is_answered_as_before_it_was_learned_and_others_as_after(taught: Taught) -> None:
    without_it, workspace = taught.full.copy(), taught.learner.workspace
    without_it.remove(taught.delta)
    workspace.install(taught.base.weights())
    known = remembered(workspace, taught.lessons)
    _, total, report = taught.take_back(without_it, mend=True)
    assert report.forgotten == Answered(len(taught.lessons), len(taught.lessons), sum(known))
    assert report.left == 0
    assert report.others == Answered(1, 1, 1)
    workspace.install(total.weights())
    assert remembered(workspace, taught.lessons) == known


def test_an_answer_that_outlives_the_delta_is_folded_towards_what_it_was_before(taught: Taught) -> None:
    """As if what came later had learned it, too: nothing was taken away. What is added is the exact difference."""
    delta, total, report = taught.take_back(taught.full.copy(), mend=True)
    assert delta.factors
    assert all(fold.loss_after < fold.loss_before for fold in report.folds)
    exact = taught.full.copy()
    exact.add(delta)
    assert all(torch.equal(change, exact.totals[name]) for name, change in total.totals.items())


def test_what_fell_with_a_document_is_learned_again(taught: Taught) -> None:
    """As if the lessons had leant on it wholly: they are another's, and gone with it."""
    life = Life(taught.base, taught.full, taught.base.copy())
    delta, _, report = take_back(taught.learner, life, [], taught.lessons, 2, mend=True)
    assert delta.factors
    count = len(taught.lessons)
    assert report.others == Answered(count, count, count)


def test_to_measure_changes_nothing(taught: Taught) -> None:
    kept = taught.full.copy()
    delta, total, report = taught.take_back(kept, mend=False)
    assert not delta.factors
    assert total is kept
    assert report.forgotten.after == report.forgotten.before == report.left == len(taught.lessons)
    assert report.folds == ()
