"""Documents, versions and aliases: which version learned what, and which one answers. The keys are in `keys.py`.

The alias of each namespace is also held in memory, so that requests resolve it without Redis; whatever moves it goes through here.

Covered: publish (register, flip the alias, end the job: one script), rollback by compare-and-swap, provenance. Not covered: files.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adapters.checkpoint import Version
from adapters.versioned_linear import BASE
from service import keys
from service.connection import Client
from service.errors import AliasMoved, UnknownDocument, UnknownNamespace, UnknownVersion
from service.queue import Job


@dataclass(frozen=True)
class VersionRecord:
    """A version as the namespace knows it."""

    name: str
    digest: str | None
    """Of its directory; None: the base model."""
    parent: str | None
    """Name of the version that it was learned on top of."""
    documents: tuple[str, ...]
    job_id: str | None
    created: float
    drift: dict[str, float] | None
    bytes: int

    @property
    def number(self) -> int:
        """Which version of its namespace it is: names count up."""
        return int(self.name[1:])


BASE_RECORD = VersionRecord(BASE, None, None, (), None, 0.0, None, 0)

_PUBLISH = """
local versions, count, alias, job, events, document = unpack(KEYS)
local expected, record, now, report, tokens, keep = unpack(ARGV)
local status = redis.call('HMGET', job, 'status', 'version')
if status[1] ~= 'running' then return {'ended', status[2] or ''} end
local current = redis.call('GET', alias) or 'v0'
if current ~= expected then return {'moved', current} end
local name = 'v' .. redis.call('INCR', count)
record = string.gsub(record, '"name": ""', '"name": "' .. name .. '"', 1)
redis.call('HSET', versions, name, record)
redis.call('SET', alias, name)
redis.call('HSET', document, 'version', name, 'tokens', tokens, 'learned_at', now)
redis.call('HSET', job, 'status', 'succeeded', 'version', name, 'report', report, 'finished_at', now)
redis.call('XADD', events, '*', 'status', 'succeeded', 'version', name)
redis.call('EXPIRE', events, keep)
return {'ok', name}
"""

_MOVE = """
local current = redis.call('GET', KEYS[1]) or 'v0'
if ARGV[2] ~= '' and current ~= ARGV[2] then return {'moved', current} end
redis.call('SET', KEYS[1], ARGV[1])
return {'ok', ARGV[1]}
"""

_EVENTS_KEPT_SECONDS = 3600


class Ledger:
    """The record of what each namespace has learned."""

    def __init__(self, redis: Client, namespaces: Sequence[str]) -> None:
        self._redis = redis
        self._records: dict[str, dict[str, VersionRecord]] = {n: {BASE: BASE_RECORD} for n in namespaces}
        self._aliases = dict.fromkeys(namespaces, BASE)
        self._publish = redis.register_script(_PUBLISH)
        self._move = redis.register_script(_MOVE)

    async def load(self) -> None:
        """Read versions and aliases from Redis: at start, and when it turns out to know more than this process."""
        for namespace, records in self._records.items():
            found = await self._redis.hgetall(keys.versions(namespace))
            records.update({name: _record(text) for name, text in found.items()})
            self._aliases[namespace] = await self._redis.get(keys.alias(namespace)) or BASE

    def check(self, namespace: str) -> None:
        """Raises UnknownNamespace unless `namespace` is served."""
        if namespace not in self._aliases:
            served = ", ".join(sorted(self._aliases))
            raise UnknownNamespace(f"namespace {namespace!r} is not served; served: {served}", param="namespace")

    def resolve(self, namespace: str, version: str | None = None) -> VersionRecord:
        """The record of a named version, or of the one that the alias points to. Memory only: works without Redis.

        Raises:
            UnknownNamespace, UnknownVersion
        """
        self.check(namespace)
        name = self._aliases[namespace] if version is None else version
        record = self._records[namespace].get(name)
        if record is None:
            raise UnknownVersion(f"namespace {namespace!r} has no version {name!r}", param="version")
        return record

    def versions(self, namespace: str) -> list[VersionRecord]:
        """All versions, oldest first."""
        self.check(namespace)
        return sorted(self._records[namespace].values(), key=lambda r: r.number)

    def digests(self) -> set[str]:
        """Directories that some version of some namespace needs."""
        return {r.digest for records in self._records.values() for r in records.values() if r.digest is not None}

    async def publish(
        self, job: Job, version: Version, parent: VersionRecord, report: dict[str, Any], tokens: Sequence[tuple[str, float]]
    ) -> VersionRecord:
        """Register `version` under the next name, flip the alias from `parent` to it and end `job`: all or nothing.

        Returns the record of the version that ended the job, which is an earlier one if the job had ended before.

        Raises:
            AliasMoved: the alias does not point to `parent` any more.
        """
        drift = None if version.drift is None else asdict(version.drift)
        record = VersionRecord(
            "", version.digest, parent.name, version.documents, job.job_id, version.created, drift, version.nbytes
        )
        namespace = job.namespace
        outcome, name = await self._publish(
            keys=[
                keys.versions(namespace), keys.version_count(namespace), keys.alias(namespace),
                keys.job(job.job_id), keys.events(job.job_id), keys.document(namespace, job.document_id),
            ],
            args=[
                parent.name, json.dumps(asdict(record)), time.time(), json.dumps(report), json.dumps(tokens),
                _EVENTS_KEPT_SECONDS,
            ],
        )  # fmt: skip
        if outcome == "moved":
            await self.load()
            raise AliasMoved(f"the alias of {namespace!r} points to {name}, not to {parent.name}")
        if outcome == "ended":  # by an earlier call whose answer was lost, or before a restart
            await self.load()
        else:
            self._records[namespace][name] = VersionRecord(**{**asdict(record), "name": name, "documents": record.documents})
            self._aliases[namespace] = name
        return self.resolve(namespace, name)

    async def move_alias(self, namespace: str, to: str, expected: str | None) -> VersionRecord:
        """Point the alias to version `to`, if it points to `expected` now (None: wherever it points).

        Raises:
            UnknownNamespace, UnknownVersion, AliasMoved
        """
        record = self.resolve(namespace, to)
        outcome, current = await self._move(keys=[keys.alias(namespace)], args=[to, expected or ""])
        self._aliases[namespace] = current
        if outcome == "moved":
            raise AliasMoved(f"the alias of {namespace!r} points to {current}, not to {expected}", param="expected")
        return record

    async def document(self, namespace: str, document_id: str) -> dict[str, Any]:
        """A document with its provenance.

        Raises:
            UnknownNamespace, UnknownDocument
        """
        self.check(namespace)
        fields = await self._redis.hgetall(keys.document(namespace, document_id))
        if not fields:
            raise UnknownDocument(f"namespace {namespace!r} has no document {document_id!r}", param="document_id")
        return {
            "document_id": document_id,
            "namespace": namespace,
            "text": fields["text"],
            "metadata": json.loads(fields["metadata"]),
            "job_id": fields["job"],
            "version": fields.get("version"),
            "tokens": [{"text": text, "weight": weight} for text, weight in json.loads(fields.get("tokens", "[]"))],
            "accepted_at": float(fields["accepted_at"]),
            "learned_at": float(fields["learned_at"]) if "learned_at" in fields else None,
        }

    async def document_ids(self, namespace: str, offset: int, limit: int) -> tuple[list[str], int]:
        """A page of document ids, newest first, and how many there are."""
        self.check(namespace)
        found = await self._redis.zrevrange(keys.documents(namespace), offset, offset + limit - 1)
        return list(found), int(await self._redis.zcard(keys.documents(namespace)))

    async def note_weights(self, job: Job, tokens: Sequence[tuple[str, float]], version: str) -> None:
        """Record how a document was read that changed nothing."""
        fields: Any = {"tokens": json.dumps(tokens), "version": version, "learned_at": time.time()}
        await self._redis.hset(keys.document(job.namespace, job.document_id), mapping=fields)


def _record(text: str) -> VersionRecord:
    fields = json.loads(text)
    return VersionRecord(**{**fields, "documents": tuple(fields["documents"])})
