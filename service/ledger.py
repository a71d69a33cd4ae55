"""Versions and aliases: which version learned what, and which one answers. The keys are in `keys.py`.

The alias of each namespace is also held in memory, so that requests resolve it without Redis. What this process moves is moved
there too; what others move is heard of by `follow`.

Covered: publish (register, flip the alias, end the job: one script, fenced as `lease.py` says), rollback by compare-and-swap,
provenance. Not covered: files.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from adapters.checkpoint import Version
from adapters.versioned_linear import BASE
from service import keys
from service.connection import LONGEST_BLOCK_SECONDS, Client
from service.errors import AliasMoved, UnknownNamespace, UnknownVersion
from service.job import Claim
from service.lease import FencedScript
from service.version_record import BASE_RECORD, VersionRecord, number_of, record_of

_PUBLISH = """
local _, versions, count, alias, shadow, job, events, document, moves = unpack(KEYS)
local _, expected, record, now, report, tokens, keep, namespace, served = unpack(ARGV)
local status = redis.call('HMGET', job, 'status', 'version')
if status[1] ~= 'running' then return {'ended', status[2] or '', ''} end
local current = redis.call('GET', alias) or 'v0'
if served == '' then current = redis.call('GET', shadow) or current end
if current ~= expected then return {'moved', current, ''} end
local name = 'v' .. redis.call('INCR', count)
record = string.gsub(record, '"name": ""', '"name": "' .. name .. '"', 1)
redis.call('HSET', versions, name, record)
if served == '' then
  redis.call('SET', shadow, name)
else
  redis.call('SET', alias, name)
  redis.call('DEL', shadow)
