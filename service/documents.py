"""Documents: their texts, and what became of them. The keys are in `keys.py`.

Covered: provenance, listing, documents that came to nothing. Not covered: accepting them (`queue.py`), learning them
(`ledger.py`), taking them back (`forgetting.py`).
"""

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from service import keys
from service.connection import Client
from service.errors import AliasMoved, UnknownDocument
from service.job import Claim
from service.lease import FencedScript
from service.ledger import EVENTS_KEPT_SECONDS
from service.version_record import VersionRecord

_AT_ONCE = 1000
"""Documents asked for together."""

_NOTHING = """
local _, alias, shadow, job, events, document = unpack(KEYS)
local _, expected, served, final, digest, tokens, report, now, keep = unpack(ARGV)
local status, id = unpack(redis.call('HMGET', job, 'status', 'job_id'))
if status ~= 'running' then return '' end
local current = redis.call('GET', alias) or 'v0'
if served == '' then current = redis.call('GET', shadow) or current end
if current ~= expected then return current end
if redis.call('HGET', document, 'job') == id then  -- else it has another text by now
  redis.call('HSET', document, 'tokens', tokens, 'version', current, 'nothing', digest, 'learned_at', now)
  redis.call('HDEL', document, 'lost')
  if final == 'rejected' then redis.call('HSET', document, 'rejected', '1') end
end
redis.call('HSET', job, 'status', final, 'version', current, 'report', report, 'finished_at', now)
redis.call('XADD', events, '*', 'status', final)
redis.call('EXPIRE', events, keep)
return ''
"""


@dataclass(frozen=True)
class Mark:
    """What a document says of itself."""

    document_id: str
    version: str
    """Name of the version that learned it, or that it was read on and came to nothing."""
    nothing: str | None
    """Digest of the version that it came to nothing on; empty: the base model; None: it was learned."""
    leaving: bool = False
    """Whether it is to be taken back."""


class Documents:
    """Those of all namespaces."""

    def __init__(self, redis: Client) -> None:
        self._redis = redis
        self._nothing = FencedScript(redis, _NOTHING)

    async def texts(self, namespace: str, document_ids: Sequence[str]) -> list[str | None]:
        """The texts of documents; None where there is none, or another one by now that no version has learned."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for document_id in document_ids:
                pipe.hmget(keys.document(namespace, document_id), "text", "learned_at", "forgetting", "nothing")
            found = await pipe.execute()
        return [text if learned and not forgetting and nothing is None else None for text, learned, forgetting, nothing in found]

    async def read(self, namespace: str, document_id: str) -> dict[str, Any]:
        """A document with its provenance.

        Raises:
            UnknownDocument
        """
        fields = await self._redis.hgetall(keys.document(namespace, document_id))
        if not fields:
            raise UnknownDocument(f"namespace {namespace!r} has no document {document_id!r}", param="document_id")
        return {
            "document_id": document_id,
            "namespace": namespace,
            "text": fields["text"],
            "metadata": json.loads(fields["metadata"]),
            "job_id": fields["job"],
            "version": None if "rejected" in fields else fields.get("version"),
            "tokens": [{"text": text, "weight": weight} for text, weight in json.loads(fields.get("tokens", "[]"))],
            "accepted_at": float(fields["accepted_at"]),
            "learned_at": float(fields["learned_at"]) if "learned_at" in fields else None,
        }

    async def ids(self, namespace: str, offset: int, limit: int) -> tuple[list[str], int]:
        """A page of document ids, newest first, and how many there are."""
        found = await self._redis.zrevrange(keys.documents(namespace), offset, offset + limit - 1)
        return list(found), int(await self._redis.zcard(keys.documents(namespace)))

    async def versions(self, namespace: str, ids: Sequence[str]) -> dict[str, str]:
        """Of those of these documents that were read: the version that learned each, or that it was read on."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for document_id in ids:
                pipe.hget(keys.document(namespace, document_id), "version")
            return {i: version for i, version in zip(ids, await pipe.execute(), strict=True) if version}

    async def marked(self, namespace: str, kept: Collection[str]) -> list[Mark]:
        """Documents that name a version which is not one of `kept`, oldest first."""
        found: list[Mark] = []
        ids = await self._redis.zrange(keys.documents(namespace), 0, -1)
        for first in range(0, len(ids), _AT_ONCE):
            some = ids[first : first + _AT_ONCE]
            async with self._redis.pipeline(transaction=False) as pipe:
                for document_id in some:
                    pipe.hmget(keys.document(namespace, document_id), "version", "nothing", "forgetting")
                answers = await pipe.execute()
            for document_id, (version, nothing, forgetting) in zip(some, answers, strict=True):
                if version is not None and version not in kept:
                    found.append(Mark(document_id, version, nothing, forgetting is not None))
        return found

    async def came_to_nothing(
        self,
        claim: Claim,
        status: str,
        head: VersionRecord,
        report: dict[str, Any],
        tokens: Sequence[tuple[str, float]],
        served: bool = True,
    ) -> None:
        """End a claimed job that changed nothing, as known already or rejected, and note how, and on which version, it was read.

        served: False: that is the shadow, not what the alias points to. A second time changes nothing.

        Raises:
            AliasMoved: that is not `head` any more.
            Fenced: another worker writes the namespace.
        """
        job, namespace = claim.job, claim.job.namespace
        current = await self._nothing(
            namespace, claim.token,
            [
                keys.alias(namespace), keys.shadow(namespace), keys.job(job.job_id), keys.events(job.job_id),
                keys.document(namespace, job.document_id),
            ],
            [
                head.name, "1" if served else "", status, head.digest or "", json.dumps(tokens), json.dumps(report), time.time(),
                EVENTS_KEPT_SECONDS,
            ],
        )  # fmt: skip
        if current:
            raise AliasMoved(f"the head of {namespace!r} is {current}, not {head.name}")
