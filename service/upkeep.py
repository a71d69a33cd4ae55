"""What a worker does beside learning: take documents back, drop old versions.

Covered: the life of such a job, in an order that bears a crash anywhere (`keys.py`). Not covered: what must go (`forgetting.py`,
`retention.py`), the script that changes the ledger (`withdrawal.py`).
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from adapters.learner import Learner
from service.canaries import as_memories
from service.errors import AliasMoved, QueueFull, UnknownDocument
from service.forgetting import Forgetting, Without
from service.head import Heads
from service.job import Claim, NewDocument
from service.metrics import Metrics
from service.residency import Residency
from service.retention import surplus
from service.state import State
from service.turns import Turns
from service.withdrawal import Changes, Withdrawal

T = TypeVar("T")


class Patiently(Protocol):
    """Calls until Redis answers."""

    def __call__(self, call: Callable[[], Awaitable[T]], /) -> Awaitable[T]:
        """What `call` gives."""


class Upkeep:
    """Of all namespaces of one worker."""

    def __init__(
        self,
        state: State,
        learner: Learner,
        heads: Heads,
        residency: Residency | None,
        turns: Turns,
        metrics: Metrics,
        patiently: Patiently,
        shadow: bool,
    ) -> None:
        """residency: as of the worker. shadow: whether what is learned is not served."""
        self._queue, self._ledger, self._documents, self._store = state.queue, state.ledger, state.documents, state.store
        self._canaries, self._base, self._heads, self._residency = state.canaries, learner.workspace.base, heads, residency
        self._turns, self._metrics, self._patiently, self._shadow = turns, metrics, patiently, shadow
        self._forgetting, self._withdraw = Forgetting(state, learner), Withdrawal(state.redis, state.ledger)

    async def sweep(self, namespace: str) -> None:
        """Remove what is doomed, if a crash left any. Raises RedisError, OSError."""
        await self._forgetting.sweep(namespace)

    async def forget(self, claim: Claim) -> bool:
        """Take a document back. Returns whether what was served then was still served when the version without it was ready."""
        job, started = claim.job, time.perf_counter()
        if job.version is None:  # else a crash came between that and the end
            try:
                await self._withdraw_versions(claim)
            except AliasMoved:
                return False
        await self._finish(claim)
        self._metrics.updates.labels(job.namespace, "forgotten").inc()
        self._metrics.operation.labels("forget").observe(time.perf_counter() - started)
        return True

    async def collect(self, claim: Claim) -> bool:
        """Drop versions that need not be kept. Returns whether what was served then still was when they were dropped."""
        job = claim.job
        if job.version is None:
            live = self._ledger.resolve(job.namespace)
            found = await asyncio.to_thread(surplus, self._ledger, self._store, job.namespace, job.keep)
            report = {"versions": len(found.names), "removed": len(found.digests), "bytes": found.bytes, "lost": list(found.lost)}
            wanted = Changes(live, None, None, found.names, found.digests, found.moved, found.lost)
            try:
                await self._patiently(lambda: self._withdraw(claim, wanted, report))
            except AliasMoved:
                return False
        await self._finish(claim)
        return True

    async def _finish(self, claim: Claim) -> None:
        """Remove what is doomed, and only then end the job."""
        await self._heads.saved()  # else a snapshot might come back
        await self._patiently(lambda: self._forgetting.sweep(claim.job.namespace))
        await self._patiently(lambda: self._queue.end(claim, "succeeded"))
        await self._patiently(lambda: self._queue.acknowledge(claim))

    async def _withdraw_versions(self, claim: Claim) -> None:
        """Answer from a version without the document, and from none with it."""
        job, live = claim.job, self._ledger.resolve(claim.job.namespace)
        cut = await asyncio.to_thread(self._forgetting.cut, job.namespace, job.document_id, live)
        texts = await self._patiently(lambda: self._forgetting.texts(job.namespace, cut)) if job.exact else {}
        canaries = await self._patiently(lambda: self._canaries.counted(job.namespace))
        loop = asyncio.get_running_loop()

        def note(stage: str) -> None:
            asyncio.run_coroutine_threadsafe(self._queue.note(job, stage), loop)

        def leave_out() -> Without:
            head, asked = self._heads.of(job.namespace, live), as_memories(self._base, canaries)
            with self._turns.learning():
                return self._forgetting.leave_out(job, head, cut, texts, asked, note)

        made = await asyncio.to_thread(leave_out)
        if made.version is not None and self._residency is not None:
            self._residency.install(made.version.digest, made.head.total.weights())
        names = [record.name for record in cut.withdrawn]
        wanted = Changes(live, made.version, cut.parent, names, made.doomed, cut.moved, cut.lost)
        made.head.record = record = await self._patiently(lambda: self._withdraw(claim, wanted, made.report))
        self._heads.put(job.namespace, made.head)
        if self._residency is not None:
            await asyncio.to_thread(self._residency.pin, job.namespace, record.digest)
        self._metrics.show_version(job.namespace, record.name, record.measured)
        if made.version is not None:
            await self._heads.write_snapshot(made.head)
        if self._shadow:
            await self._patiently(lambda: self._learn_again(job.namespace, cut.lost))

    async def _learn_again(self, namespace: str, document_ids: Sequence[str]) -> None:
        """Queue documents that were in the shadow alone, and went with it."""
        for document_id in document_ids:
            with contextlib.suppress(UnknownDocument, QueueFull):  # the report names them
                found = await self._documents.read(namespace, document_id)
                sha256 = hashlib.sha256(found["text"].encode()).hexdigest()
                await self._queue.accept(namespace, [NewDocument(document_id, found["text"], sha256, found["metadata"])])
