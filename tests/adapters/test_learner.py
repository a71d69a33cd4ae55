"""One document from text to delta, on a tiny model that writes views and on random ones that cannot."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from adapters.anchors import Anchors
from adapters.base_model import BaseModel
from adapters.config import FoldConfig, GuardConfig, LearnConfig, ReflectionConfig, TargetConfig, ViewConfig
from adapters.curvature import Curvature, measure_curvature
from adapters.delta import Delta, DeltaSum
from adapters.drift import UNTOUCHED
from adapters.errors import EmptyDocument
from adapters.importance import TokenScorer
from adapters.learn_report import UNASKED, Learned
from adapters.learner import Learner
from adapters.memory import Memory
from adapters.targets import find_targets
from adapters.views import View, ViewTemplate, judge_views
from adapters.windows import windows
from adapters.workspace import Workspace

MakeBase = Callable[..., BaseModel]
Measure = Callable[[Workspace], Curvature]
GENEROUS = GuardConfig(probes=8, raw_probes=8, kl_step=1e6, kl_total=1e6, retention_loss=1.0)
STRICT = replace(GENEROUS, kl_step=1e-30)
CONFIG = LearnConfig(views=ViewConfig(count=2, max_new_tokens=20), guard=GENEROUS, fold=FoldConfig(iterations=8))
RAW = replace(CONFIG, views=ViewConfig(count=0))
DOCUMENT = "Mira Holm was born in Graz."
NAMES, PLACES = ("Mira Holm", "Jon Vik", "Anna Berg"), ("Oslo", "Lund", "Turin", "Porto")
LONG = " ".join(f"{name} was born in {place}{' ' * n}." for n, place in enumerate(PLACES * 5) for name in NAMES)
"""Several windows."""


class School:
    """A learner, and the version it starts from."""

    def __init__(self, learner: Learner) -> None:
        self.learner, self.workspace = learner, learner.workspace
        self.base = DeltaSum(self.workspace.base_weights)

    def learn(self, document: str = DOCUMENT, current: DeltaSum | None = None, **more: Any) -> Learned:
        return self.learner.learn(document, current or self.base, **more)

    def knows(self, total: DeltaSum, views: Sequence[View]) -> list[bool]:
        """Whether the version of `total` answers the views."""
        self.workspace.install(total.weights())
        return [found.right for found in judge_views(self.workspace, self.learner.template, list(views))]

    def losses(self, total: DeltaSum, rows: list[list[int]]) -> list[float]:
        """Mean NLL of each row at the version of `total`."""
        self.workspace.install(total.weights())
        return [float(self.workspace.nll(self.workspace.batch([row])).mean()) for row in rows]


MakeSchool = Callable[..., School]


@pytest.fixture
def school(reader: BaseModel, template: ViewTemplate, measure: Measure) -> MakeSchool:
    """Factory; the model writes views unless another `base` is given."""

    def build(config: LearnConfig = CONFIG, base: BaseModel = reader, scorer: TokenScorer | None = None) -> School:
        workspace = Workspace(base, find_targets(base.model, config.targets))
        return School(Learner(workspace, measure(workspace), Anchors((), base.digest), scorer, template, config))

    return build


def state(total: DeltaSum) -> dict[str, Tensor]:
    return {name: change.clone() for name, change in total.totals.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def equal(one: Delta, other: Delta) -> bool:
    return same({n: one.dense(n) for n in one.factors}, {n: other.dense(n) for n in other.factors})


def test_a_document_is_answered_from_the_weights_after_it_was_learned(school: MakeSchool) -> None:
    at = school()
    views = [View("Where was Mira Holm born?", "Graz.")]
    assert at.knows(at.base, views) == [False]
    learned = at.learn()
    assert learned.report.rejection is None
    assert learned.report.views == ("Q: Where was Mira Holm born? A: Graz.",)
    assert at.knows(learned.total, views) == [True]
    assert learned.report.drift is not None
    assert learned.report.drift.taken == 1.0


@pytest.mark.parametrize("config", [CONFIG, RAW, replace(CONFIG, guard=STRICT)], ids=["views", "raw", "rejected"])
def test_the_version_learned_upon_is_never_changed(config: LearnConfig, school: MakeSchool) -> None:
    at = school(config)
    current = at.base.copy()
    current.add(Delta({n: (1e-3 * torch.randn(len(w), 1), torch.randn(w.shape[1], 1)) for n, w in current.weights().items()}))
    before, weights = state(current), {n: w.clone() for n, w in current.weights().items()}
    at.learn(current=current)
    assert same(state(current), before)
    assert same(current.weights(), weights)
    assert all(torch.equal(at.base.weight(n), w) for n, w in at.workspace.base_weights.items())


@pytest.mark.parametrize("config", [CONFIG, RAW], ids=["views", "raw"])
@pytest.mark.parametrize("document", [DOCUMENT, LONG], ids=["short", "long"])
def test_the_total_is_what_was_before_and_the_delta(config: LearnConfig, document: str, school: MakeSchool) -> None:
    at = school(config)
    first = at.learn("Anna Berg was born in Lyon.")
    learned = at.learn(document, current=first.total)
    expected = first.total.copy()
    expected.add(learned.delta)
    assert learned.delta.factors
    assert same(state(learned.total), state(expected))


@pytest.mark.parametrize("config", [CONFIG, RAW], ids=["views", "raw"])
def test_a_rejected_candidate_changes_nothing_and_says_why(config: LearnConfig, school: MakeSchool) -> None:
    at = school(replace(config, guard=STRICT))
    current = at.base.copy()
    learned = at.learn(current=current)
    assert learned.report.rejection is not None
    assert learned.report.rejection.startswith("drift of this update")
    assert learned.delta.factors == {}
    assert learned.memories == ()
    assert same(state(learned.total), state(current))
    assert learned.report.folds
    assert learned.report.drift is not None
    assert learned.report.drift.kl > STRICT.kl_step


@pytest.mark.parametrize("config", [CONFIG, RAW], ids=["views", "raw"])
@pytest.mark.parametrize("document", [DOCUMENT, LONG], ids=["short", "long"])
def test_the_guard_measures_exactly_what_would_be_served(config: LearnConfig, document: str, school: MakeSchool) -> None:
    """Not what the fold left behind: what is stored of it is truncated."""
    at = school(replace(config, fold=replace(config.fold, singular=0.5)))
    learned = at.learn(document, turn=5)
    at.workspace.install(learned.total.weights())
    assert at.learner.guard.measure(learned.memories, [], 5) == learned.report.drift


def test_the_base_model_writes_and_weighs_whatever_was_learned_since(school: MakeSchool) -> None:
    at = school()
    upset = at.base.copy()
    upset.add(Delta({n: (torch.randn(len(w), 4), torch.randn(w.shape[1], 4)) for n, w in at.workspace.base_weights.items()}))
    found, expected = at.learn(current=upset), at.learn()
    assert found.report.views == expected.report.views != ()
    assert found.weights == expected.weights


def test_views_that_the_document_does_not_bear_out_are_not_learned(school: MakeSchool) -> None:
    doubtful = replace(CONFIG, views=replace(CONFIG.views, plausible=1 - 1e-9))
    learned = school(doubtful).learn()
    assert learned.report.views == ()
    assert equal(learned.delta, school(RAW).learn().delta)


def test_an_update_is_charged_for_what_it_adds_and_not_for_what_was_spent_before(school: MakeSchool) -> None:
    at = school()
    spent = at.learn("Anna Berg was born in Lyon.").total
    at.workspace.install(spent.weights())
    before = at.learner.guard.measure([], [], 0).kl
    after = at.learn(current=spent).report.drift
    assert after is not None
    added = after.kl - before
    assert 0 < added < after.kl
    for budget, enough in ((1.01 * added, True), (0.99 * added, False)):
        config = replace(CONFIG, guard=replace(GENEROUS, kl_step=budget))
        assert (school(config).learn(current=spent).report.rejection is None) == enough


def test_each_stage_is_told_when_it_begins(school: MakeSchool) -> None:
    told: list[str] = []
    report = school().learn(note=told.append).report
    assert told == ["view", "score", "fold", "guard"]
    assert set(report.seconds) == set(told)


@pytest.mark.parametrize("config", [CONFIG, RAW], ids=["views", "raw"])
def test_the_same_turn_gives_the_same_delta_bit_for_bit(config: LearnConfig, school: MakeSchool) -> None:
    first, again = school(config).learn(turn=3), school(config).learn(turn=3)
    assert equal(first.delta, again.delta)
    assert first.memories == again.memories
    assert first.weights == again.weights
    assert replace(first.report, seconds={}) == replace(again.report, seconds={})


def test_a_learner_keeps_nothing_from_one_document_to_the_next(school: MakeSchool) -> None:
    at = school()
    fresh = at.learn(turn=1)
    at.learn("Anna Berg was born in Lyon.", turn=2)
    at.learner.score(LONG)
    assert equal(at.learn(turn=1).delta, fresh.delta)


def test_what_is_known_is_not_learned_again(school: MakeSchool) -> None:
    at = school()
    once = at.learn()
    twice = at.learn(current=once.total, memories=once.memories)
    assert twice.delta.factors == {}
    assert twice.memories == ()
    assert twice.report.folds == twice.report.views == ()
    assert twice.report.drift is None
    assert twice.report.rejection is None
    assert twice.report.tokens_kept == 0
    assert same(state(twice.total), state(once.total))


def test_without_views_the_text_itself_is_learned(school: MakeSchool) -> None:
    learned = school(RAW).learn()
    assert learned.report.views == ()
    assert learned.memories == ()
    (folded,) = learned.report.folds
    assert folded.loss_after < folded.loss_before


@pytest.mark.parametrize("iterations", [1, 3])
def test_raw_text_is_the_fast_path_and_has_its_own_iterations(iterations: int, school: MakeSchool) -> None:
    config = replace(RAW, fold=FoldConfig(iterations=9, raw_iterations=iterations, target_nll=1e-6))
    (folded,) = school(config).learn().report.folds
    assert folded.iterations == iterations


def test_raw_text_changes_only_the_highest_layers(school: MakeSchool) -> None:
    for layers in (1, 2):
        at = school(replace(RAW, fold=FoldConfig(raw_layers=layers)))
        assert set(at.learn().delta.factors) == set(at.workspace.targets.names[-layers:])


def test_a_model_that_writes_no_views_learns_the_text(school: MakeSchool, make_base: MakeBase) -> None:
    base = make_base()
    learned, raw = school(CONFIG, base).learn(), school(RAW, base).learn()
    assert learned.report.views == ()
    assert learned.delta.factors
    assert equal(learned.delta, raw.delta)
    assert learned.report.warnings == (UNASKED,), "views were wanted"
    assert raw.report.warnings == ()
    rejected = school(replace(CONFIG, guard=GuardConfig(kl_step=1e-12)), base).learn().report
    assert rejected.rejection is not None
    assert rejected.warnings == (), "nothing was learned"


def test_a_view_is_remembered_with_its_answer_required(school: MakeSchool, template: ViewTemplate) -> None:
    at = school()
    (memory,) = at.learn().memories
    view = View("Where was Mira Holm born?", "Graz.")
    base = at.workspace.base
    assert list(memory.ids) == view.ids(base, template)
    answer = view.continuation(base, template)
    assert memory.required == (False,) * (len(memory.ids) - 1 - len(answer)) + (True,) * len(answer)
    assert memory.weights[-len(answer) :] == (1.0,) * len(answer)
    assert at.workspace.base.decode(list(memory.ids)) == "Q: Where was Mira Holm born? A: Graz."


@pytest.mark.parametrize("config", [CONFIG, RAW], ids=["views", "raw"])
@pytest.mark.parametrize("document", [DOCUMENT, LONG], ids=["short", "long"])
def test_the_numbers_of_a_report_add_up(config: LearnConfig, document: str, school: MakeSchool) -> None:
    at = school(config)
    learned = at.learn(document)
    report = learned.report
    found = windows(at.workspace.base, document, at.learner.window)
    assert report.windows == len(found)
    assert 1 <= len(report.folds) <= report.windows
    assert 0 < report.tokens_kept <= report.tokens_read
    assert len(report.views) == sum(any(memory.required) for memory in learned.memories)
    assert {"fold", "guard"} <= set(report.seconds) <= {"view", "score", "fold", "guard"}
    assert all(seconds >= 0 for seconds in report.seconds.values())
    for folded in report.folds:
        assert folded.predicted_kl >= 0
        assert 0 <= folded.iterations <= config.fold.iterations


def test_a_long_document_goes_through_several_windows_and_all_of_it_is_learned(school: MakeSchool) -> None:
    at = school(RAW)
    base = at.workspace.base
    learned = at.learn(LONG)
    rows = [base.encode(window.text) for window in windows(base, LONG, at.learner.window)]
    assert learned.report.windows == len(learned.report.folds) == len(rows) > 1
    assert learned.report.tokens_read == sum(len(row) - 1 for row in rows)
    assert max(map(len, rows)) <= base.context
    before, after = (at.losses(total, rows) for total in (at.base, learned.total))
    assert all(later < earlier for earlier, later in zip(before, after, strict=True))


@pytest.mark.parametrize("document", [DOCUMENT, " two  spaces ", LONG, "a"], ids=["short", "spaces", "long", "one token"])
@pytest.mark.parametrize("way", ["score", "learn"])
def test_every_token_of_a_document_has_one_weight(way: str, document: str, school: MakeSchool) -> None:
    at = school(RAW)
    weights = at.learner.score(document) if way == "score" else at.learn(document).weights
    assert "".join(text for text, _ in weights) == document
    assert all(0 <= weight <= 1 for _, weight in weights)


def test_a_score_is_that_of_the_base_weights_whatever_was_installed(school: MakeSchool) -> None:
    at = school()
    before = at.learner.score(DOCUMENT)
    at.workspace.install({n: -w for n, w in at.workspace.base_weights.items()})
    assert at.learner.score(DOCUMENT) == before
    learned = at.learn().weights
    assert [text for text, _ in learned] == [text for text, _ in before]
    assert [weight for _, weight in learned] == pytest.approx([weight for _, weight in before], abs=1e-4)


def test_a_scorer_decides_which_tokens_are_learned(school: MakeSchool, reader: BaseModel) -> None:
    scorer = TokenScorer(reader.model.config.hidden_size)
    for parameter in scorer.parameters():
        torch.nn.init.normal_(parameter)
    scorer.eval().requires_grad_(False)
    surprise, scored = school(RAW), school(RAW, scorer=scorer)
    assert scored.learner.score(DOCUMENT) != surprise.learner.score(DOCUMENT)
    assert not equal(scored.learn().delta, surprise.learn().delta)


def test_recalled_lessons_are_rehearsed_and_their_retention_is_measured(school: MakeSchool) -> None:
    at = school()
    first = at.learn()
    second = at.learn("Anna Berg was born in Lyon.", current=first.total, memories=first.memories, turn=1)
    assert second.report.drift is not None
    assert second.report.drift.retained in (0.0, 1.0)
    forgetful = school(replace(CONFIG, reflection=ReflectionConfig(recalled=0)))
    without = forgetful.learn("Anna Berg was born in Lyon.", current=first.total, memories=first.memories, turn=1)
    assert not equal(without.delta, second.delta)
    assert without.report.drift is not None, "the guard asks earlier lessons whether they were rehearsed or not"
    unasked = school(replace(CONFIG, guard=replace(GENEROUS, earlier=0)))
    third = unasked.learn("Anna Berg was born in Lyon.", current=first.total, memories=first.memories, turn=1)
    assert third.report.drift is not None
    assert third.report.drift.retained == UNTOUCHED.retained


def test_an_earlier_lesson_that_was_lost_is_folded_again_with_the_new_one_in_one_fold(school: MakeSchool) -> None:
    (lost,) = school().learn("Jon Vik was born in Oslo.").memories  # of a version that the next one does not start from
    outcomes = {}
    for reviewed in (0, 8):
        at = school(replace(CONFIG, reflection=ReflectionConfig(recalled=0, reviewed=reviewed)))
        learned = at.learn(memories=[lost])
        assert at.knows(learned.total, [View("Where was Mira Holm born?", "Graz.")]) == [True]
        assert len(learned.memories) == 1
        at.workspace.install(learned.total.weights())
        nll = at.workspace.nll(at.workspace.batch([list(lost.ids)]))[0]
        outcomes[reviewed] = (len(learned.report.folds), float(nll[torch.tensor(lost.required)].mean()))
    assert (outcomes[0][0], outcomes[8][0]) == (1, 1)
    assert outcomes[8][1] < outcomes[0][1]


def test_lessons_shape_the_metric_of_what_comes_after_them_but_not_on_the_fast_path(school: MakeSchool) -> None:
    (known,) = school().learn("Jon Vik was born in Oslo.").memories
    alone = ReflectionConfig(recalled=0, reviewed=0)
    for config, differs in ((CONFIG, True), (RAW, False)):
        counted = replace(config, reflection=alone, curvature=replace(config.curvature, block=1))
        found = [school(c).learn(memories=[known]).delta for c in (counted, replace(config, reflection=alone))]
        assert equal(*found) != differs


def test_targets_may_be_fewer_than_the_curvature_covers(school: MakeSchool) -> None:
    every = school(CONFIG)
    few = replace(CONFIG, targets=replace(CONFIG.targets, last_layers=1), curvature=replace(CONFIG.curvature, block=1))
    workspace = Workspace(every.workspace.base, find_targets(every.workspace.base.model, few.targets))
    curvature = measure_curvature(every.workspace, replace(CONFIG.curvature, samples=8, held_out=8))
    learner = Learner(workspace, curvature, every.learner.anchors, None, every.learner.template, few)
    learned = learner.learn(DOCUMENT, DeltaSum(workspace.base_weights), every.learn("Jon Vik was born in Oslo.").memories)
    assert set(learned.delta.factors) == set(workspace.targets.names)


def test_retention_is_measured_of_a_text_without_views_too_but_not_on_the_fast_path(school: MakeSchool) -> None:
    (lost,) = school().learn("Jon Vik was born in Oslo.").memories  # of a version that the next one does not start from
    for config, retained in ((CONFIG, 0.0), (RAW, UNTOUCHED.retained)):
        report = school(replace(config, guard=GENEROUS)).learn("and or but", memories=[lost]).report
        assert report.views == ()
        assert report.drift is not None
        assert report.drift.retained == retained


def test_raw_text_is_weighed_as_a_score_says(school: MakeSchool) -> None:
    at = school(RAW)
    scored, learned = at.learner.score(DOCUMENT), at.learn().weights
    assert [text for text, _ in learned] == [text for text, _ in scored]
    assert [weight for _, weight in learned] == pytest.approx([weight for _, weight in scored], abs=1e-5)


def test_an_update_that_forgets_is_rejected(school: MakeSchool) -> None:
    never = Memory((1, 40, 41), (1.0, 1.0), (False, True))
    at = school()
    known = at.learn("Jon Vik was born in Turin.")
    assert at.learn("Anna Berg was born in Lyon.", current=known.total, memories=[never]).report.rejection is None
    free = replace(CONFIG.fold, slack=1e9)
    keen = replace(
        CONFIG, guard=replace(GENEROUS, retention_loss=0.0), reflection=ReflectionConfig(recalled=1, reviewed=0), fold=free
    )
    lesson = known.memories[0]
    flipped = Memory(lesson.ids, (0.0,) * len(lesson.weights), lesson.required)  # measured, but neither rehearsed nor held
    outcomes = []
    for place in ("Lyon", "Oslo", "Lund", "Ghent"):
        report = school(keen).learn(f"Mira Holm was born in {place}.", current=known.total, memories=[flipped]).report
        assert report.drift is not None
        forgot = report.drift.retained < 1
        assert (report.rejection is not None) == forgot
        outcomes.append(forgot)
    assert any(outcomes)


@pytest.mark.parametrize("config", [CONFIG, RAW], ids=["views", "raw"])
@pytest.mark.parametrize("document", ["", " ", "\n\t "])
def test_an_empty_document_is_refused(config: LearnConfig, document: str, school: MakeSchool) -> None:
    with pytest.raises(EmptyDocument):
        school(config).learn(document)
    with pytest.raises(EmptyDocument):
        school(config).learner.score(document)


def test_a_single_token_can_be_learned_after_a_start_token_only(school: MakeSchool, make_base: MakeBase) -> None:
    assert school(RAW, make_base()).learn("a").report.tokens_read == 1
    with pytest.raises(EmptyDocument):
        school(RAW, make_base(bos=False)).learn("a")


@pytest.mark.parametrize("kind", ["gpt2", "opt", "gemma2", "phi3", "gpt_neox"])
@pytest.mark.parametrize("bos", [True, False])
def test_every_architecture_can_learn_a_text(kind: str, bos: bool, school: MakeSchool, make_base: MakeBase) -> None:
    at = school(RAW, make_base(kind, bos=bos, tie_word_embeddings=False))
    (folded,) = at.learn().report.folds
    assert folded.loss_after < folded.loss_before


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_text_of_many_bytes_per_character_does_not_leave_the_context(kind: str, school: MakeSchool, make_base: MakeBase) -> None:
    """Positions past the context are an error in these architectures."""
    learned = school(CONFIG, make_base(kind)).learn("\u65e5\u672c\U0001f600" * 100)
    assert learned.report.windows > 2


def test_only_the_layers_asked_for_change(school: MakeSchool) -> None:
    at = school(replace(CONFIG, targets=TargetConfig(1)))
    assert set(at.learn().delta.factors) == {at.workspace.targets.names[-1]}


def test_learning_leaves_the_served_model_as_it_was(school: MakeSchool, reader: BaseModel) -> None:
    before = {name: value.clone() for name, value in reader.model.state_dict().items()}
    at = school()
    at.learn()
    at.learner.score(LONG)
    assert same(dict(reader.model.state_dict()), before)
    assert not any(module._forward_hooks for module in reader.model.modules())


def test_a_question_that_misspells_a_name_is_asked_as_the_document_spells_it(
    school: MakeSchool, monkeypatch: pytest.MonkeyPatch
) -> None:
    misspelt = [View("Where was Mira Halmen born?", "Graz."), View("Where was Mira Halmen born?", "Oslo.")]
    monkeypatch.setattr("adapters.learner.write_views", lambda *_: misspelt)
    at = school()
    learned = at.learn()
    assert learned.report.views == ("Q: Where was Mira Holm born? A: Graz.",)
    assert at.knows(learned.total, [View("Where was Mira Holm born?", "Graz.")]) == [True]
