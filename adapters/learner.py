"""One document, from text to delta: view, weigh, fold, guard.

Covered: documents of any length (windows), views or raw text, rehearsal, the verdict, a report with seconds per stage.
Not covered: queues, versions on disk, publishing (the server's work).
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from adapters.config import LearnConfig
from adapters.curvature import Curvature, DampedCurvature
from adapters.delta import Delta, DeltaSum, join
from adapters.drift import UNTOUCHED, Drift, Guard
from adapters.fold import FoldReport, Lesson, fold
from adapters.importance import TokenScorer, features, weigh
from adapters.reflection import Memory, memorise, recall, rehearse
from adapters.views import View, ViewTemplate, answered, borne_out, prompt_ids, write_views
from adapters.windows import Window, windows
from adapters.workspace import Workspace

TokenWeight = tuple[str, float]
"""Text and weight of one token."""
LARGEST_WINDOW = 1024
"""Tokens: longer windows are read less well, and ask for more views than one pass writes."""


@dataclass(frozen=True)
class LearnReport:
    """What happened to one document."""

    views: tuple[str, ...]
    """The views that were folded; empty when the raw text was, or nothing."""
    windows: int
    tokens_read: int
    tokens_kept: int
    """Predicted tokens with a weight above zero, of those read."""
    folds: tuple[FoldReport, ...]
    drift: Drift | None
    """Of the candidate; None when nothing was folded."""
    rejection: str | None
    seconds: dict[str, float]
    """Per stage: view, score, fold, guard."""


@dataclass(frozen=True)
class Learned:
    """The result of learning one document."""

    delta: Delta
    total: DeltaSum
    """What the version was before, and the delta."""
    memories: tuple[Memory, ...]
    weights: tuple[TokenWeight, ...]
    """The document's tokens, as text, with their weights."""
    report: LearnReport


