"""Decoding and learning take turns on one device: decoding never waits for more than one quantum of learning.

Covered: one decoder thread and any number of learner threads.
Not covered: devices of their own (then there is nothing to take turns on).
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class LearningInterrupted(Exception):
    """The server ends before the learner does."""


class Turns:
    """A fair lock with two kinds of holders, of which the learner lets go between quanta."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._one_learner = threading.Lock()
        self._held = False
        self._decoder_waits = False
        self._learners_wait = 0
        self._learner_next = False
        self._interrupted = False

    def interrupt(self) -> None:
        """End learning at the end of its quantum: from now on `pace` raises LearningInterrupted."""
        self._interrupted = True

    @contextmanager
    def decoding(self) -> Iterator[float]:
        """Hold the device for one decode step. Yields the seconds waited for it."""
        start = time.perf_counter()
        with self._condition:
            self._decoder_waits = True
            self._condition.wait_for(lambda: not self._held and not self._learner_next)
            self._decoder_waits, self._held = False, True
        try:
            yield time.perf_counter() - start
        finally:
            with self._condition:
                self._held = False
                self._learner_next = self._learners_wait > 0  # a busy decoder must not starve the learner
                self._condition.notify_all()

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Hold the device; call `pace` between quanta. No other learner comes in between: they share one workspace."""
        with self._one_learner:
            self._acquire()
            try:
                yield
            finally:
                self._release()

    def pace(self) -> None:
        """Let a waiting decode step go first. To be called only within `learning`.

        Raises:
            LearningInterrupted: the server ends.
        """
        if self._interrupted:
            raise LearningInterrupted
        if self._decoder_waits:
            self._release()
            self._acquire()

    def _acquire(self) -> None:
        with self._condition:
            self._learners_wait += 1
            self._condition.wait_for(lambda: not self._held and (self._learner_next or not self._decoder_waits))
            self._learners_wait -= 1
            self._learner_next, self._held = False, True

    def _release(self) -> None:
        with self._condition:
            self._held = False
            self._condition.notify_all()
