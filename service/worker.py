"""Claim -> learn -> checkpoint -> publish -> acknowledge.

A job is acknowledged only after its version is on disk and published, so a crash anywhere before that means learning it
again, and a crash after it means finding it ended (`keys.py`). Redis being away and a full disk are waited out; they never count as
attempts.
Every so many versions a snapshot of the chain is written beside the next document's learning; a crash there costs only time.

Of several workers on one namespace one learns, and the others wait for its lease (`lease.py`). A worker that finds itself outdated
drops what it has begun: whoever holds the lease now learns it.

Covered: one learning thread over all namespaces, redelivery, rejection, giving up, draining, waiting for a lease.
Not covered: sharing one namespace's documents among workers; each version is learned on top of the one before.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import structlog
from redis.exceptions import RedisError, ResponseError

from adapters.checkpoint import Version
from adapters.errors import AdapterError, CorruptCheckpoint
from adapters.learn_report import Learned
from adapters.learner import Learner
from service.canaries import Canary, as_memories
from service.connection import PATIENCE_SECONDS
from service.errors import AliasMoved, Fenced, QueueFull
from service.head import Head, Heads
from service.job import Claim, Job
from service.lease import Lease
from service.metrics import Metrics
from service.residency import Residency
from service.settings import Settings
from service.state import State
from service.traces import Traces
from service.turns import Turns
from service.upkeep import Upkeep

CONSUMER = "learner"
"""One name across restarts and machines, so that a worker finds what the one before it held."""
BETWEEN_TRIES_SECONDS = 1.0
"""To take the leases of others."""

DISK_PATIENCE_SECONDS = 5.0
"""Between tries to write a version where there is no room for one."""

COLLECT_EVERY = 16
"""Versions between two times that those are dropped which need not be kept."""

T = TypeVar("T")
log = structlog.get_logger()


class Worker:
    """Learns the jobs of all namespaces, one after the other."""

    def __init__(
        self,
        state: State,
        lease: Lease,
        residency: Residency | None,
        learner: Learner,
        turns: Turns,
        metrics: Metrics,
        settings: Settings,
        traces: Traces | None = None,
    ) -> None:
        """residency: of the engine in this process; None: whoever serves is elsewhere, and hears of versions from the ledger."""
        self._queue, self._ledger, self._documents, self._store = state.queue, state.ledger, state.documents, state.store
        self._orders, self._canaries, self._lease, self._residency = state.orders, state.canaries, lease, residency
        self._learner, self._turns, self._metrics, self._settings = learner, turns, metrics, settings
        self._traces = traces or Traces()
        self._shadow = settings.publish == "shadow"
        self._tried = -math.inf
        self._known: dict[str, int] = {}
        """Under which tokens the ledger was read."""
        self._heads = Heads(state.ledger, state.store, learner, settings.snapshot_every)
        self._upkeep = Upkeep(state, learner, self._heads, residency, turns, metrics, self._patiently, self._shadow)
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self) -> None:
        """Work until `stop`, on whatever no other worker writes."""
        async with self._lease.kept():
            while not self._stopping.is_set():
                self._idle.clear()  # before anything is claimed: `stop` waits for what was
                try:
                    claim = await self._claim()
                    self._metrics.redis_up.set(1)
                    if claim is not None:
                        with self._traces.job(claim.job):
                            await self._work(claim)
                        self._heads.save(claim.job.namespace)
                except Fenced as error:  # neither acknowledged nor failed: it is for whoever holds the lease now
                    self._lease.drop(error.namespace)
                except RedisError as error:
                    self._idle.set()  # nothing runs, so nobody need wait for it
                    await self._wait_for_redis(error)
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
            for namespace in tokens:
                try:
                    await self._upkeep.sweep(namespace)
                except OSError as error:
                    log.error("what was forgotten could not be removed from disk yet", namespace=namespace, error=str(error))
            self._heads.keep(tokens, self._known)
            self._known = tokens
        return tokens

    async def stop(self, drain_seconds: float) -> None:
        """Claim nothing more; wait for the running job, and for a snapshot that is being written."""
        self._stopping.set()
        try:
            async with asyncio.timeout(drain_seconds):
                await self._idle.wait()
                await self._heads.saved()
        except TimeoutError:
            log.warning("the running job did not end in time; it will be learned after the next start")

    async def _work(self, claim: Claim) -> None:
        """One claimed job. If it is not acknowledged, it is delivered again."""
        job = claim.job
        if job.kind == "learn" and job.attempts > self._settings.max_attempts:
            await self._bury(claim, f"gave up after {job.attempts - 1} attempts")
            return
        try:
            do = {"learn": self._learn, "forget": self._upkeep.forget, "collect": self._upkeep.collect}[job.kind]
            while True:
                try:
                    if await do(claim):
                        return
                    log.info("the alias moved meanwhile: beginning again on top of what is served now", job_id=job.job_id)
                except OSError as error:  # of the disk, not of this document: nothing is lost while it waits
                    log.error("the data directory cannot be written, waiting", job_id=job.job_id, error=str(error))
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._stopping.wait(), DISK_PATIENCE_SECONDS)
                        return
        except (CorruptCheckpoint, Fenced):
            raise  # of ours, not of this document: nothing can be learned on top of it, or not by this worker
        except AdapterError as error:
            await self._bury(claim, str(error))
        except Exception as error:
            log.exception("learning failed", job_id=job.job_id, attempt=job.attempts)
            if job.attempts >= self._settings.max_attempts:
                await self._bury(claim, f"{type(error).__name__}: {error}")

    async def _bury(self, claim: Claim, reason: str) -> None:
        self._traces.mark(status="failed")
        if await self._patiently(lambda: self._queue.bury(claim, reason)) == "failed":
            self._metrics.updates.labels(claim.job.namespace, "failed").inc()

    async def _learn(self, claim: Claim) -> bool:
        """Learn on top of what is served. Returns whether that was still served when the version was ready."""
        job = claim.job
        document = await self._patiently(lambda: self._documents.read(job.namespace, job.document_id))
        head = await asyncio.to_thread(self._head, job.namespace)
        canaries = await self._patiently(lambda: self._canaries.counted(job.namespace))
        with self._traces.stages() as begin:
            note = self._noting(job, begin)
            learned = await asyncio.to_thread(self._run_learner, document["text"], head, canaries, note)
        report = asdict(learned.report) | {"shadow": self._shadow}
        self._observe(learned)
        try:
            if learned.report.rejection is not None or not learned.delta.factors:
                await self._change_nothing(claim, head, learned, report)
            else:
                with self._traces.span("publish"):
                    await self._publish(claim, head, learned, report)
                await self._order_collection(job.namespace)
        except AliasMoved:
            return False
        await self._patiently(lambda: self._queue.acknowledge(claim))
        return True

    async def _change_nothing(self, claim: Claim, head: Head, learned: Learned, report: dict[str, Any]) -> None:
        """End the job; the document is tried again should the version go that it was read on."""
        job, status = claim.job, "succeeded" if learned.report.rejection is None else "rejected"
        self._traces.mark(status=status, version=head.record.name if status == "succeeded" else "")
        note = (claim, status, head.record, report, learned.weights, not self._shadow)
        try:
            await self._patiently(lambda: self._documents.came_to_nothing(*note))
        except AliasMoved:
            await self._patiently(self._ledger.load)
            raise
        head.refused += 1
        self._metrics.updates.labels(job.namespace, "unchanged" if status == "succeeded" else "rejected").inc()

    async def _order_collection(self, namespace: str) -> None:
        """Every so many versions, if there are more than are to be kept."""
        keep, records = self._settings.keep_versions, self._ledger.versions(namespace)
        if keep is not None and records[-1].number % COLLECT_EVERY == 0 and len(records) > keep + 1:
            with contextlib.suppress(QueueFull):  # there will be a next time
                await self._patiently(lambda: self._orders.collect(namespace, keep))

    def _noting(self, job: Job, begin: Callable[[str], None]) -> Callable[[str], None]:
        """What tells a job's trace and its followers, from another thread, of each stage that begins; nobody waits for it."""
        loop = asyncio.get_running_loop()

        def note(stage: str) -> None:
            begin(stage)
            if not loop.is_closed():
                asyncio.run_coroutine_threadsafe(self._queue.note(job, stage), loop)

        return note

    def _run_learner(self, text: str, head: Head, canaries: Sequence[Canary], note: Callable[[str], None]) -> Learned:
        asked = as_memories(self._learner.workspace.base, canaries)
        with self._turns.learning():
            return self._learner.learn(text, head.total, head.memories, head.turn, asked, note)

    async def _publish(self, claim: Claim, head: Head, learned: Learned, report: dict[str, Any]) -> None:
        """Version to disk and into memory, then flip the alias: the first request after that runs on it."""
        job, started = claim.job, time.perf_counter()
        version = await asyncio.to_thread(self._checkpoint, job, head, learned)
        report["seconds"]["publish"] = time.perf_counter() - started
        with self._traces.span("flip"):
            record = await self._patiently(
                lambda: self._ledger.publish(claim, version, head.record, report, learned.weights, served=not self._shadow)
            )
        self._traces.mark(version=record.name)
        self._metrics.operation.labels("publish").observe(time.perf_counter() - started)
        self._metrics.updates.labels(job.namespace, "succeeded").inc()
        memories = [*head.memories, *learned.memories]
        self._heads.put(job.namespace, Head(record, learned.total, memories, head.behind + 1, head.refused))
        if self._shadow:
            self._metrics.show_probes(job.namespace, record.measured)
            return
        if self._residency is not None:
            self._traces.live(job, record.name)
            self._metrics.learn_to_live.labels(job.namespace).observe(time.time() - job.accepted_at)
            await asyncio.to_thread(self._residency.pin, job.namespace, record.digest)
        self._metrics.show_version(job.namespace, record.name, record.measured)

    def _checkpoint(self, job: Job, head: Head, learned: Learned) -> Version:
        version = self._store.write(
            learned.delta,
            learned.memories,
            base=self._learner.workspace.base.digest,
            parent=head.record.digest,
            documents=[job.document_id],
            drift=learned.report.drift,
            created=time.time(),
            namespace=job.namespace,
        )
        if self._residency is not None and not self._shadow:
            self._residency.install(version.digest, learned.total.weights())
        return version

    def _head(self, namespace: str) -> Head:
        """What the alias (or the shadow) points to now."""
        record = self._ledger.shadow(namespace) if self._shadow else self._ledger.resolve(namespace)
        return self._heads.of(namespace, record)

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
                await self._wait_for_redis(error)

    async def _wait_for_redis(self, error: RedisError) -> None:
        self._metrics.redis_up.set(0)
        log.warning("redis does not answer, waiting", error=str(error))
        await asyncio.sleep(PATIENCE_SECONDS)
