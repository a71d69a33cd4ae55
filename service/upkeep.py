"""What a worker does beside learning: take documents back, drop old versions.

Covered: the life of such a job, in an order that bears a crash anywhere (`keys.py`). Not covered: what must go (`forgetting.py`,
`retention.py`), the script that changes the ledger (`withdrawal.py`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from adapters.learner import Learner
from service.canaries import as_memories
from service.documents import Mark
from service.errors import AliasMoved
from service.forgetting import Forgetting, Without
from service.head import Heads
from service.job import Claim
from service.metrics import Metrics
from service.provenance import Provenance, trace
from service.residency import Residency
from service.retention import surplus
from service.state import State
from service.turns import Turns
from service.version_record import VersionRecord
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
            marks = await self._marked(job.namespace, found.kept)
            kept = [(record.name, record.digest) for record in found.kept]
            others = await asyncio.to_thread(trace, self._store, self._base.digest, marks, kept)
            report = {"versions": len(found.names), "removed": len(found.digests), "bytes": found.bytes, **others.report}
            wanted = Changes(live, None, None, found.names, found.digests, others)
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
        marks = await self._marked(job.namespace, cut.kept)
        loop = asyncio.get_running_loop()

        def note(stage: str) -> None:
            asyncio.run_coroutine_threadsafe(self._queue.note(job, stage), loop)

        def leave_out() -> tuple[Without, Provenance]:
            head, asked = self._heads.of(job.namespace, live), as_memories(self._base, canaries)
            with self._turns.learning():
                made = self._forgetting.leave_out(job, head, cut, texts, asked, note)
            return made, self._forgetting.others(job, cut, made, marks)

        made, others = await asyncio.to_thread(leave_out)
        if self._shadow:  # nobody has gone back from it
            others = others.with_lost_again()
        if made.version is not None and self._residency is not None:
            self._residency.install(made.version.digest, made.head.total.weights())
        names = [record.name for record in cut.withdrawn]
        shadow = self._forgetting.shadow(job.namespace, cut, live)
        wanted = Changes(live, made.version, cut.parent, names, made.doomed, others, shadow)
        made.head.record = record = await self._patiently(lambda: self._withdraw(claim, wanted, made.report | others.report))
        self._heads.put(job.namespace, made.head)
        if self._residency is not None:
            await asyncio.to_thread(self._residency.pin, job.namespace, record.digest)
        self._metrics.show_version(job.namespace, record.name, record.measured)
        if made.version is not None:
            await self._heads.write_snapshot(made.head)

    async def _marked(self, namespace: str, kept: Sequence[VersionRecord]) -> list[Mark]:
        """Documents that name another version."""
        names = {record.name for record in kept}
        return await self._patiently(lambda: self._documents.marked(namespace, names))
