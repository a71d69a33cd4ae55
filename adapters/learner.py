"""One document, from text to delta: view, weigh, fold, guard.

Covered: documents of any length (windows), views or raw text, rehearsal, the verdict, a report with seconds per stage.
Not covered: queues, versions on disk, publishing (the server's work).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from adapters.anchors import Anchors
from adapters.config import LearnConfig
from adapters.curvature import Curvature, DampedCurvature
from adapters.delta import Delta, DeltaSum, join
from adapters.doubts import doubts
from adapters.drift import Drift, Guard, Probed
from adapters.errors import InvalidConfig
from adapters.fold import FoldReport, Lesson, fold
from adapters.importance import TokenScorer, features, weigh
from adapters.learn_report import UNASKED, Learned, LearnReport, StageClock, TokenWeight
from adapters.memory import Memory, memorise, of_answer, remembered
from adapters.metric import Metric
from adapters.reflection import Past, recall, rehearse
from adapters.views import (
    BY_A_SENTENCE,
    Judged,
    View,
    ViewTemplate,
    judge_views,
    one_for_each_question,
    prompt_ids,
    respelled_views,
    support,
    write_views,
)
from adapters.windows import Window, distinct, windows
from adapters.workspace import Workspace

LEAST_WINDOW = 8
"""Tokens: no character takes more."""
LARGEST_WINDOW = 1024
"""Tokens: longer windows are read less well, and ask for more views than one pass writes."""


class Learner:
    """Holds what learning needs: a workspace, curvature, a scorer or none, a view template."""

    def __init__(
        self,
        workspace: Workspace,
        curvature: Curvature,
        anchors: Anchors,
        scorer: TokenScorer | None,
        template: ViewTemplate,
        config: LearnConfig,
    ) -> None:
        self.workspace, self.anchors, self.scorer, self.template, self.config = workspace, anchors, scorer, template, config
        self.metric = Metric(workspace, curvature, config.curvature, config.fold)
        self._raw_targets = workspace.targets.highest(config.fold.raw_layers)
        self.guard = Guard(workspace, curvature.held_out, config.guard, None if config.views.count else self._raw_targets)
        overhead = len(prompt_ids(workspace.base, template, "")) + config.views.max_new_tokens
        room = workspace.base.context - (overhead if config.views.count else len(workspace.base.start))
        if room < LEAST_WINDOW:
            raise InvalidConfig(
                f"the view prompt and {config.views.max_new_tokens} new tokens leave {room} of the model's context of "
                f"{workspace.base.context} tokens for the document; give a shorter view prompt, or learn raw text (views.count 0)"
            )
        self.window = min(LARGEST_WINDOW, room)

    def score(self, document: str) -> tuple[TokenWeight, ...]:
        """Token texts and weights of a document at the base weights. What two windows share is taken from the later one."""
        self.workspace.install(self.workspace.base_weights)
        pieces = self._windows(document)
        return _merge(pieces, [self._labelled(self._weigh_rows([self.workspace.base.encode(piece.text)])) for piece in pieces])

    def learn(
        self,
        document: str,
        current: DeltaSum,
        memories: Sequence[Memory] = (),
        turn: int = 0,
        canaries: Sequence[Memory] = (),
        note: Callable[[str], None] = lambda _: None,
    ) -> Learned:
        """Learn `document` on top of `current` (not changed), rehearsing some of `memories`.

        turn: seeds every choice, the guard's probes included. canaries: what must be answered as before. note: called with each
        stage that begins.

        Raises:
            EmptyDocument: nothing but white space.
        """
        clock, candidate = StageClock(note), current.copy()
        pieces = self._windows(document)
        with clock.stage("fold", silent=True):  # views come first
            metric = self.metric.after(memories if self.config.views.count else ())  # the fast path has no lessons to keep
        past = Past(memories, self.anchors, self.config.reflection, turn, canaries)
        state = _State(candidate, past, metric, turn, clock)
        parts: list[_Part] = []
        for piece in pieces:
            parts.append(self._learn_window(piece.text, state, [memory for part in parts for memory in part.memories]))
        folded = [part for part in parts if part.report is not None]
        new = tuple(memory for part in folded for memory in part.memories)
        delta, result = join(part.delta for part in folded), candidate
        if len(folded) > 1:  # what is stored is the join, and its rounding is not the sum of the parts' roundings
            result = current.copy()
            result.add(delta)
        drift, rejection = None, None
        if folded:
            with clock.stage("guard"):
                drift, rejection = self.guard.judge(current, result, self._probed(new, past, canaries), turn)
        taught = [view for part in folded for view in part.views]
        unasked = bool(delta.factors) and rejection is None and not taught and self.config.views.count > 0
        report = LearnReport(
            views=tuple(map(self._as_text, taught)),
            windows=len(pieces),
            tokens_read=sum(part.tokens_read for part in parts),
            tokens_kept=sum(part.tokens_kept for part in parts),
            folds=tuple(part.report for part in folded if part.report is not None) if delta.factors else (),
            drift=drift,
            rejection=rejection,
            seconds=clock.seconds,
            warnings=(*doubts(taught, state.said), *[UNASKED] * unasked),
        )
        weights = _merge(pieces, [part.weights for part in parts])
        if rejection is not None:
            return Learned(Delta.zero(), current, (), weights, report)
        return Learned(delta, result, new, weights, report)

    def probe(self, version: DeltaSum, memories: Sequence[Memory], turn: int, canaries: Sequence[Memory]) -> Drift:
        """What the guard measures of weights that no document brought, as where one was taken back."""
        past = Past(memories, self.anchors, self.config.reflection, turn, canaries)
        return self.guard.probe(version, self._probed((), past, canaries), turn)[0]

    def _probed(self, new: Sequence[Memory], past: Past, canaries: Sequence[Memory]) -> Probed:
        earlier = past.sampled(new, self.config.guard.earlier) if self.config.views.count else []  # the fast path has none
        return Probed(new, earlier, canaries)

    def _windows(self, document: str) -> list[Window]:
        """What is read of a document."""
        return windows(self.workspace.base, distinct(self.workspace.base.inert(document)), self.window)

    def _learn_window(self, piece: str, state: "_State", earlier: Sequence[Memory]) -> "_Part":
        """Learn one window and add its delta to the candidate: through views of it, or its raw text if there are none.

        earlier: what was learned from the windows before it. With the first, what was lost of earlier documents is folded again.
        """
        workspace, base, past, clock = self.workspace, self.workspace.base, state.past, state.clock
        if self.config.views.count == 0:
            return self._learn_raw(piece, state)
        workspace.install(workspace.base_weights)
        with clock.stage("view"):
            views = self._write(piece, state)
        if not views:
            return self._learn_raw(piece, state)
        with clock.stage("score"):
            lesson = self._weigh_rows([base.encode(piece)] + [view.ids(base, self.template) for view in views])
            weights = self._labelled(lesson)
            workspace.install(state.candidate.weights())
            judged = judge_views(workspace, self.template, views)
            unknown = [i for i, found in enumerate(judged) if not self._known(views[i], found, past)]
        if not unknown:
            return _Part(weights, int(lesson.batch.predicted[0].sum()), 0)
        taught = [views[i] for i in unknown]
        lesson = self._select(lesson, [i + 1 for i in unknown], taught)
        new = memorise(lesson, [judged[i].first if judged[i].first_likely >= self.config.fold.sure else None for i in unknown])
        with clock.stage("fold"):
            lost = [] if earlier else self._lost(past, new)
            recent = recall(earlier, self.config.reflection.recalled, state.turn)
            rehearsal = rehearse(workspace, lesson, [*past.rehearsed(new, lost), *recent], lost)
            delta, report = fold(workspace, rehearsal, state.metric, self.config.fold)
            state.candidate.add(delta)
        return _Part(weights, *_counts(lesson), tuple(taught), delta, tuple(new), report)

    def _lost(self, past: Past, new: Sequence[Memory]) -> list[Memory]:
        """Some of what was known before and is no longer remembered at the weights installed."""
        sample = past.reviewed(new)
        lost = [m for m, kept in zip(sample, remembered(self.workspace, sample), strict=True) if not kept]
        return lost[: self.config.reflection.refolded]

    def _learn_raw(self, piece: str, state: "_State") -> "_Part":
        """The fast path: weigh and fold the text itself, where scoring shares the first forward pass of the fold."""
        workspace = self.workspace
        with state.clock.stage("fold"):
            workspace.install(state.candidate.weights())
            batch = workspace.batch([workspace.base.encode(piece)])
            weights = torch.zeros_like(batch.predicted)

            def weigh_first(hidden: Tensor, evidence: Tensor) -> Tensor:
                return weights.copy_(weigh(self.scorer, hidden, evidence, batch.predicted, self.config.weigh.threshold))

            lesson = Lesson(batch, weights, torch.zeros_like(weights, dtype=torch.bool))
            settings = replace(self.config.fold, iterations=self.config.fold.raw_iterations)
            delta, report = fold(workspace, lesson, state.metric, settings, weigh_first, self._raw_targets)
            state.candidate.add(delta)
        return _Part(self._labelled(lesson), *_counts(lesson), (), delta, (), report)

    def _write(self, piece: str, state: "_State") -> list[View]:
        """Views of one window that the window bears out, one for each question; the base weights must be installed.

        If there are none, their names may be misspelt: those are put right, and need not be what the model would have written.
        """
        views = write_views(self.workspace, self.template, piece, self.config.views, state.turn)
        plausible = self.config.views.plausible
        return self._borne_out(views, piece, plausible, state) or self._borne_out(respelled_views(views, piece), piece, 0.0, state)

    def _borne_out(self, views: list[View], piece: str, plausible: float, state: "_State") -> list[View]:
        supported = support(self.workspace, self.template, views, piece, plausible)
        state.said.extend(view for view, by in zip(views, supported, strict=True) if by == BY_A_SENTENCE)
        good = one_for_each_question(views, supported)
        return [view for view, kept in zip(views, good, strict=True) if kept]

    def _weigh_rows(self, rows: list[list[int]]) -> Lesson:
        """Weights of all rows in one forward pass at the weights installed; nothing is required."""
        batch = self.workspace.batch(rows)
        weights = weigh(self.scorer, *features(self.workspace, batch), batch.predicted, self.config.weigh.threshold)
        return Lesson(batch, weights, torch.zeros_like(weights, dtype=torch.bool))

    def _labelled(self, lesson: Lesson) -> tuple[TokenWeight, ...]:
        """The first row's tokens as text, with their weights."""
        tokenizer, start = self.workspace.base.tokenizer, len(self.workspace.base.start)
        ids = lesson.batch.ids[0, : int(lesson.batch.mask[0].sum())].tolist()
        texts = [tokenizer.convert_tokens_to_string([token]) for token in tokenizer.convert_ids_to_tokens(ids)]
        return tuple(zip(texts, [0.0, *lesson.weights[0].tolist()], strict=False))[start:]

    def _known(self, view: View, found: Judged, past: Past) -> bool:
        """Whether there is nothing to learn in a view: it is known well, or it is remembered as learned and still answered."""
        base = self.workspace.base
        if not found.right or found.likely < self.config.fold.sure:
            return False
        memory = of_answer(view.prompt(base, self.template), view.continuation(base, self.template))
        return found.likely >= self.config.views.known or past.holds(memory)

    def _select(self, lesson: Lesson, rows: list[int], views: list[View]) -> Lesson:
        """These rows of a lesson. Of `views`, if any, the answers are required, and only they are weighed: questions are given."""
        base = self.workspace.base
        batch = self.workspace.batch([lesson.batch.ids[r, : int(lesson.batch.mask[r].sum())].tolist() for r in rows])
        weights = lesson.weights[rows, : batch.ids.shape[1] - 1]
        required = torch.zeros_like(weights, dtype=torch.bool)
        for row, view in enumerate(views):
            start, length = len(view.prompt(base, self.template)), len(view.ids(base, self.template))
            required[row, start - 1 : length - 1] = True
        if views:
            answers = weights * required
            peak = answers.amax(-1, keepdim=True)
            weights = torch.where(peak > 0, answers / peak.clamp(min=1e-9), required.float())
        return Lesson(batch, weights, required)

    def _as_text(self, view: View) -> str:
        return f"{self.template.view_prefix} {view.question}{self.template.view_answer} {view.answer}"


def _merge(pieces: Sequence[Window], weights: Sequence[tuple[TokenWeight, ...]]) -> tuple[TokenWeight, ...]:
    """Token weights of all windows, each token once."""
    tokens: list[TokenWeight] = []
    for piece, found in zip(pieces, weights, strict=True):
        del tokens[len(tokens) - piece.shared :]
        tokens += found
    return tuple(tokens)


def _counts(lesson: Lesson) -> tuple[int, int]:
    """Tokens read, and tokens kept."""
    return int(lesson.batch.predicted.sum()), int((lesson.weights > 0).sum())


@dataclass(frozen=True)
class _Part:
    """What one window gave."""

    weights: tuple[TokenWeight, ...]
    tokens_read: int
    tokens_kept: int
    views: tuple[View, ...] = ()
    delta: Delta = field(default_factory=Delta.zero)
    memories: tuple[Memory, ...] = ()
    report: FoldReport | None = None
    """None: there was nothing new to learn."""


@dataclass(frozen=True)
class _State:
    """What all windows of one document share."""

    candidate: DeltaSum
    """Grows with each window."""
    past: Past
    metric: DampedCurvature
    turn: int
    clock: StageClock
    said: list[View] = field(default_factory=list)
    """What single sentences say; grows with each window."""
