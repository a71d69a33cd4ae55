"""Take a document back: what its delta leaves behind in others is undone, and what leant on it is learned again.

Deltas form a group (`delta.py`), so taking one away is exact. But what was learned afterwards rehearsed the forgotten document,
and was folded into weights that knew it: its answers may outlive its delta, and others may fall with it. So its questions are
folded once more, towards what was answered before it was learned, together with those that fell. To learn the later documents
anew is the exact way, and costs their learning.

Covered: asking, and folding towards the former answers. Not covered: which versions there are (the server's ledger).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from adapters.delta import Delta, DeltaSum, join
from adapters.drift import Drift
from adapters.fold import FoldReport, fold
from adapters.learner import Learner
from adapters.memory import Memory, of_answer, relearn, remembered
from adapters.reflection import Past, rehearse
from adapters.sampling import continue_rows

ROUNDS = 4
"""Most folds that are spent on one document."""
ASKED = 512
"""Other lessons asked, the nearest first."""


@dataclass(frozen=True)
class Answered:
    """Of some questions: how many were answered as they had been learned."""

    asked: int
    before: int
    """With the document."""
    after: int
    """Without it."""


@dataclass(frozen=True)
class ForgetReport:
    """What was measured of one document that was taken back."""

    forgotten: Answered
    """Its own questions; those left are answered so by what was there before it, too."""
    unlearned: int
    """Of them, those that nothing answered so before it was learned: after it is taken back, none should be."""
    left: int
    """Of those, the ones that are still answered so."""
    others: Answered
    folds: tuple[FoldReport, ...]
    drift: Drift


@dataclass(frozen=True)
class Life:
    """The weights that a document came into and is to be taken out of."""

    former: DeltaSum
    """Before it was learned."""
    full: DeltaSum
    """With it, and with all that came later."""
    without: DeltaSum
    """The same, its own delta taken away."""


def take_back(
    learner: Learner, life: Life, forgotten: Sequence[Memory], others: Sequence[Memory], turn: int, mend: bool = True
) -> tuple[Delta, DeltaSum, ForgetReport]:
    """What must be added to `life.without`, what comes of it, and what was measured.

    forgotten: the document's lessons; others: those that stay, in order. mend: False: measure only, and add nothing.
    """
    workspace = learner.workspace
    nearest = learner.anchors.nearest(forgotten, ASKED, others) if len(others) > ASKED else list(others)
    asked = [m for m in Past(others, learner.anchors, learner.config.reflection, turn).valid(nearest) if m not in forgotten]
    workspace.install(life.full.weights())
    knew, held = remembered(workspace, forgotten), remembered(workspace, asked)
    asked_held = [m for m, kept in zip(asked, held, strict=True) if kept]
    workspace.install(life.former.weights())
    known = remembered(workspace, forgotten)
    unlearned = [m for m, answered in zip(forgotten, known, strict=True) if not answered]
    targets = _former_answers(learner, unlearned)
    deltas: list[Delta] = []
    folds: list[FoldReport] = []
    total = life.without
    while mend and len(folds) < ROUNDS:
        workspace.install(total.weights())
        still = [t for t, left in zip(targets, remembered(workspace, unlearned), strict=True) if left]
        fallen = [m for m, kept in zip(asked_held, remembered(workspace, asked_held), strict=True) if not kept]
        if not still and not fallen:
            break
        part, done = _fold(learner, still, fallen, others, turn + len(folds))
        if not part.factors:
            break
        folds.append(done)
        deltas.append(part)
        total = total.copy()
        total.add(part)
    delta = join(deltas)
    if len(deltas) > 1:  # what is stored is the join, and its rounding is not the sum of the parts' roundings
        total = life.without.copy()
        total.add(delta)
    workspace.install(total.weights())
    after = remembered(workspace, forgotten)
    report = ForgetReport(
        Answered(len(forgotten), sum(knew), sum(after)),
        len(unlearned),
        sum(a for a, before in zip(after, known, strict=True) if not before),
        Answered(len(asked), sum(held), sum(remembered(workspace, asked))),
        tuple(folds),
        learner.guard.measure(others[-1:], Past(others, learner.anchors, learner.config.reflection, turn).sampled([], 8), turn),
    )
    return delta, total, report


def _former_answers(learner: Learner, forgotten: Sequence[Memory]) -> list[Memory]:
    """What the weights installed answer to these questions, as far as the forgotten answer goes."""
    if not forgotten:
        return []
    longest = max(len(m.answer) for m in forgotten)
    rows = continue_rows(learner.workspace, [list(m.prompt) for m in forgotten], longest, [0.0] * len(forgotten))
    return [of_answer(m.prompt, row[: len(m.answer)]) for m, row in zip(forgotten, rows, strict=True)]


def _fold(
    learner: Learner, still: Sequence[Memory], fallen: Sequence[Memory], others: Sequence[Memory], turn: int
) -> tuple[Delta, FoldReport]:
    """Fold towards the former answers in `still`, and learn some of the `fallen` again."""
    config, workspace = learner.config, learner.workspace
    lost = list(fallen[: config.reflection.refolded])
    new, lost = (list(still), lost) if still else (lost, [])
    past = Past(others, learner.anchors, config.reflection, turn)
    lesson = rehearse(workspace, relearn(workspace, new), past.rehearsed(new, lost), lost)
    return fold(workspace, lesson, learner.metric.after(others), config.fold)
