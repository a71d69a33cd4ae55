"""What lasts: jobs, versions, documents and canaries in Redis, and the directory of versions.

Covered: opening all of it. Not covered: what lives only as long as a process (`runtime.py`, `detached.py`).
"""

from dataclasses import dataclass

from adapters.checkpoint import VersionStore
from service.canaries import Canaries
from service.connection import Client
from service.documents import Documents
from service.ledger import Ledger
from service.orders import Orders
from service.queue import JobQueue
from service.settings import Settings


@dataclass(frozen=True)
class State:
    """Of all namespaces that one process serves or learns for."""

    redis: Client
    queue: JobQueue
    orders: Orders
    ledger: Ledger
    documents: Documents
    canaries: Canaries
    store: VersionStore

    @staticmethod
    def open(redis: Client, settings: Settings, writer: str) -> "State":
        """writer: as of `VersionStore`. Nothing is read yet."""
        queue = JobQueue(redis, settings.max_queue)
        return State(
            redis,
            queue,
            Orders(redis, queue, settings.max_queue),
            Ledger(redis, settings.namespaces),
            Documents(redis),
            Canaries(redis, settings.max_canaries),
            VersionStore(settings.data_dir / "versions", writer),
        )
