"""Claim -> learn -> checkpoint -> publish -> acknowledge.

A job is acknowledged only after its version is on disk and published, so a crash anywhere before that means learning it
again, and a crash after it means finding it ended (`keys.py`). Redis being away is waited out; it never counts as an attempt.
Every so many versions a snapshot of the chain is written beside the next document's learning; a crash there costs only time.

Of several workers on one namespace one learns, and the others wait for its lease (`lease.py`). A worker that finds itself outdated
drops what it has begun: whoever holds the lease now learns it.

Covered: one learning thread over all namespaces, redelivery, rejection, giving up, draining, waiting for a lease.
Not covered: sharing one namespace's documents among workers; each version is learned on top of the one before.
"""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import structlog
from redis.exceptions import RedisError, ResponseError

from adapters.checkpoint import Version, VersionStore
from adapters.delta import DeltaSum
from adapters.errors import AdapterError, CorruptCheckpoint, InvalidCanary
from adapters.learner import Learned, Learner
from adapters.memory import Memory, of_text
from service.canaries import Canaries, Canary
from service.connection import PATIENCE_SECONDS
from service.errors import AliasMoved, Fenced
from service.job import Claim
from service.lease import Lease
from service.ledger import Ledger, VersionRecord
from service.metrics import Metrics
from service.queue import JobQueue
from service.residency import Residency
from service.settings import Settings
from service.turns import Turns

CONSUMER = "learner"
"""One name across restarts and machines, so that a worker finds what the one before it held."""
BETWEEN_TRIES_SECONDS = 1.0
"""To take the leases of others."""

T = TypeVar("T")
log = structlog.get_logger()


@dataclass
class _Head:
    """What the next document of a namespace is learned on top of."""

    record: VersionRecord
    total: DeltaSum
    memories: list[Memory]
    behind: int
    """How many versions of its chain the last snapshot lacks."""
    refused: int = 0
    """Documents that changed nothing while this process held the namespace."""

    @property
    def turn(self) -> int:
        """What is asked again and what is probed rotates with it, on after a document that was rejected on unlucky probes too."""
        return self.record.number + self.refused


