"""Documents, versions and aliases: which version learned what, and which one answers. The keys are in `keys.py`.

The alias of each namespace is also held in memory, so that requests resolve it without Redis. What this process moves is moved
there too; what others move is heard of by `follow`.

Covered: publish (register, flip the alias, end the job: one script), rollback by compare-and-swap, provenance. Not covered: files.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adapters.checkpoint import Version
from adapters.versioned_linear import BASE
from service import keys
from service.connection import LONGEST_BLOCK_SECONDS, Client
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
        return _number(self.name)


BASE_RECORD = VersionRecord(BASE, None, None, (), None, 0.0, None, 0)

_PUBLISH = """
local versions, count, alias, job, events, document, moves = unpack(KEYS)
local expected, record, now, report, tokens, keep, namespace = unpack(ARGV)
local status = redis.call('HMGET', job, 'status', 'version')
if status[1] ~= 'running' then return {'ended', status[2] or '', ''} end
local current = redis.call('GET', alias) or 'v0'
if current ~= expected then return {'moved', current, ''} end
local name = 'v' .. redis.call('INCR', count)
record = string.gsub(record, '"name": ""', '"name": "' .. name .. '"', 1)
redis.call('HSET', versions, name, record)
redis.call('SET', alias, name)
redis.call('HSET', document, 'version', name, 'tokens', tokens, 'learned_at', now)
redis.call('HSET', job, 'status', 'succeeded', 'version', name, 'report', report, 'finished_at', now)
redis.call('XADD', events, '*', 'status', 'succeeded', 'version', name)
redis.call('EXPIRE', events, keep)
local entry = redis.call('XADD', moves, 'MAXLEN', '~', 10000, '*', 'namespace', namespace, 'version', name)
return {'ok', name, entry}
"""

_MOVE = """
local current = redis.call('GET', KEYS[1]) or 'v0'
if ARGV[2] ~= '' and current ~= ARGV[2] then return {'moved', current, ''} end
redis.call('SET', KEYS[1], ARGV[1])
return {'ok', ARGV[1], redis.call('XADD', KEYS[2], 'MAXLEN', '~', 10000, '*', 'namespace', ARGV[3], 'version', ARGV[1])}
"""

_EVENTS_KEPT_SECONDS = 3600


class Ledger:
    """The record of what each namespace has learned."""

    def __init__(self, redis: Client, namespaces: Sequence[str]) -> None:
        self._redis = redis
        self._records: dict[str, dict[str, VersionRecord]] = {n: {BASE: BASE_RECORD} for n in namespaces}
        self._aliases = dict.fromkeys(namespaces, BASE)
        self._moved = dict.fromkeys(namespaces, _entry("0"))
        """Where in the stream of moves each alias stands: what was heard late must not move it back."""
        self._heard, self._following = "0", False
        self._highest = dict.fromkeys(namespaces, 0)
        self._changed = asyncio.Event()
        self._publish = redis.register_script(_PUBLISH)
        self._move = redis.register_script(_MOVE)

    async def load(self) -> None:
        """Read versions and aliases from Redis: at start, and when it turns out to know more than this process."""
        async with self._redis.pipeline(transaction=True) as pipe:
            for namespace in self._records:
                pipe.hgetall(keys.versions(namespace)).get(keys.alias(namespace))
            *answers, moves = await pipe.xrevrange(keys.MOVES, count=1).execute()
        last = moves[0][0] if moves else "0"
        self._heard = max(self._heard, last, key=_entry) if moves else last
        for (namespace, records), found, alias in zip(self._records.items(), answers[::2], answers[1::2], strict=True):
            records.update({name: _record(text) for name, text in found.items()})
            if not moves:  # of a ledger that was lost, or written before there were any
                self._moved[namespace] = _entry(last)
            self._point(namespace, alias or BASE, last)
            self._highest[namespace] = max(r.number for r in records.values())

    async def follow(self, arrive: Callable[[str, VersionRecord], Awaitable[bool]]) -> None:
        """Hear of aliases that other processes move, until cancelled.

        This one resolves to a version after `arrive` was awaited, unless that says that it cannot be served.
        """
        self._following = True
        task, block = asyncio.current_task(), int(LONGEST_BLOCK_SECONDS * 1000)
        assert task is not None
        while True:
            if task.cancelling():  # redis-py forgets a cancellation that comes while it sends
                raise asyncio.CancelledError
            for _, entries in await self._redis.xread({keys.MOVES: self._heard}, block=block) or []:
                for entry, fields in entries:
                    namespace, name = fields["namespace"], fields["version"]
                    if namespace in self._aliases and _entry(entry) > self._moved[namespace]:
                        text = await self._redis.hget(keys.versions(namespace), name)
                        record = self._records[namespace][name] = BASE_RECORD if name == BASE else _record(text)
                        if await arrive(namespace, record):
                            self._point(namespace, name, entry)
                    self._heard = entry

    def highest(self, namespace: str) -> int:
        """The highest number of a version that this process has resolved to."""
        return self._highest[namespace]

    async def reached(self, namespace: str, version: str) -> None:
        """Wait until this process has resolved to `version`, or to a later one."""
        while self._highest[namespace] < _number(version):
            await self._changed.wait()

    def _point(self, namespace: str, name: str, entry: str) -> None:
        """Resolve to `name` from now on, unless that is old."""
        if _entry(entry) >= self._moved[namespace]:
            self._aliases[namespace], self._moved[namespace] = name, _entry(entry)
        self._highest[namespace] = max(self._highest[namespace], _number(name))
        self._changed.set()
        self._changed = asyncio.Event()

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

    def names(self, namespace: str) -> dict[str, str]:
        """Digest of each version's directory -> the version's name."""
        self.check(namespace)
        return {r.digest: r.name for r in self._records[namespace].values() if r.digest is not None}

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
        outcome, name, entry = await self._publish(
            keys=[
                keys.versions(namespace), keys.version_count(namespace), keys.alias(namespace),
                keys.job(job.job_id), keys.events(job.job_id), keys.document(namespace, job.document_id), keys.MOVES,
            ],
            args=[
                parent.name, json.dumps(asdict(record)), time.time(), json.dumps(report), json.dumps(tokens),
                _EVENTS_KEPT_SECONDS, namespace,
            ],
        )  # fmt: skip
        if outcome == "moved":
            await self.load()
            raise AliasMoved(f"the alias of {namespace!r} points to {name}, not to {parent.name}")
        if outcome == "ended":  # by an earlier call whose answer was lost, or before a restart
            await self.load()
        else:
            self._records[namespace][name] = VersionRecord(**{**asdict(record), "name": name, "documents": record.documents})
            self._point(namespace, name, entry)
        return self.resolve(namespace, name)

    async def move_alias(self, namespace: str, to: str, expected: str | None) -> VersionRecord:
        """Point the alias to version `to`, if it points to `expected` now (None: wherever it points).

        Raises:
            UnknownNamespace, UnknownVersion, AliasMoved
        """
        record = self.resolve(namespace, to)
        outcome, current, entry = await self._move(keys=[keys.alias(namespace), keys.MOVES], args=[to, expected or "", namespace])
        if outcome == "ok":
            self._point(namespace, current, entry)
        else:
            if not self._following:  # else it is heard of in its turn, after what must be there first
                await self.load()
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


def _number(name: str) -> int:
    return int(name[1:])


def _entry(entry: str) -> tuple[int, int]:
    """An id of a stream's entry, as Redis compares them."""
    first, _, second = entry.partition("-")
    return int(first), int(second or 0)


def _record(text: str) -> VersionRecord:
    fields = json.loads(text)
    return VersionRecord(**{**fields, "documents": tuple(fields["documents"])})