end
redis.call('HSET', document, 'version', name, 'tokens', tokens, 'learned_at', now)
redis.call('HDEL', document, 'nothing', 'rejected', 'lost')
redis.call('HSET', job, 'status', 'succeeded', 'version', name, 'report', report, 'finished_at', now)
redis.call('XADD', events, '*', 'status', 'succeeded', 'version', name)
redis.call('EXPIRE', events, keep)
local entry = redis.call('XADD', moves, 'MAXLEN', '~', 10000, '*', 'namespace', namespace, 'version', name, 'served', served)
return {'ok', name, entry}
"""

_MOVE = """
local current = redis.call('GET', KEYS[1]) or 'v0'
if ARGV[1] ~= 'v0' and redis.call('HEXISTS', KEYS[4], ARGV[1]) == 0 then return {'unknown', current, ''} end
if ARGV[2] ~= '' and current ~= ARGV[2] then return {'moved', current, ''} end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[3])
local entry = redis.call('XADD', KEYS[2], 'MAXLEN', '~', 10000, '*', 'namespace', ARGV[3], 'version', ARGV[1], 'served', '1')
return {'ok', ARGV[1], entry}
"""

STAYS = "-"
"""Among moves: versions were withdrawn, and the alias stayed where it was."""
EVENTS_KEPT_SECONDS = 3600
"""After the end of a job."""


class Ledger:
    """The record of what each namespace has learned."""

    def __init__(self, redis: Client, namespaces: Sequence[str]) -> None:
        self._redis = redis
        self._records: dict[str, dict[str, VersionRecord]] = {n: {BASE: BASE_RECORD} for n in namespaces}
        self._aliases = dict.fromkeys(namespaces, BASE)
        self._shadows: dict[str, str] = {}
        """What was learned last in the shadow of what is served."""
        self._leaving: dict[str, set[str]] = {}
        """What was withdrawn, and answers until something has come in its place."""
        self._moved = dict.fromkeys(namespaces, _entry("0"))
        """Where in the stream of moves each alias stands: what was heard late must not move it back."""
        self._heard, self._following = "0", False
        self._highest = dict.fromkeys(namespaces, 0)
        self._changed = asyncio.Event()
        self._publish = FencedScript(redis, _PUBLISH)
        self._move = redis.register_script(_MOVE)

    async def load(self) -> None:
        """Read versions and aliases from Redis: at start, and when it turns out to know more than this process."""
        async with self._redis.pipeline(transaction=True) as pipe:
            for namespace in self._records:
                pipe.hgetall(keys.versions(namespace)).get(keys.alias(namespace)).get(keys.shadow(namespace))
            *answers, moves = await pipe.xrevrange(keys.MOVES, count=1).execute()
        last = moves[0][0] if moves else "0"
        self._heard = max(self._heard, last, key=_entry) if moves else last
        read = zip(self._records.items(), answers[::3], answers[1::3], answers[2::3], strict=True)
        for (namespace, records), found, alias, shadow in read:
            newest = max(map(number_of, found), default=-1)
            gone = [n for n in records if n not in found and 0 < number_of(n) < newest]  # withdrawn; a late answer lacks newer ones
            self._lose(namespace, gone)
            records.update({name: record_of(text) for name, text in found.items()})
            if not moves:  # of a ledger that was lost, or written before there were any
                self._moved[namespace] = _entry(last)
            self._point(namespace, alias or BASE, last)
            if shadow is not None:
                self._shadows[namespace] = shadow
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
                    if fields["namespace"] in self._aliases:
                        await self._hear(entry, fields, arrive)
                    self._heard = entry

    async def _hear(self, entry: str, fields: dict[str, str], arrive: Callable[[str, VersionRecord], Awaitable[bool]]) -> None:
        """One move. What was withdrawn with it cannot be asked for from now on; what still answers does until `arrive` returns."""
        namespace, name, served = fields["namespace"], fields["version"], fields.get("served", "1")
        gone = self._leaving.setdefault(namespace, set())
        gone |= set(json.loads(fields.get("withdrawn") or "[]"))
        self._lose(namespace, gone - {self._aliases[namespace]})
        if served != STAYS and _entry(entry) > self._moved[namespace]:
            text = await self._redis.hget(keys.versions(namespace), name)
            if text is not None or name == BASE:  # else it was withdrawn since: another comes after it
                record = self._records[namespace][name] = BASE_RECORD if text is None else record_of(text)
                if not served:
                    self._shadows[namespace] = name
                elif await arrive(namespace, record):
                    self._point(namespace, name, entry)
        self._lose(namespace, gone - {self._aliases[namespace]})
        gone &= {self._aliases[namespace]}

    @property
    def namespaces(self) -> Sequence[str]:
        """Those that are served."""
        return tuple(self._aliases)

    def highest(self, namespace: str) -> int:
        """The highest number of a version that this process has resolved to."""
        return self._highest[namespace]

    async def reached(self, namespace: str, version: str) -> None:
        """Wait until this process has resolved to `version`, or to a later one."""
        while self._highest[namespace] < number_of(version):
            await self.moved()

    async def moved(self) -> None:
        """Wait until this process resolves to another version."""
        await self._changed.wait()

    def _point(self, namespace: str, name: str, entry: str) -> None:
        """Resolve to `name` from now on, unless that is old."""
        if _entry(entry) >= self._moved[namespace]:
            self._shadows.pop(namespace, None)
            self._aliases[namespace], self._moved[namespace] = name, _entry(entry)
        self._highest[namespace] = max(self._highest[namespace], number_of(name))
        self._changed.set()
        self._changed = asyncio.Event()

    def check(self, namespace: str) -> None:
        """Raises UnknownNamespace unless `namespace` is served."""
        if namespace not in self._aliases:
            raise UnknownNamespace(namespace, self._aliases)

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

    def shadow(self, namespace: str) -> VersionRecord:
        """The record of what was learned last in the shadow of what is served; of what is served, if nothing was since it moved."""
        return self.resolve(namespace, self._shadows.get(namespace))

    def below(self, namespace: str, record: VersionRecord) -> set[str]:
        """Names of a version and of all that it was made on top of, as far as they are kept one by one."""
        found: set[str] = {BASE}
        step: VersionRecord | None = record
        while step is not None and step.name not in found:
            found.add(step.name)
            step = self._records[namespace].get(step.parent or "")
        return found

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
        self,
        claim: Claim,
        version: Version,
        parent: VersionRecord,
        report: dict[str, Any],
        tokens: Sequence[tuple[str, float]],
        served: bool = True,
    ) -> VersionRecord:
        """Register `version` under the next name, flip the alias from `parent` to it and end the claimed job: all or nothing.

        served: False: the alias stays, and the shadow is moved from `parent` to it. Returns the record of the version that ended
        the job, which is an earlier one if the job had ended before.

        Raises:
            AliasMoved: the alias does not point to `parent` any more.
            Fenced: another worker writes the namespace.
        """
        job, drift = claim.job, None if version.drift is None else asdict(version.drift)
        record = VersionRecord(
            "", version.digest, parent.name, version.documents, job.job_id, version.created, drift, version.nbytes
        )
        namespace = job.namespace
        outcome, name, entry = await self._publish(
            namespace, claim.token,
            [
                keys.versions(namespace), keys.version_count(namespace), keys.alias(namespace), keys.shadow(namespace),
                keys.job(job.job_id), keys.events(job.job_id), keys.document(namespace, job.document_id), keys.MOVES,
            ],
            [
                parent.name, json.dumps(asdict(record)), time.time(), json.dumps(report), json.dumps(tokens),
                EVENTS_KEPT_SECONDS, namespace, "1" if served else "",
            ],
        )  # fmt: skip
        if outcome == "moved":
            await self.load()
            raise AliasMoved(f"the head of {namespace!r} is {name}, not {parent.name}")
        if outcome == "ended":  # by an earlier call whose answer was lost, or before a restart
            await self.load()
        else:
            self._records[namespace][name] = VersionRecord(**{**asdict(record), "name": name, "documents": record.documents})
            if served:
                self._point(namespace, name, entry)
            else:
                self._shadows[namespace] = name
        return self.resolve(namespace, name)

    def withdrawn(
        self, namespace: str, names: Collection[str], record: VersionRecord, entry: str, shadow: str | None = None
    ) -> None:
        """Those of `names` are no more, and `record` answers since the `entry` of the stream of moves.

        shadow: what stands for a shadow that is one of them; None: what answers.
        """
        if self._aliases[namespace] != record.name:
            self._records[namespace][record.name] = record
            self._point(namespace, record.name, entry)
        if shadow is not None and self._shadows.get(namespace) in names:
            self._shadows[namespace] = shadow
        self._lose(namespace, names)

    def _lose(self, namespace: str, names: Iterable[str]) -> None:
        for name in names:
            self._records[namespace].pop(name, None)
            if self._shadows.get(namespace) == name:
                del self._shadows[namespace]

    async def move_alias(self, namespace: str, to: str, expected: str | None) -> VersionRecord:
        """Point the alias to version `to`, if it points to `expected` now (None: wherever it points).

        Raises:
            UnknownNamespace, UnknownVersion, AliasMoved
        """
        record = self.resolve(namespace, to)
        outcome, current, entry = await self._move(
            keys=[keys.alias(namespace), keys.MOVES, keys.shadow(namespace), keys.versions(namespace)],
            args=[to, expected or "", namespace],
        )
        if outcome == "unknown":  # withdrawn, which has not been heard of here yet
            self._lose(namespace, [to])
            raise UnknownVersion(f"namespace {namespace!r} has no version {to!r} any more", param="to")
        if outcome == "ok":
            self._point(namespace, current, entry)
        else:
            if not self._following:  # else it is heard of in its turn, after what must be there first
                await self.load()
            raise AliasMoved(f"the alias of {namespace!r} points to {current}, not to {expected}", param="expected")
        return record


def _entry(entry: str) -> tuple[int, int]:
    """An id of a stream's entry, as Redis compares them."""
    first, _, second = entry.partition("-")
    return int(first), int(second or 0)