class Worker:
    """Learns the jobs of all namespaces, one after the other."""

    def __init__(
        self,
        queue: JobQueue,
        ledger: Ledger,
        store: VersionStore,
        residency: Residency | None,
        canaries: Canaries,
        learner: Learner,
        turns: Turns,
        metrics: Metrics,
        settings: Settings,
        lease: Lease,
    ) -> None:
        """residency: of the engine in this process; None: whoever serves is elsewhere, and hears of versions from the ledger."""
        self._queue, self._ledger, self._store, self._residency = queue, ledger, store, residency
        self._canaries, self._learner, self._turns, self._metrics, self._settings = canaries, learner, turns, metrics, settings
        self._shadow = settings.publish == "shadow"
        self._lease = lease
        self._tried = -math.inf
        self._known: dict[str, int] = {}
        """Under which tokens the ledger was read."""
        self._heads: dict[str, _Head] = {}
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._saving: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Work until `stop`, on whatever no other worker writes."""
        async with self._lease.kept():
            while not self._stopping.is_set():
                try:
                    claim = await self._patiently(self._claim)
                    if claim is not None:
                        self._idle.clear()
                        await self._work(claim)
                        self._save(claim.job.namespace)
                except Fenced as error:  # neither acknowledged nor failed: it is for whoever holds the lease now
                    self._lease.drop(error.namespace)
                finally:
                    self._idle.set()

    async def _claim(self) -> Claim | None:
        tokens = await self._tokens()
        if not tokens:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), BETWEEN_TRIES_SECONDS)
            return None
        try:
            return await self._queue.claim(tokens, CONSUMER)
        except ResponseError:  # it may have come back without its data, and so without the consumer groups
            await self._queue.prepare(self._settings.namespaces)
            raise

    async def _tokens(self) -> dict[str, int]:
        """Of the namespaces that this worker may write; where that has changed, what others wrote is read first."""
        if time.monotonic() - self._tried >= BETWEEN_TRIES_SECONDS:
            await self._lease.take()
            self._tried = time.monotonic()
        tokens = self._lease.tokens
        if tokens != self._known:
            await self._ledger.load()
            self._heads = {n: head for n, head in self._heads.items() if tokens.get(n) == self._known.get(n)}
            self._known = tokens
        return tokens

    async def stop(self, drain_seconds: float) -> None:
        """Claim nothing more; wait for the running job, and for a snapshot that is being written."""
        self._stopping.set()
        try:
            async with asyncio.timeout(drain_seconds):
                await self._idle.wait()
                if self._saving is not None:
                    await self._saving
        except TimeoutError:
            log.warning("the running job did not end in time; it will be learned after the next start")

    async def _work(self, claim: Claim) -> None:
        """One claimed job. If it is not acknowledged, it is delivered again."""
        job = claim.job
        if job.attempts > self._settings.max_attempts:
            await self._bury(claim, f"gave up after {job.attempts - 1} attempts")
            return
        try:
            while not await self._learn(claim):
                log.info("the alias moved meanwhile: learning on top of what is served now", job_id=job.job_id)
        except (CorruptCheckpoint, Fenced):
            raise  # of ours, not of this document: nothing can be learned on top of it, or not by this worker
        except AdapterError as error:
            await self._bury(claim, str(error))
        except Exception as error:
            log.exception("learning failed", job_id=job.job_id, attempt=job.attempts)
            if job.attempts >= self._settings.max_attempts:
                await self._bury(claim, f"{type(error).__name__}: {error}")

    async def _bury(self, claim: Claim, reason: str) -> None:
        if await self._patiently(lambda: self._queue.bury(claim, reason)) == "failed":
            self._metrics.updates.labels("failed").inc()

    async def _learn(self, claim: Claim) -> bool:
        """Learn on top of what is served. Returns whether that was still served when the version was ready."""
        job = claim.job
        document = await self._patiently(lambda: self._ledger.document(job.namespace, job.document_id))
        head = await asyncio.to_thread(self._head, job.namespace)
        canaries = await self._patiently(lambda: self._canaries.counted(job.namespace))
        learned = await asyncio.to_thread(self._run_learner, document["text"], head, canaries)
        report = asdict(learned.report) | {"shadow": self._shadow}
        self._observe(learned)
        if learned.report.rejection is not None or not learned.delta.factors:
            head.refused += 1
            status = "succeeded" if learned.report.rejection is None else "rejected"
            await self._patiently(lambda: self._ledger.note_weights(claim, learned.weights, head.record.name))
            await self._patiently(lambda: self._queue.end(claim, status, version=head.record.name, report=json.dumps(report)))
            self._metrics.updates.labels("unchanged" if status == "succeeded" else "rejected").inc()
        else:
            try:
                await self._publish(claim, head, learned, report)
            except AliasMoved:
                return False
        await self._patiently(lambda: self._queue.acknowledge(claim))
        return True

    def _run_learner(self, text: str, head: _Head, canaries: Sequence[Canary]) -> Learned:
        asked = self._memories(canaries)
        with self._turns.learning():
            return self._learner.learn(text, head.total, head.memories, head.turn, asked)

    def _memories(self, canaries: Sequence[Canary]) -> list[Memory]:
        """Canaries as the learner asks them."""
        found: list[Memory] = []
        for canary in canaries:
            try:
                found.append(of_text(self._learner.workspace.base, canary.prompt, canary.answer))
            except InvalidCanary as error:  # it was added to another model
                log.warning("a canary cannot be asked of this model", canary=canary.id, error=str(error))
        return found

    async def _publish(self, claim: Claim, head: _Head, learned: Learned, report: dict[str, Any]) -> None:
        """Version to disk and into memory, then flip the alias: the first request after that runs on it."""
        job, started = claim.job, time.perf_counter()
        version = await asyncio.to_thread(self._checkpoint, job.document_id, head, learned)
        report["seconds"]["publish"] = time.perf_counter() - started
        record = await self._patiently(
            lambda: self._ledger.publish(claim, version, head.record, report, learned.weights, served=not self._shadow)
        )
        self._metrics.operation.labels("publish").observe(time.perf_counter() - started)
        self._metrics.updates.labels("succeeded").inc()
        assert learned.report.drift is not None
        self._metrics.drift.labels("held_out").set(learned.report.drift.kl)
        self._metrics.retention.set(learned.report.drift.retained)
        memories = [*head.memories, *learned.memories]
        self._heads[job.namespace] = _Head(record, learned.total, memories, head.behind + 1, head.refused)
        if self._shadow:
            return
        if self._residency is not None:
            self._metrics.learn_to_live.observe(time.time() - job.accepted_at)
            await asyncio.to_thread(self._residency.pin, job.namespace, record.digest)
        self._metrics.show_version(job.namespace, record.name)

    def _checkpoint(self, document_id: str, head: _Head, learned: Learned) -> Version:
        version = self._store.write(
            learned.delta,
            learned.memories,
            base=self._learner.workspace.base.digest,
            parent=head.record.digest,
            documents=[document_id],
            drift=learned.report.drift,
            created=time.time(),
        )
        if self._residency is not None and not self._shadow:
            self._residency.install(version.digest, learned.total.weights())
        return version

    def _head(self, namespace: str) -> _Head:
        """What the alias (or the shadow) points to now: from memory, or rebuilt from disk after a start or a rollback."""
        record = self._ledger.shadow(namespace) if self._shadow else self._ledger.resolve(namespace)
        head = self._heads.get(namespace)
        if head is None or head.record.name != record.name:
            workspace = self._learner.workspace
            total, memories = self._store.rebuild(record.digest, workspace.base.digest, workspace.base_weights)
            behind = self._store.behind(record.digest, workspace.base.digest)
            counted = self._store.counted(record.digest, workspace.base.digest)
            if counted is not None:
                with self._turns.learning():
                    self._learner.metric.resume(memories, counted)
            head = self._heads[namespace] = _Head(record, total, memories, behind)
        return head

    def _save(self, namespace: str) -> None:
        """Begin to write a snapshot, if one is due and no other is being written. Nothing waits for it."""
        head, every = self._heads.get(namespace), self._settings.snapshot_every
        if head is not None and 0 < every <= head.behind and (self._saving is None or self._saving.done()):
            self._saving = asyncio.create_task(self._write_snapshot(head))

    async def _write_snapshot(self, head: _Head) -> None:
        assert head.record.digest is not None, "the base model is behind nothing"
        pointed = (point(n) for n in self._settings.namespaces for point in (self._ledger.resolve, self._ledger.shadow))
        head.behind, lacked = 0, head.behind
        try:
            await asyncio.to_thread(
                self._store.write_snapshot,
                head.record.digest,
                self._learner.workspace.base.digest,
                head.total,
                head.memories,
                self._learner.metric.counted(head.memories),
                needed=[record.digest for record in pointed],
            )
        except (OSError, CorruptCheckpoint) as error:
            log.warning("no snapshot was written: the next start takes longer", versions=lacked, error=str(error))

    def _observe(self, learned: Learned) -> None:
        report = learned.report
        for operation, seconds in report.seconds.items():
            self._metrics.operation.labels(operation).observe(seconds)
        if report.tokens_read:
            self._metrics.tokens_kept.observe(report.tokens_kept / report.tokens_read)
        for fold in report.folds:
            if fold.predicted_change:
                remainder = abs(fold.actual_change - fold.predicted_change) / abs(fold.predicted_change)
                self._metrics.taylor_remainder.observe(remainder)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until Redis answers. What is called may run twice, and must bear it."""
        while True:
            try:
                answer = await call()
                self._metrics.redis_up.set(1)
                return answer
            except RedisError as error:
                self._metrics.redis_up.set(0)
                log.warning("redis does not answer, waiting", error=str(error))
                await asyncio.sleep(PATIENCE_SECONDS)
