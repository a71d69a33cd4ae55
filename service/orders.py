"""Jobs that teach nothing: take a document back, drop old versions. The keys are in `keys.py`.

Covered: queueing them, in turn with documents. Not covered: what they do (`forgetting.py`, `retention.py`).
"""

import time

from service import keys
from service.connection import Client
from service.errors import QueueFull, UnknownDocument
from service.job import Job
from service.queue import JobQueue, new_id

_FORGET = """
local jobs, document, prefix = unpack(KEYS)
local id, namespace, document_id, now, exact, limit = unpack(ARGV)
local learning, forgetting = unpack(redis.call('HMGET', document, 'job', 'forgetting'))
if not learning then return {'unknown'} end
if forgetting then
  local status = redis.call('HGET', prefix .. forgetting, 'status')
  if status == 'queued' and exact ~= '' then redis.call('HSET', prefix .. forgetting, 'exact', exact) end
  if status == 'queued' or status == 'running' then return {'ok', forgetting} end
end
if redis.call('XLEN', jobs) >= tonumber(limit) then return {'full', redis.call('XLEN', jobs)} end
local before = prefix .. learning
if redis.call('HGET', before, 'status') == 'queued' then
  redis.call('HSET', before, 'status', 'cancelled', 'finished_at', now, 'error', 'forgotten by ' .. id)
  redis.call('XADD', before .. ':events', '*', 'status', 'cancelled')
  redis.call('EXPIRE', before .. ':events', 3600)
end
redis.call('HSET', document, 'forgetting', id)
redis.call('HSET', prefix .. id, 'job_id', id, 'namespace', namespace, 'document_id', document_id, 'kind', 'forget',
  'exact', exact, 'status', 'queued', 'accepted_at', now, 'attempts', 0)
redis.call('XADD', prefix .. id .. ':events', '*', 'status', 'queued')
redis.call('XADD', jobs, '*', 'job', id)
return {'ok', id}
"""

_ORDER = """
local jobs, job, events = unpack(KEYS)
local id, namespace, now, limit, kind, keep = unpack(ARGV)
if redis.call('XLEN', jobs) >= tonumber(limit) then return {'full', redis.call('XLEN', jobs)} end
redis.call('HSET', job, 'job_id', id, 'namespace', namespace, 'document_id', '', 'kind', kind, 'keep', keep, 'status', 'queued',
  'accepted_at', now, 'attempts', 0)
redis.call('XADD', events, '*', 'status', 'queued')
redis.call('XADD', jobs, '*', 'job', id)
return {'ok', id}
"""


class Orders:
    """Those of all namespaces."""

    def __init__(self, redis: Client, queue: JobQueue, max_depth: int) -> None:
        self._queue, self._max_depth = queue, max_depth
        self._forget = redis.register_script(_FORGET)
        self._order = redis.register_script(_ORDER)

    async def forget(self, namespace: str, document_id: str, exact: bool) -> Job:
        """Queue a job that takes a document back; the same one while it has not ended. What was not learned yet will not be.

        Raises:
            UnknownDocument: there is none.
            QueueFull: more would wait than may.
        """
        names = [keys.jobs(namespace), keys.document(namespace, document_id), keys.job("")]
        wanted = [new_id(), namespace, document_id, time.time(), "1" if exact else "", self._max_depth]
        outcome, *found = await self._forget(keys=names, args=wanted)
        if outcome == "unknown":
            raise UnknownDocument(f"namespace {namespace!r} has no document {document_id!r}", param="document_id")
        if outcome == "full":
            raise QueueFull(f"{found[0]} jobs are waiting in namespace {namespace!r}; try again later", retry_after=5)
        return await self._queue.read(found[0])

    async def collect(self, namespace: str, keep: int) -> Job:
        """Queue a job that drops all but the `keep` newest versions. Raises QueueFull."""
        job_id = new_id()
        wanted = [job_id, namespace, time.time(), self._max_depth, "collect", keep]
        outcome, found = await self._order(keys=[keys.jobs(namespace), keys.job(job_id), keys.events(job_id)], args=wanted)
        if outcome == "full":
            raise QueueFull(f"{found} jobs are waiting in namespace {namespace!r}; try again later", retry_after=5)
        return await self._queue.read(job_id)
