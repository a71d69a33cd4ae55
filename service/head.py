"""Heads: what the next document of each namespace is learned on top of, kept summed up; and snapshots of them.

Covered: rebuilding after a start or a rollback, when a snapshot is due. Not covered: how versions come about (`worker.py`,
`forgetting.py`), what a snapshot is (`adapters/snapshots.py`).
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from adapters.checkpoint import VersionStore
from adapters.delta import DeltaSum
from adapters.drift import RAW_TURNS
from adapters.errors import CorruptCheckpoint
from adapters.learner import Learner
from adapters.memory import Memory
from service.ledger import Ledger
from service.version_record import VersionRecord

log = structlog.get_logger()


@dataclass
class Head:
    """A version, summed up."""

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
        return self.record.number + RAW_TURNS * self.refused  # as many as share their probes


class Heads:
    """Those of all namespaces of one worker."""

    def __init__(self, ledger: Ledger, store: VersionStore, learner: Learner, every: int) -> None:
        """every: how many versions a snapshot may lack; 0: none is written."""
        self._ledger, self._store, self._every = ledger, store, every
        self._workspace, self._metric = learner.workspace, learner.metric
        self._heads: dict[str, Head] = {}
        self._saving: asyncio.Task[None] | None = None

    def of(self, namespace: str, record: VersionRecord) -> Head:
        """The head at `record`: from memory, or rebuilt from disk."""
        head = self._heads.get(namespace)
        if head is None or head.record.name != record.name:
            base = self._workspace.base.digest
            total, memories = self._store.rebuild(record.digest, base, self._workspace.base_weights)
            counted = self._store.counted(record.digest, base)
            if counted is not None:
                self._metric.resume(memories, counted)
            head = self._heads[namespace] = Head(record, total, memories, self._store.behind(record.digest, base))
        return head

    def put(self, namespace: str, head: Head) -> None:
        """From now on this is it."""
        self._heads[namespace] = head

    def keep(self, tokens: Mapping[str, int], before: Mapping[str, int]) -> None:
        """Forget those of namespaces that another worker may have written meanwhile: whose token is another."""
        self._heads = {n: head for n, head in self._heads.items() if tokens.get(n) == before.get(n)}

    def save(self, namespace: str) -> None:
        """Begin to write a snapshot, if one is due and no other is being written. Nothing waits for it."""
        head = self._heads.get(namespace)
        if head is not None and 0 < self._every <= head.behind and (self._saving is None or self._saving.done()):
            self._saving = asyncio.create_task(self.write_snapshot(head))

    async def saved(self) -> None:
        """Wait for a snapshot that is being written."""
        if self._saving is not None:
            await self._saving

    async def write_snapshot(self, head: Head) -> None:
        """Write one now."""
        assert head.record.digest is not None, "the base model is behind nothing"
        served = self._served()
        head.behind, lacked = 0, head.behind
        of, counted = (head.record.digest, self._workspace.base.digest), self._metric.counted(head.memories)
        try:
            await asyncio.to_thread(self._store.write_snapshot, *of, head.total, head.memories, counted, served)
        except (OSError, CorruptCheckpoint) as error:
            log.warning("no snapshot was written: the next start takes longer", versions=lacked, error=str(error))

    def _served(self) -> Sequence[str | None]:
        return [self._ledger.resolve(namespace).digest for namespace in self._ledger.namespaces]
