"""Take a document back: what its delta leaves behind in others is undone, and what leant on it is learned again.

Deltas form a group (`delta.py`), so taking one away is exact. But what was learned afterwards was folded into weights that knew the
document, and rehearsed it: others may fall with it, and its answers may outlive its delta. So its questions are asked, and those of
others; what fell is folded once more, and what is still answered towards what was answered before the document was learned.
Measured: one document alone leaves next to nothing; after fifty of two hundred it adds up (docs/LOG.md). To learn the later
documents anew is the exact way, and costs their learning.

Covered: asking and mending. Not covered: which versions there are (the server's ledger).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.curvature import DampedCurvature
from adapters.delta import Delta, DeltaSum, join
from adapters.fold import FoldReport, fold
from adapters.learner import Learner
from adapters.memory import Memory, of_answer, relearn, remembered
from adapters.reflection import Past, rehearse
from adapters.sampling import continue_rows

ROUNDS = 4
"""Most folds that are spent on one document."""
ASKED = 512
"""Lessons of others that are asked, the nearest first."""


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
    """Its own questions."""
    left: int
    """Of those that are still answered as it taught: those that were not before it was learned."""
    others: Answered
    """Questions that were learned from other documents."""
    folds: tuple[FoldReport, ...]
    """That mended."""


@dataclass(frozen=True)
class Life:
    """The weights that a document came into, and is taken out of."""

    former: DeltaSum
    """Before it was learned."""
    full: DeltaSum
    """With it, and with all that came later."""
    without: DeltaSum
    """The same, its delta taken away, or as if it had never been."""


def take_back(
    learner: Learner, life: Life, forgotten: Sequence[Memory], others: Sequence[Memory], turn: int, mend: bool
) -> tuple[Delta, DeltaSum, ForgetReport]:
    """What must be added to `life.without`, what comes of that, and what is answered then.

    forgotten: the document's lessons; others: those that stay, in their order. mend: False: measure only, add nothing.
    """
    workspace, past = learner.workspace, Past(others, learner.anchors, learner.config.reflection, turn)
    asked = past.standing(others if len(others) <= ASKED else learner.anchors.nearest(forgotten, ASKED, others))
    workspace.install(life.full.weights())
    knew, held = remembered(workspace, forgotten), remembered(workspace, asked)
    known = [memory for memory, kept in zip(asked, held, strict=True) if kept]
    workspace.install(life.former.weights())
    before = remembered(workspace, forgotten)
    unlearned = [memory for memory, answered in zip(forgotten, before, strict=True) if not answered]
    mended: tuple[Delta, DeltaSum, list[FoldReport]] = Delta.zero(), life.without, []
    if mend:
        mended = _mend(learner, life.without, _former_answers(learner, unlearned), unlearned, known, others, turn)
    delta, total, folds = mended
    workspace.install(total.weights())
    know = remembered(workspace, forgotten)
    return delta, total, ForgetReport(
        Answered(len(forgotten), sum(knew), sum(know)),
        sum(now and not then for now, then in zip(know, before, strict=True)),
        Answered(len(asked), sum(held), sum(remembered(workspace, asked))),
        tuple(folds),
    )  # fmt: skip


def without(memories: Sequence[Memory], forgotten: Sequence[Memory]) -> list[Memory]:
    """`memories` less `forgotten`; what another document taught as well stays."""
    gone, kept = Counter(forgotten), []
    for memory in memories:
        if gone[memory]:
            gone[memory] -= 1
        else:
            kept.append(memory)
    return kept


def _mend(
    learner: Learner,
    start: DeltaSum,
    former: Sequence[Memory],
    unlearned: Sequence[Memory],
    known: Sequence[Memory],
    others: Sequence[Memory],
    turn: int,
) -> tuple[Delta, DeltaSum, list[FoldReport]]:
    """Fold until none of `unlearned` is answered and all of `known` are, or no longer.

    former: what was answered to each of `unlearned` before it was learned.
    """
    workspace, total = learner.workspace, start
    deltas: list[Delta] = []
    folds: list[FoldReport] = []
    while len(folds) < ROUNDS:
        workspace.install(total.weights())
        still = [old for old, left in zip(former, remembered(workspace, unlearned), strict=True) if left]
        fallen = [memory for memory, kept in zip(known, remembered(workspace, known), strict=True) if not kept]
        if not still and not fallen:
            break
        metric = learner.metric.after(others)  # which may leave other weights installed
        workspace.install(total.weights())
        past = Past(others, learner.anchors, learner.config.reflection, turn + len(folds))
        part, report = _fold(learner, metric, still, fallen, past)
        if not part.factors:
            break
        folds.append(report)
        deltas.append(part)
        total = total.copy()
        total.add(part)
    delta = join(deltas)
    if len(deltas) > 1:  # what is stored is the join, and its rounding is not the sum of the parts' roundings
        total = start.copy()
        total.add(delta)
    return delta, total, folds


def _former_answers(learner: Learner, questions: Sequence[Memory]) -> list[Memory]:
    """What the weights installed answer to these questions, as far as the answers that were learned go."""
    if not questions:
        return []
    longest = max(len(m.answer) for m in questions)
    rows = continue_rows(learner.workspace, [list(m.prompt) for m in questions], longest, [0.0] * len(questions))
    return [of_answer(m.prompt, row[: len(m.answer)]) for m, row in zip(questions, rows, strict=True)]


def _fold(
    learner: Learner, metric: DampedCurvature, still: Sequence[Memory], fallen: Sequence[Memory], past: Past
) -> tuple[Delta, FoldReport]:
    """Fold towards the former answers in `still`, and learn some of the `fallen` again."""
    config, workspace = learner.config, learner.workspace
    some = list(fallen[: config.reflection.refolded])
    new, lost = (list(still), some) if still else (some, [])
    lesson = rehearse(workspace, relearn(workspace, new), past.rehearsed(new, lost), lost)
    return fold(workspace, lesson, metric, config.fold)
