"""Decoding and learning on one device: they take turns, divide its cores, or have a stream each.

Turns are for a single core: decoding never waits for more than one quantum of learning. Where there are several cores both go on
at once, each on half of the threads while both have work, and nobody waits (measured: docs/LOG.md). On a GPU each has a stream of
its own, and the kernels of decoding go first.

Covered: any number of decoder threads, and of learner threads, of which one learns at a time.
Not covered: devices of their own (then there is nothing to divide).
"""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

LATELY = 0.5
"""Seconds after a decode step in which another is expected."""


class LearningInterrupted(Exception):
    """The server ends before the learner does."""


class Turns:
    """A fair lock with two kinds of holders, of which the learner lets go between quanta."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._one_learner = threading.Lock()
        self._held = False
        self._decoders_wait = 0
        self._learners_wait = 0
        self._learner_next = False
        self._interrupted = False
        self._threads: int | None = None
        """What both divide; None: they take turns."""
        self._decoded = -math.inf
        """When the last decode step began."""
        self._using = threading.local()
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None
        """Of decoding and of learning, on a GPU."""

    @property
    def _at_once(self) -> bool:
        return self._threads is not None or self._streams is not None

    def separate(self, device: torch.device) -> None:
        """From now on each has a stream of its own on this GPU, and both go on at once."""
        torch.cuda.synchronize(device)  # what was written before is seen by both
        decoding, learning = (torch.cuda.Stream(device, priority=p) for p in (-1, 0))  # type: ignore[no-untyped-call]
        self._streams = decoding, learning

    @contextmanager
    def decoder(self) -> Iterator[None]:
        """What the thread that decodes does within it goes into its stream, where it has one."""
        with torch.cuda.stream(self._streams[0]) if self._streams else nullcontext():
            yield

    def divide(self, threads: int) -> None:
        """From now on both go on at once, on so many threads of torch's together (each on one at least)."""
        self._threads = threads

    def interrupt(self) -> None:
        """End learning at the end of its quantum: from now on `pace` raises LearningInterrupted."""
        self._interrupted = True

    @contextmanager
    def decoding(self) -> Iterator[float]:
        """Hold the device for one decode step. Yields the seconds waited for it."""
        if self._at_once:
            self._decoded = time.perf_counter()
            if self._threads is not None:
                self._use(self._threads, beside=self._one_learner.locked())
            yield 0.0
            return
        start = time.perf_counter()
        with self._condition:
            self._decoders_wait += 1
            self._condition.wait_for(lambda: not self._held and not self._learner_next)
            self._decoders_wait -= 1
            self._held = True
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
            if self._streams is not None:
                self.pace()
                with torch.cuda.stream(self._streams[1]):
                    yield
                self._streams[1].synchronize()  # others may use what was made
                return
            if self._threads is not None:
                self.pace()
                yield
                return
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
        if self._threads is not None:
            self._use(self._threads, beside=time.perf_counter() - self._decoded < LATELY)
        elif not self._at_once and self._decoders_wait:
            self._release()
            self._acquire()

    def _use(self, threads: int, beside: bool) -> None:
        """In the thread that calls this: all of torch's threads, or half of them beside the other one."""
        wanted = max(1, threads // 2) if beside else threads
        if wanted != getattr(self._using, "threads", None):
            torch.set_num_threads(wanted)
            self._using.threads = wanted

    def _acquire(self) -> None:
        with self._condition:
            self._learners_wait += 1
            self._condition.wait_for(lambda: not self._held and (self._learner_next or not self._decoders_wait))
            self._learners_wait -= 1
            self._learner_next, self._held = False, True

    def _release(self) -> None:
        with self._condition:
            self._held = False
            self._condition.notify_all()
