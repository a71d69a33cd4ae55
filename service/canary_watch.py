"""Ask what is served the operator's canaries, whenever it changes; go back to what answered them if too many fall.

The guard has asked every candidate before it was published, at the learner's weights. This asks the live version, through the
engine, as a client would: what the guard let through in small steps, what was published under wider budgets or by hand.

Covered: asking, letting canaries count, rolling back. Not covered: their store (`canaries.py`), the guard (`adapters/drift.py`).
"""

import asyncio
from dataclasses import dataclass

import structlog
from redis.exceptions import RedisError

from adapters.errors import CorruptCheckpoint, InvalidCanary
from adapters.memory import of_text
from service.answers import begin
from service.api_keys import ITSELF
from service.canaries import Canary
from service.connection import PATIENCE_SECONDS
from service.errors import AliasMoved, ServiceError
from service.generation import Wanted
from service.runtime import Runtime
from service.version_record import VersionRecord

AT_ONCE = 4
"""Canaries asked together: clients go first."""
log = structlog.get_logger()


@dataclass(frozen=True)
class Asked:
    """A canary, and what became of it."""

    canary: Canary
    held: bool


class CanaryWatch:
    """Looks after the live versions of one server."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._looking = asyncio.Lock()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._seen: dict[str, str] = {}
        """Namespace -> the version that was looked at last."""
        self._hopeless: dict[str, list[Canary]] = {}
        """Namespace -> canaries that no earlier version answers, so that it is not searched again for them."""

    async def run(self) -> None:
        """Until cancelled."""
        ledger = self._runtime.ledger
        while True:
            changed = [n for n in self._runtime.settings.namespaces if self._seen.get(n) != ledger.resolve(n).name]
            if not changed:
                await ledger.moved()
            for namespace in changed:
                try:
                    await self.look(namespace)
                except (RedisError, ServiceError) as error:  # busy, not ready yet, or Redis is away
                    log.info("the canaries are asked later", namespace=namespace, reason=str(error))
                    await asyncio.sleep(PATIENCE_SECONDS)
                except Exception:
                    log.exception("the canaries could not be asked; it will be tried again", namespace=namespace)
                    await asyncio.sleep(PATIENCE_SECONDS)

    async def look(self, namespace: str) -> list[Asked]:
        """Ask the live version all canaries; go back if too many have fallen. Returns what the live version answered then."""
        async with self._looking:
            record = self._runtime.ledger.resolve(namespace)
            canaries = await self._runtime.canaries.all(namespace)
            asked = await self._ask(namespace, record, canaries)
            await self._runtime.canaries.let_count(namespace, [a.canary for a in asked if a.held])
            share = _share(asked)
            self._runtime.metrics.canary_accuracy.labels(namespace).set(share)
            self._seen[namespace] = record.name
            if share < self._runtime.settings.canary_floor:
                await self._go_back(namespace, record, asked)
            return asked

    async def _go_back(self, namespace: str, live: VersionRecord, asked: list[Asked]) -> None:
        """Move the alias to the nearest ancestor that answers enough of the canaries."""
        canaries = [a.canary for a in asked if a.canary.counts]
        if self._hopeless.get(namespace) == canaries:
            return
        record = live
        known = {record.name: record for record in self._runtime.ledger.versions(namespace)}
        while record.parent in known:
            record = known[record.parent]
            share = _share(await self._ask(namespace, record, canaries))
            if share >= self._runtime.settings.canary_floor:
                break
        else:
            self._hopeless[namespace] = canaries
            log.error("live canaries fell, and no earlier version answers them", namespace=namespace, version=live.name)
            return
        try:
            await self._runtime.roll_back(namespace, record.name, live.name, reason="canaries")
        except AliasMoved:
            return  # to be looked at next
        await self._runtime.audit.write(ITSELF, "rollback", namespace, [record.name])
        self._seen[namespace] = record.name
        self._runtime.metrics.canary_accuracy.labels(namespace).set(share)
        log.warning(
            "live canaries fell below the floor: rolled back",
            namespace=namespace,
            version=live.name,
            to=record.name,
            share=_share(asked),
            floor=self._runtime.settings.canary_floor,
        )

    async def _ask(self, namespace: str, record: VersionRecord, canaries: list[Canary]) -> list[Asked]:
        held = await asyncio.gather(*(self._holds(namespace, record, canary) for canary in canaries))
        return [Asked(canary, answered) for canary, answered in zip(canaries, held, strict=True) if answered is not None]

    async def _holds(self, namespace: str, record: VersionRecord, canary: Canary) -> bool | None:
        """Whether greedy decoding at this version begins with the canary's answer; None: this model cannot be asked that."""
        async with self._slots:
            try:
                memory = await asyncio.to_thread(of_text, self._runtime.base, canary.prompt, canary.answer)
            except InvalidCanary as error:  # it was added to another model
                log.warning("a canary cannot be asked of this model", canary=canary.id, error=str(error))
                return None
            room = self._runtime.base.context - len(memory.prompt)
            length = min(len(memory.answer) + 2, room)  # some more, for the same text may be other tokens
            try:
                answer = await begin(self._runtime, record, Wanted(namespace, memory.prompt, length))
            except CorruptCheckpoint:
                return False  # it cannot be served, and so is no way back
            text = "".join([piece.text async for piece in answer.pieces()])
            return text.strip().startswith(canary.answer.strip())


def _share(asked: list[Asked]) -> float:
    """Of the canaries that count, those that hold."""
    counted = [a.held for a in asked if a.canary.counts]
    return sum(counted) / len(counted) if counted else 1.0
