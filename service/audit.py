"""The audit log: who asked for what, of what, when, and what came of it; never a text, never a key.

Each entry is a line of the log (event `audit`) and an entry of a capped stream, one stream for each namespace and one for what
concerns none. What is refused before it begins (no key, no scope, no such namespace, no such body) is in neither.

Covered: writing, reading. Not covered: what a job did later, which its report says.
"""

import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import RedisError

from service import keys
from service.api_keys import ApiKey
from service.connection import Client
from service.errors import code_of

KEPT = 10_000
"""Entries of one stream, about."""
MOST_IDS = 100
"""Of one entry; of more, the first."""
LONGEST_ID = 128
"""Characters: that of a document may have so many. What is longer is none."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Entry:
    """One thing that was asked for."""

    at: float
    """Seconds since the epoch."""
    key: str
    """Id of the key; `-`: there are none here; `admin`: that of the settings; `infold`: the server itself."""
    name: str
    action: str
    namespace: str | None
    ids: tuple[str, ...]
    outcome: str
    """ok, or the code of an error."""


class Audit:
    """That of all namespaces."""

    def __init__(self, redis: Client) -> None:
        self._redis = redis

    @asynccontextmanager
    async def of(self, key: ApiKey, action: str, namespace: str | None, *ids: str) -> AsyncIterator[list[str]]:
        """Write down what the block does, once it has ended, however it has. Ids that are known only then may be added."""
        known, outcome = list(ids), "cancelled"
        try:
            yield known
            outcome = "ok"
        except Exception as error:
            outcome = code_of(error)
            raise
        finally:
            await self.write(key, action, namespace, known, outcome)

    async def write(self, key: ApiKey, action: str, namespace: str | None, ids: Sequence[str], outcome: str = "ok") -> None:
        """One entry. `namespace` must be one that is served. Without Redis it is in the log only."""
        listed = [one[:LONGEST_ID] for one in ids[:MOST_IDS]]
        log.info("audit", key=key.id, name=key.name, action=action, namespace=namespace, ids=listed, outcome=outcome)
        fields: Any = {
            "key": key.id,
            "name": key.name,
            "action": action,
            "ids": json.dumps(listed),
            "outcome": outcome,
            "ns": time.time_ns(),
        }
        with contextlib.suppress(RedisError):
            await self._redis.xadd(keys.audit(namespace), fields, maxlen=KEPT)

    async def read(self, namespaces: Sequence[str | None], limit: int) -> list[Entry]:
        """The latest entries of some namespaces, newest first."""
        found: list[tuple[tuple[int, ...], Entry]] = []
        for namespace in namespaces:
            for entry, fields in await self._redis.xrevrange(keys.audit(namespace), count=limit):
                order = (int(entry.partition("-")[0]), int(fields["ns"]))  # two streams may have an entry of the same millisecond
                found.append((order, _entry(entry, namespace, fields)))
        return [entry for _, entry in sorted(found, key=lambda one: one[0], reverse=True)[:limit]]


def _entry(entry: str, namespace: str | None, fields: dict[str, str]) -> Entry:
    ids = tuple(json.loads(fields["ids"]))
    at = int(entry.partition("-")[0]) / 1000
    return Entry(at, fields["key"], fields["name"], fields["action"], namespace, ids, fields["outcome"])
