"""Who may write a namespace: one worker at a time, by a lease that runs out, and a token that outdates the one before.

A lease alone does not keep a worker away that was stopped, lost its lease meanwhile and goes on where it was. So each holder gets
a higher token (a *fencing token*), and every script that writes on a worker's behalf does nothing unless its token is the newest.

Covered: take, renew, give back, refuse. Not covered: what is written (`queue.py`, `ledger.py`), who waits for what (`worker.py`).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
from redis.exceptions import RedisError

from service import keys
from service.connection import Client
from service.errors import Fenced
from service.metrics import Metrics

_GIVE_BACK_SECONDS = 2.0
"""Longer than that an end does not wait for Redis: what is not given back runs out."""
_REFUSED = "fenced"

log = structlog.get_logger()

_TAKE = """
local writer, milliseconds, tokens = ARGV[1], ARGV[2], {}
for n = 1, #KEYS / 2 do
  local lease, fence = KEYS[2 * n - 1], KEYS[2 * n]
  local holder = redis.call('GET', lease)
  if not holder or (holder == writer and ARGV[n + 2] == 'again') then
    redis.call('SET', lease, writer, 'PX', milliseconds)
    tokens[n] = redis.call('INCR', fence)
  else
    tokens[n] = 0
  end
end
return tokens
"""

_RENEW = """
local writer, milliseconds, kept = ARGV[1], ARGV[2], {}
for n = 1, #KEYS / 2 do
  local lease, fence = KEYS[2 * n - 1], KEYS[2 * n]
  kept[n] = 0
  if redis.call('GET', fence) == ARGV[n + 2] then  -- nobody has held it since, so it is ours, or ran out unseen
    redis.call('SET', lease, writer, 'PX', milliseconds)
    kept[n] = 1
  end
end
return kept
"""

_GIVE_BACK = """
for n = 1, #KEYS / 2 do
  if redis.call('GET', KEYS[2 * n]) == ARGV[n] then redis.call('DEL', KEYS[2 * n - 1]) end
end
"""


class Lease:
    """The namespaces that one worker may write, of those that it learns for."""

    def __init__(self, redis: Client, namespaces: Sequence[str], writer: str, seconds: float, metrics: Metrics) -> None:
        """writer: a name that no other process has at the same time, and that the next one of this data directory has again."""
        self._namespaces, self._writer, self._seconds, self._metrics = namespaces, writer, seconds, metrics
        self._tokens: dict[str, int] = {}
        self._held_before: set[str] = set()
        self._take = redis.register_script(_TAKE)
        self._renew = redis.register_script(_RENEW)
        self._give_back = redis.register_script(_GIVE_BACK)
        for namespace in namespaces:
            metrics.writer.labels(namespace).set(0)

    @property
    def tokens(self) -> dict[str, int]:
        """The token of each namespace that is held, as far as this process knows."""
        return dict(self._tokens)

    async def take(self) -> None:
        """Take what nobody holds, and what the last process of this name held.

        The latter at first only: who holds it under this name later is another machine with a copy of the data directory.
        """
        wanted = [n for n in self._namespaces if n not in self._tokens]
        if wanted:
            again = ["" if n in self._held_before else "again" for n in wanted]
            found = await self._take(keys=_pairs(wanted), args=[self._writer, self._milliseconds, *again])
            for namespace, token in zip(wanted, found, strict=True):
                if token:
                    self._tokens[namespace] = token
                    self._held_before.add(namespace)
                    self._metrics.writer.labels(namespace).set(1)

    async def renew(self) -> None:
        """Hold for longer what is held, and learn of what is not any more."""
        held = self.tokens
        if held:
            kept = await self._renew(keys=_pairs(list(held)), args=[self._writer, self._milliseconds, *held.values()])
            for (namespace, token), still in zip(held.items(), kept, strict=True):
                if not still and self._tokens.get(namespace) == token:
                    self.drop(namespace)

    def drop(self, namespace: str) -> None:
        """Know that another worker has taken it."""
        if self._tokens.pop(namespace, None) is not None:
            self._metrics.writer.labels(namespace).set(0)
            log.warning("another worker writes the namespace now", namespace=namespace)

    async def give_back(self) -> None:
        """Let the next worker start at once."""
        held, self._tokens = self._tokens, {}
        for namespace in held:
            self._metrics.writer.labels(namespace).set(0)
        if held:
            await self._give_back(keys=_pairs(list(held)), args=list(held.values()))

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Meanwhile what is held is renewed, and given back in the end. Redis being away is nothing: leases run out."""
        ended = asyncio.Event()
        renewing = asyncio.create_task(self._renew_until(ended))
        try:
            yield
        finally:
            ended.set()
            with contextlib.suppress(RedisError, TimeoutError):
                async with asyncio.timeout(_GIVE_BACK_SECONDS):
                    await renewing  # first: a renewal after it would take the lease again
                    await self.give_back()

    async def _renew_until(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            with contextlib.suppress(RedisError):  # the worker says so
                await self.renew()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), self._seconds / 3)

    @property
    def _milliseconds(self) -> int:
        return int(self._seconds * 1000)


class FencedScript:
    """A script that does nothing on behalf of a worker whose token is not the newest. KEYS[1] and ARGV[1] are taken for that."""

    def __init__(self, redis: Client, text: str) -> None:
        self._script = redis.register_script(f"if redis.call('GET', KEYS[1]) ~= ARGV[1] then return '{_REFUSED}' end\n{text}")

    async def __call__(self, namespace: str, token: int, names: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run it. Raises Fenced if another worker has taken `namespace`."""
        answer = await self._script(keys=[keys.fence(namespace), *names], args=[token, *arguments])
        if answer == _REFUSED:
            raise Fenced(namespace)
        return answer


def _pairs(namespaces: Sequence[str]) -> list[str]:
    return [key for n in namespaces for key in (keys.writer(n), keys.fence(n))]
