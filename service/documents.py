"""Documents: their texts, and what became of them. The keys are in `keys.py`.

Covered: provenance, listing, how a document was read. Not covered: accepting them (`queue.py`), taking them back (`forgetting.py`).
"""

import json
import time
from collections.abc import Sequence
from typing import Any

from service import keys
from service.connection import Client
from service.errors import UnknownDocument
from service.job import Claim
from service.lease import FencedScript

_NOTE = """
redis.call('HSET', KEYS[2], 'tokens', ARGV[2], 'version', ARGV[3], 'learned_at', ARGV[4])
"""


class Documents:
    """Those of all namespaces."""

    def __init__(self, redis: Client) -> None:
        self._redis = redis
        self._note = FencedScript(redis, _NOTE)

    async def texts(self, namespace: str, document_ids: Sequence[str]) -> list[str | None]:
        """The texts of documents; None where there is none, or another one by now that is not learned yet."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for document_id in document_ids:
                pipe.hmget(keys.document(namespace, document_id), "text", "learned_at", "forgetting")
            found = await pipe.execute()
        return [text if learned and not forgetting else None for text, learned, forgetting in found]

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
            "version": fields.get("version") or None,
            "tokens": [{"text": text, "weight": weight} for text, weight in json.loads(fields.get("tokens", "[]"))],
            "accepted_at": float(fields["accepted_at"]),
            "learned_at": float(fields["learned_at"]) if "learned_at" in fields else None,
        }

    async def ids(self, namespace: str, offset: int, limit: int) -> tuple[list[str], int]:
        """A page of document ids, newest first, and how many there are."""
        found = await self._redis.zrevrange(keys.documents(namespace), offset, offset + limit - 1)
        return list(found), int(await self._redis.zcard(keys.documents(namespace)))

    async def note_weights(self, claim: Claim, tokens: Sequence[tuple[str, float]], version: str) -> None:
        """Record how a document was read that changed nothing. version: which knows it already; empty: none. Raises Fenced."""
        namespace, document = claim.job.namespace, keys.document(claim.job.namespace, claim.job.document_id)
        await self._note(namespace, claim.token, [document], [json.dumps(tokens), version, time.time()])