class Learner:
    """Holds what learning needs: a workspace, curvature, a scorer or none, a view template."""

    def __init__(
        self,
        workspace: Workspace,
        curvature: Curvature,
        scorer: TokenScorer | None,
        template: ViewTemplate,
        config: LearnConfig,
    ) -> None:
        self.workspace, self.scorer, self.template, self.config = workspace, scorer, template, config
        self.curvature = DampedCurvature(curvature, config.fold, workspace.base.device)
        self.guard = Guard(workspace, curvature.held_out, config.guard)
        overhead = len(prompt_ids(workspace.base, template, "")) + config.views.max_new_tokens
        self.window = min(LARGEST_WINDOW, max(8, workspace.base.context - overhead))

    def score(self, document: str) -> tuple[TokenWeight, ...]:
        """Token texts and weights of a document at the base weights. What two windows share is taken from the later one."""
        self.workspace.install(self.workspace.base_weights)
        pieces = windows(self.workspace.base, document, self.window)
        return _merge(pieces, [self._weigh_rows([self.workspace.base.encode(piece.text)])[1] for piece in pieces])

    def learn(
        self,
        document: str,
        current: DeltaSum,
        memories: Sequence[Memory] = (),
        turn: int = 0,
    ) -> Learned:
        """Learn `document` on top of `current` (not changed), rehearsing some of `memories`.

        turn: seeds every choice, the guard's probes included.

        Raises:
            EmptyDocument: nothing but white space.
        """
        clock, candidate = _Clock(), current.copy()
        recalled = recall(memories, self.config.reflection.recalled, turn)
        pieces = windows(self.workspace.base, document, self.window)
        parts = [self._learn_window(piece.text, candidate, recalled, turn, clock) for piece in pieces]
        folded = [part for part in parts if part.report is not None]
        new = tuple(memory for part in folded for memory in part.memories)
        delta, result = join(part.delta for part in folded), candidate
        if len(folded) > 1:  # what is stored is the join, and its rounding is not the sum of the parts' roundings
            result = current.copy()
            result.add(delta)
        drift, rejection = None, None
        if folded:
            with clock.stage("guard"):
                drift, rejection = self._judge(current, result, new, recalled, turn)
        report = LearnReport(
            views=tuple(self._as_text(view) for part in folded for view in part.views),
            windows=len(pieces),
            tokens_read=sum(part.tokens_read for part in parts),
            tokens_kept=sum(part.tokens_kept for part in parts),
            folds=tuple(part.report for part in folded if part.report is not None),
            drift=drift,
            rejection=rejection,
            seconds=clock.seconds,
        )
        weights = _merge(pieces, [part.weights for part in parts])
        if rejection is not None:
            return Learned(Delta.zero(), current, (), weights, report)
        return Learned(delta, result, new, weights, report)

    def _learn_window(self, piece: str, candidate: DeltaSum, recalled: Sequence[Memory], turn: int, clock: "_Clock") -> "_Part":
        """Learn one window and add its delta to `candidate`."""
        workspace, base = self.workspace, self.workspace.base
        workspace.install(workspace.base_weights)
        with clock.stage("view"):
            views = self._write(piece, turn)
        with clock.stage("score"):
            rows = [base.encode(piece)] + [view.ids(base, self.template) for view in views]
            lesson, weights = self._weigh_rows(rows)
            workspace.install(candidate.weights())
            sure = math.exp(-self.config.fold.required_nll)
            unknown = [i for i, known in enumerate(answered(workspace, self.template, views, sure), 1) if not known]
        nothing_new = bool(views) and not unknown
        taught = [views[i - 1] for i in unknown]
        lesson = self._select(lesson, unknown, taught) if unknown else self._select(lesson, [0], [])
        read, kept = int(lesson.batch.predicted.sum()), int((lesson.weights > 0).sum())
        if nothing_new:
            return _Part(weights, read, 0)
        with clock.stage("fold"):
            settings = self.config.fold if taught else replace(self.config.fold, iterations=self.config.fold.raw_iterations)
            lesson_now = rehearse(workspace, lesson, recalled) if taught else lesson
            delta, report = fold(workspace, lesson_now, self.curvature, settings)
            candidate.add(delta)
        return _Part(weights, read, kept, tuple(taught), delta, tuple(memorise(lesson)), report)

    def _judge(
        self, current: DeltaSum, candidate: DeltaSum, new: Sequence[Memory], recalled: Sequence[Memory], turn: int
    ) -> tuple[Drift, str | None]:
        """What the guard measures of `candidate`, at exactly the weights that would be served, and why to reject it, or None."""
        self.workspace.install(candidate.weights())
        after = self.guard.measure(new, recalled, turn)
        if self.guard.verdict(UNTOUCHED, after) is None:
            return after, None  # within what one update may cost even if all of it were this one's
        self.workspace.install(current.weights())
        return after, self.guard.verdict(self.guard.measure(new, recalled, turn), after)

    def _write(self, piece: str, turn: int) -> list[View]:
        """Views of one window that the window bears out; the base weights must be installed."""
        if self.config.views.count == 0:
            return []
        views = write_views(self.workspace, self.template, piece, self.config.views, turn)
        good = borne_out(self.workspace, self.template, views, piece, self.config.views.plausible)
        return [view for view, kept in zip(views, good, strict=True) if kept]

    def _weigh_rows(self, rows: list[list[int]]) -> tuple[Lesson, tuple[TokenWeight, ...]]:
        """Weights of all rows in one forward pass at the weights installed; the first row's, with its tokens' texts, besides."""
        batch = self.workspace.batch(rows)
        weights = weigh(self.scorer, *features(self.workspace, batch), batch.predicted, self.config.weigh.threshold)
        first = self.workspace.base.tokenizer.convert_ids_to_tokens(rows[0])
        texts = [self.workspace.base.tokenizer.convert_tokens_to_string([token]) for token in first]
        labelled = zip(texts, [0.0, *weights[0].tolist()], strict=False)
        return Lesson(batch, weights, torch.zeros_like(weights, dtype=torch.bool)), tuple(labelled)[
            len(self.workspace.base.start) :
        ]

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


class _Clock:
    """Seconds spent per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
