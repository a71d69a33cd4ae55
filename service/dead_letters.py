"""Jobs that were given up: seen, tried again, or let go. The keys are in `keys.py`; `queue.py` says how a job comes here.

Covered: one transaction per step; a text that was replaced is not learned through an old job. Not covered: repeating by itself.
"""

from dataclasses import dataclass
from typing import Any

from service import keys
from service.connection import Client
from service.errors import NotADeadLetter, QueueFull, Superseded
from service.job import Job
from service.queue import JobQueue
from service.queue_scripts import QUEUE_AGAIN


@dataclass(frozen=True)
class DeadLetter:
    """One job that was given up."""

    job_id: str
    document_id: str
    namespace: str
    error: str
    attempts: int
    buried_at: float
    """Seconds since the epoch."""


_RETRY = """
local job, dead, document, jobs = unpack(KEYS)
local id, limit = ARGV[1], tonumber(ARGV[2])
local status, letter = unpack(redis.call('HMGET', job, 'status', 'dead'))
if not letter then return {'alive', status} end
local kind = redis.call('HGET', job, 'kind') or 'learn'
local latest, forgetting = unpack(redis.call('HMGET', document, 'job', 'forgetting'))
if kind == 'learn' and forgetting then return {'superseded', forgetting} end
if kind == 'learn' and latest ~= id then return {'superseded', latest or ''} end
if kind == 'forget' and forgetting ~= id then return {'superseded', latest or ''} end
local depth = redis.call('XLEN', jobs)
if depth >= limit then return {'full', tostring(depth)} end
redis.call('XDEL', dead, letter)
queue_again(job, jobs, id)
return {'ok', ''}
"""

_DROP = """
local job, dead = unpack(KEYS)
local status, letter = unpack(redis.call('HMGET', job, 'status', 'dead'))
if not letter then return {'alive', status} end
redis.call('XDEL', dead, letter)
redis.call('HDEL', job, 'dead')
return {'ok', ''}
"""


class DeadLetters:
    """The dead letters of all namespaces."""

    def __init__(self, redis: Client, queue: JobQueue, max_depth: int) -> None:
        """max_depth: of the queue, which a retry must fit into too."""
        self._redis, self._queue, self._max_depth = redis, queue, max_depth
        self._retry = redis.register_script(QUEUE_AGAIN + _RETRY)
        self._drop = redis.register_script(_DROP)

    async def list(self, namespace: str, limit: int) -> tuple[list[DeadLetter], int]:
        """The latest ones, newest first, and how many there are."""
        found = await self._redis.xrevrange(keys.dead(namespace), count=limit)
        return [_letter(namespace, entry, fields) for entry, fields in found], await self._queue.dead_letters(namespace)

    async def retry(self, job_id: str) -> Job:
        """Queue a job again, as if it had never been tried. Its followers see it go on.

        Raises:
            UnknownJob
            NotADeadLetter: it has not been given up, or was retried or dropped since.
            Superseded: its document has another text by now, or was posted again.
            QueueFull
        """
        job = await self._queue.read(job_id)
        name = job.namespace
        outcome, found = await self._retry(
            keys=[keys.job(job_id), keys.dead(name), keys.document(name, job.document_id), keys.jobs(name)],
            args=[job_id, self._max_depth],
        )
        if outcome == "superseded":
            by = f"job {found!r} came after it" if found else "it is not there any more"
            raise Superseded(f"document {job.document_id!r} is not learned through job {job_id!r} any more: {by}", param="job_id")
        if outcome == "full":
            raise QueueFull(f"{found} jobs are waiting in namespace {name!r}; try again later", retry_after=5)
        return await self._changed(job_id, outcome, found)

    async def drop(self, job_id: str) -> Job:
        """Take a job out of the dead letters; it stays failed.

        Raises:
            UnknownJob, NotADeadLetter
        """
        job = await self._queue.read(job_id)
        outcome, found = await self._drop(keys=[keys.job(job_id), keys.dead(job.namespace)], args=[])
        return await self._changed(job_id, outcome, found)

    async def _changed(self, job_id: str, outcome: str, status: str) -> Job:
        if outcome == "alive":
            raise NotADeadLetter(f"job {job_id!r} is not a dead letter: it is {status}", param="job_id")
        return await self._queue.read(job_id)


def _letter(namespace: str, entry: str, fields: Any) -> DeadLetter:
    buried_at = int(entry.partition("-")[0]) / 1000
    return DeadLetter(fields["job"], fields["document"], namespace, fields["error"], int(fields["attempts"]), buried_at)
