"""The operator's canaries: questions whose answers must not change, by namespace. The keys are in `keys.py`.

A canary counts from the first time that the served model answers it as it should: what was never so cannot be lost. Those that
count are asked of every candidate version by the guard (`adapters/drift.py`), and of what is served by `canary_watch.py`.

Covered: adding, listing, removing, which of them count. Not covered: asking.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import structlog

from adapters.base_model import BaseModel
from adapters.errors import InvalidCanary
from adapters.memory import Memory, of_text
from service import keys
from service.connection import Client
from service.errors import TooManyCanaries

log = structlog.get_logger()

_ADD = """
local canaries, added = KEYS[1], cjson.decode(ARGV[1])
local new = 0
for id, text in pairs(added) do
  if redis.call('HEXISTS', canaries, id) == 0 then new = new + 1 end
end
if redis.call('HLEN', canaries) + new > tonumber(ARGV[2]) then return redis.call('HLEN', canaries) end
for id, text in pairs(added) do redis.call('HSET', canaries, id, text) end
return -1
"""

_COUNT = """
for i, id in ipairs(ARGV) do
  local text = redis.call('HGET', KEYS[1], id)
  if text then redis.call('HSET', KEYS[1], id, (string.gsub(text, '"counts": false', '"counts": true', 1))) end
end
"""


@dataclass(frozen=True)
class Canary:
    """One question, and how its answer must begin."""

    prompt: str
    answer: str
    counts: bool = False
    """Whether it has been answered so by what was served then."""

    @property
    def id(self) -> str:
        """The same for the same prompt: a second one replaces the first."""
        return hashlib.sha256(self.prompt.encode()).hexdigest()[:16]


class Canaries:
    """Those of all namespaces."""

    def __init__(self, redis: Client, most: int) -> None:
        """most: how many one namespace may have."""
        self._redis, self._most = redis, most
        self._add = redis.register_script(_ADD)
        self._count = redis.register_script(_COUNT)

    async def add(self, namespace: str, canaries: Sequence[Canary]) -> None:
        """Add or replace canaries, all or none. Raises TooManyCanaries."""
        listed = {canary.id: json.dumps(asdict(canary)) for canary in canaries}
        before = await self._add(keys=[keys.canaries(namespace)], args=[json.dumps(listed), self._most])
        if before >= 0:
            raise TooManyCanaries(
                f"namespace {namespace!r} has {before} canaries and may have {self._most}; every update asks all of them",
                param="canaries",
            )

    async def all(self, namespace: str) -> list[Canary]:
        """All of them, by their prompts."""
        found = await self._redis.hgetall(keys.canaries(namespace))
        return sorted((Canary(**json.loads(text)) for text in found.values()), key=lambda c: c.prompt)

    async def counted(self, namespace: str) -> list[Canary]:
        """Those that count."""
        return [canary for canary in await self.all(namespace) if canary.counts]

    async def let_count(self, namespace: str, canaries: Iterable[Canary]) -> None:
        """From now on these count."""
        if ids := [canary.id for canary in canaries if not canary.counts]:
            await self._count(keys=[keys.canaries(namespace)], args=ids)

    async def remove(self, namespace: str, canary_id: str | None) -> int:
        """Remove one, or all of them. Returns how many there were."""
        if canary_id is not None:
            return int(await self._redis.hdel(keys.canaries(namespace), canary_id))
        async with self._redis.pipeline(transaction=True) as pipe:
            count, _ = await pipe.hlen(keys.canaries(namespace)).delete(keys.canaries(namespace)).execute()
        return int(count)


def as_memories(base: BaseModel, canaries: Iterable[Canary]) -> list[Memory]:
    """Canaries as the learner asks them; those left out that this model cannot be asked."""
    found: list[Memory] = []
    for canary in canaries:
        try:
            found.append(of_text(base, canary.prompt, canary.answer))
        except InvalidCanary as error:  # it was added to another model
            log.warning("a canary cannot be asked of this model", canary=canary.id, error=str(error))
    return found
