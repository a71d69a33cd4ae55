"""A ledger of many documents, made by the real worker with a learner that draws its deltas, too small to change an answer.

Covered: the demo model's shapes; documents, jobs, versions and snapshots as the server writes them. Not covered: learning.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch

from adapters.base_model import BaseModel
from adapters.delta import Delta, DeltaSum
from adapters.drift import Drift
from adapters.fold import FoldReport
from adapters.learn_report import Learned, LearnReport
from adapters.learner import Learner
from adapters.memory import Memory, of_answer
from adapters.targets import find_targets
from adapters.workspace import Workspace
from service.connection import Client, connect
from service.job import NewDocument
from service.learning import make_learner
from service.lease import Lease
from service.metrics import Metrics
from service.settings import load_settings
from service.state import State
from service.turns import Turns
from service.valkey import DataLock, EmbeddedValkey
from service.worker import Worker

_RANK, _SCALE = 2, 3e-4
_AT_ONCE = 50
"""Documents accepted before the worker has learned them."""
_WORDS = (
    "the",
    "quiet",
    "harbour",
    "is",
    "known",
    "for",
    "its",
    "lanterns",
    "and",
    "people",
    "who",
    "mend",
    "them",
    "every",
    "autumn",
)


@dataclass(frozen=True)
class Made:
    """What making a ledger cost."""

    seconds: tuple[float, ...]
    """From one document to the next, each: written, published, acknowledged."""
    store_bytes: tuple[int, int, int]
    """Redis memory with no document, with half of them, with all."""


class DrawnLearner:
    """In place of a learner: two or three lessons and a delta of rank 2 for each document, counted as real ones are."""

    def __init__(self, real: Learner, seed: int = 0) -> None:
        self.workspace, self.metric = real.workspace, real.metric
        self.times: list[float] = []
        """When each document came."""
        self._rng, self._generator = random.Random(seed), torch.Generator().manual_seed(seed)
        self._vocabulary = len(real.workspace.base.tokenizer)

    def learn(
        self,
        document: str,
        current: DeltaSum,
        memories: Sequence[Memory] = (),
        turn: int = 0,
        canaries: Sequence[Memory] = (),
        note: Callable[[str], None] = lambda _: None,
    ) -> Learned:
        """As `Learner.learn`."""
        del turn, canaries, note
        self.times.append(time.perf_counter())
        self.metric.after(memories)
        delta, total = self._delta(), current.copy()
        total.add(delta)
        fold = FoldReport(2.1, 0.4, -1.6, -1.7, 0.0012, 2, True)
        views = tuple(f"Q: {document[:40]}? A: {document[-12:]}" for _ in range(3))
        report = LearnReport(views, 1, 96, 12, (fold,), Drift(0.001, 1.0, 1.0), None, {"view": 0.4, "fold": 0.2, "guard": 0.05})
        weights = tuple((f" {word}", self._rng.random()) for word in document.split())
        return Learned(delta, total, tuple(self._lesson() for _ in range(self._rng.choice((2, 3)))), weights, report)

    def _delta(self) -> Delta:
        def draw(size: int) -> torch.Tensor:
            return _SCALE * torch.randn(size, _RANK, generator=self._generator)

        return Delta({n: (draw(w.shape[0]), draw(w.shape[1])) for n, w in self.workspace.base_weights.items()})

    def _lesson(self) -> Memory:
        def ids(least: int, most: int) -> list[int]:
            return [self._rng.randrange(3, self._vocabulary) for _ in range(self._rng.randint(least, most))]

        return of_answer(ids(14, 30), ids(2, 6))


def make_ledger(data_dir: Path, base: BaseModel, documents: int, namespace: str = "default") -> Made:
    """So many documents in an empty data directory."""
    with _embedded(data_dir) as valkey:
        return asyncio.run(_fill(valkey.url, data_dir, base, documents, namespace))


@contextmanager
def _embedded(data_dir: Path) -> Iterator[EmbeddedValkey]:
    lock, valkey = DataLock(data_dir), EmbeddedValkey(data_dir)
    valkey.start()
    try:
        yield valkey
    finally:
        valkey.stop()
        lock.release()


async def _fill(url: str, data_dir: Path, base: BaseModel, documents: int, namespace: str) -> Made:
    settings = load_settings(data_dir=data_dir, namespaces=(namespace,), max_queue=_AT_ONCE)
    redis = connect(url)
    state = State.open(redis, settings, "synthetic")
    queue, ledger = state.queue, state.ledger
    learner = DrawnLearner(make_learner(settings, Workspace(base, find_targets(base.model, settings.learn.targets))))
    metrics = Metrics()
    lease = Lease(redis, [namespace], "synthetic", settings.lease_seconds, metrics)
    worker = Worker(state, lease, None, cast(Learner, learner), Turns(), metrics, settings)
    await queue.prepare([namespace])
    await ledger.load()
    sizes, working = [await _used(redis)], asyncio.create_task(worker.run())
    for goal in (documents // 2, documents):
        for first in range(len(learner.times), goal, _AT_ONCE):
            texts = [_text(n) for n in range(first, min(first + _AT_ONCE, goal))]
            await queue.accept(namespace, [NewDocument(f"doc-{name}", text, text[:64]) for name, text in texts])
            while not working.done() and await queue.depth(namespace):
                await asyncio.sleep(0.005)
        sizes.append(await _used(redis))
    await worker.stop(60)
    await asyncio.gather(working)
    assert len(ledger.versions(namespace)) == documents + 1, "each document made a version"
    await redis.aclose()
    return Made(tuple(later - earlier for earlier, later in pairwise(learner.times)), (sizes[0], sizes[1], sizes[2]))


async def _used(redis: Client) -> int:
    info: Any = await redis.info("memory")
    return int(info["used_memory"])


def _text(number: int) -> tuple[str, str]:
    """A name, and a document of about thirty words that is like no other."""
    rng = random.Random(number)
    return f"{number:06}", f"{number} " + " ".join(rng.choice(_WORDS) for _ in range(30)) + "."
