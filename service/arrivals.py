"""What a worker in another process publishes, and how this server comes to answer from it.

A version is made resident first, and only then does the alias in this process move, so that no request waits for weights. The sum
of what each namespace serves is kept, so that a version which was learned on top of it costs one delta, however long its chain.

Covered: versions and rollbacks of others. Not covered: what this process learns itself (`worker.py`).
"""

import asyncio
import time
from collections.abc import Mapping

import structlog
from redis.exceptions import RedisError
from torch import Tensor

from adapters.checkpoint import VersionStore
from adapters.delta import DeltaSum
from adapters.errors import CorruptCheckpoint
from service.connection import PATIENCE_SECONDS
from service.ledger import Ledger
from service.metrics import Metrics
from service.queue import JobQueue
from service.residency import Residency
from service.traces import Traces
from service.version_record import VersionRecord

ATTEMPTS = 4
"""To read a version."""
log = structlog.get_logger()


class Arrivals:
    """Follows the ledger on behalf of one server."""

    def __init__(
        self,
        ledger: Ledger,
        queue: JobQueue,
        store: VersionStore,
        residency: Residency,
        metrics: Metrics,
        base: str,
        base_weights: Mapping[str, Tensor],
        traces: Traces | None = None,
    ) -> None:
        """base: digest of the base model."""
        self._ledger, self._queue, self._store, self._residency, self._metrics = ledger, queue, store, residency, metrics
        self._base, self._base_weights, self._traces = base, base_weights, traces or Traces()
        self._served: dict[str, tuple[str, DeltaSum]] = {}

    async def run(self) -> None:
        """Until cancelled. Redis being away is waited out."""
        while True:
            try:
                await self._ledger.follow(self._arrive)
            except RedisError as error:
                self._metrics.redis_up.set(0)
                log.warning("redis does not answer, waiting", error=str(error))
                await asyncio.sleep(PATIENCE_SECONDS)

    async def _arrive(self, namespace: str, record: VersionRecord) -> bool:
        """Whether the version can be served."""
        heard = time.time()
        for _ in range(ATTEMPTS):
            try:
                await asyncio.to_thread(self._make_resident, namespace, record)
                break
            except CorruptCheckpoint as error:  # or the directory is shared, and slow
                log.warning("a version that was published cannot be read", version=record.name, error=str(error))
                await asyncio.sleep(PATIENCE_SECONDS)
        else:
            log.error("it is not served; what was served before is", namespace=namespace, version=record.name)
            return False
        self._metrics.show_version(namespace, record.name, record.measured)
        if record.job_id is not None and record.number > self._ledger.highest(namespace):
            job = await self._queue.read(record.job_id)
            self._metrics.learn_to_live.labels(namespace).observe(time.time() - job.accepted_at)
            self._traces.arrived(job, record.name, heard)
        return True

    def _make_resident(self, namespace: str, record: VersionRecord) -> None:
        key = self._residency.lease(record.digest)
        if key is None:
            assert record.digest is not None
            self._residency.install(record.digest, self._total(namespace, record.digest).weights())
        self._residency.pin(namespace, record.digest)
        if key is not None:
            self._residency.release(key)

    def _total(self, namespace: str, digest: str) -> DeltaSum:
        """The summed weights of a version: what is served and one delta, or the whole chain."""
        served, total = self._served.get(namespace, ("", None))
        if total is not None and self._store.read(digest).parent == served:
            total = total.copy()
            total.add(self._store.load(digest, self._base)[0])
        else:
            total, _ = self._store.rebuild(digest, self._base, self._base_weights)
        self._served[namespace] = digest, total
        return total
