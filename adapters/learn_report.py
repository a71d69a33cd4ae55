"""What is told of one document that was learned, and how long each stage took.

Covered: the result, its report, the clock of its stages. Not covered: learning (`learner.py`).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from adapters.delta import Delta, DeltaSum
from adapters.drift import Drift
from adapters.fold import FoldReport
from adapters.memory import Memory

TokenWeight = tuple[str, float]
"""Text and weight of one token."""
UNASKED = "the model wrote no question about it: it was learned as raw text, which may answer nothing"
"""The warning of a document that views were asked for in vain."""


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
    warnings: tuple[str, ...] = ()
    """What speaks against learning from it, and did not keep it from being learned (`doubts.py`)."""


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


class StageClock:
    """Seconds spent per stage, and word of each that begins."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._note, self._noted = note, ""

    @contextmanager
    def stage(self, name: str, silent: bool = False) -> Iterator[None]:
        if name != self._noted and not silent:
            self._noted = name
            self._note(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
