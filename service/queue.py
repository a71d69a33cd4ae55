"""Jobs on Redis Streams: accept, claim, follow, end. The keys are in `keys.py`.

Covered: one transaction per step, idempotence, bounds, redelivery, giving up. What a worker does is fenced (`lease.py`).
Not covered: versions (`ledger.py`), what a job does (`worker.py`), what becomes of jobs given up (`dead_letters.py`).
"""

import json
import time
import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

from redis.exceptions import ResponseError

from service import keys
from service.connection import LONGEST_BLOCK_SECONDS, Client
from service.errors import KeyReused, NotCancellable, QueueFull, UnknownJob
from service.job import FINAL, JOB_ID, Claim, Job, NewDocument, job_of
from service.lease import FencedScript
from service.queue_scripts import ACCEPT, BURY, CANCEL, END, START

_DAY, _HOUR = 86_400, 3_600
_EVENTS_KEPT = 256


class JobQueue:
    """Jobs of all namespaces."""

    def __init__(self, redis: Client, max_depth: int) -> None:
        self._redis, self._max_depth = redis, max_depth
        self._accept = redis.register_script(ACCEPT)
        self._cancel = redis.register_script(CANCEL)
        self._start = FencedScript(redis, START)
        self._end = FencedScript(redis, END)
        self._bury = FencedScript(redis, BURY)

    async def prepare(self, namespaces: Sequence[str]) -> None:
        """Create the consumer groups that are missing."""
        for namespace in namespaces:
            try:
                await self._redis.xgroup_create(keys.jobs(namespace), keys.GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def accept(
        self,
        namespace: str,
        wanted: Sequence[NewDocument],
        idempotency: tuple[str, str] | None = None,
        traceparent: str | None = None,
        left: Collection[str] = (),
    ) -> list[Job]:
        """Queue documents, all or none. The same id with the same text again gives the same job, unless that came to no good: one
        that failed, was cancelled or rejected is tried again, and so is what is `left` behind. New metadata are noted either way.

        idempotency: a client's key and a digest of the body that it came with. traceparent: of the request. left: ids of documents
        that were learned by what does not answer any more.

        Raises:
            QueueFull: more would wait than may.
            KeyReused: the key came with another body before.
        """
        now = time.time()
        listed = [
            {
                "document_id": d.document_id,
                "text": d.text,
                "sha256": d.sha256,
                "metadata": json.dumps(d.metadata),
                "job_id": new_id(),
            }
            for d in wanted
        ]
        key, body = idempotency or ("", "")
        answer = await self._accept(
            keys=[keys.jobs(namespace), keys.documents(namespace), keys.idempotency(namespace, key) if key else ""],
            args=[
                keys.document(namespace, ""),
                now,
                self._max_depth,
                body,
                json.dumps(listed),
                namespace,
                _DAY,
                traceparent or "",
                json.dumps(dict.fromkeys(left, True)),
            ],
        )
        if answer[0] == "full":
            raise QueueFull(f"{answer[1]} jobs are waiting in namespace {namespace!r}; try again later", retry_after=5)
        if answer[0] == "reused":
            raise KeyReused("this Idempotency-Key was used with another body")
        return [await self.read(job_id) for job_id in json.loads(answer[1])]

    async def read(self, job_id: str) -> Job:
        """One job.

        Raises:
            UnknownJob: there is none.
        """
        fields = await self._redis.hgetall(keys.job(job_id)) if JOB_ID.fullmatch(job_id) else None
        if not fields:
            raise unknown(job_id)
        return job_of(fields)

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job that has not started.

        Raises:
            NotCancellable: it has.
        """
        job = await self.read(job_id)
        names = [keys.job(job_id), keys.events(job_id), keys.document(job.namespace, job.document_id)]
        status = await self._cancel(keys=names, args=[time.time(), _HOUR, job_id])
        if status != "cancelled":
            raise NotCancellable(f"job {job_id!r} is {status}")
        return await self.read(job_id)

    async def depth(self, namespace: str) -> int:
        """Jobs queued or running."""
        return int(await self._redis.xlen(keys.jobs(namespace)))

    async def oldest_age(self, namespace: str) -> float:
        """Seconds since the oldest job still there was accepted; 0 if there is none."""
        return _age(await self._redis.xrange(keys.jobs(namespace), count=1))

    async def dead_letters(self, namespace: str) -> int:
        """Jobs given up."""
        return int(await self._redis.xlen(keys.dead(namespace)))

    async def lengths(self, namespaces: Sequence[str]) -> list[tuple[int, float, int]]:
        """Depth, age of the oldest job and dead letters of each namespace, asked for together."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for namespace in namespaces:
                pipe.xlen(keys.jobs(namespace)).xrange(keys.jobs(namespace), count=1).xlen(keys.dead(namespace))
            answers = await pipe.execute()
        return [(depth, _age(first), dead) for depth, first, dead in zip(*(answers[n::3] for n in range(3)), strict=True)]

    async def follow(
        self, job_id: str, after: str = "0", block_seconds: float = LONGEST_BLOCK_SECONDS
    ) -> AsyncIterator[tuple[str, dict[str, str]] | None]:
        """Events of a job as they happen, with their ids, until it has ended; None after each silence of `block_seconds`.

        A final event need not be the last one: a dead letter may have been retried.
        """
        while True:
            ended = (await self.read(job_id)).final  # asked first: then all of its events are there
            block = None if ended else max(1, int(block_seconds * 1000))
            answer = await self._redis.xread({keys.events(job_id): after}, block=block)
            if not answer:
                if ended:
                    return
                yield None
                continue
            for entry, fields in answer[0][1]:
                after = entry
                yield entry, fields

    async def note(self, job: Job, stage: str) -> None:
        """Tell followers which stage a job is in."""
        fields: Any = {"status": "running", "stage": stage}
        await self._redis.xadd(keys.events(job.job_id), fields, maxlen=_EVENTS_KEPT)

    async def claim(self, tokens: Mapping[str, int], consumer: str, block_seconds: float = 1.0) -> Claim | None:
        """The next job: one that this consumer already holds, or a new one; None if there is none.

        tokens: of the namespaces that the worker may write.

        What is held is always asked for first: after a restart, and when an answer was lost with its connection. (One
        read also delivers an entry of each namespace, of which only the first is returned.)
        A job that has ended meanwhile is acknowledged, not returned.

        Raises:
            Fenced: another worker writes the job's namespace.
        """
        names = {keys.jobs(n): n for n in tokens}
        for start, block in (("0", None), (">", int(block_seconds * 1000))):
            streams = dict.fromkeys(names, start)
            for stream, entries in await self._redis.xreadgroup(keys.GROUP, consumer, streams, count=1, block=block) or []:
                namespace = names[stream]
                for entry, fields in entries:
                    job_id, token = fields["job"], tokens[namespace]
                    job_keys = [keys.job(job_id), keys.events(job_id)]
                    started = await self._start(namespace, token, job_keys, [time.time()])
                    claim = Claim(job_of(dict(zip(started[::2], started[1::2], strict=True))), entry, token)
                    if not claim.job.final:
                        return claim
                    await self.acknowledge(claim)
        return None

    async def end(self, claim: Claim, status: str, **fields: str) -> str:
        """Move a job to a final status unless it has one. Returns the status that it has now. Raises Fenced."""
        assert status in FINAL
        pairs = [part for pair in fields.items() for part in pair]
        job = claim.job
        job_keys = [keys.job(job.job_id), keys.events(job.job_id)]
        return str(await self._end(job.namespace, claim.token, job_keys, [status, time.time(), _HOUR, *pairs]))

    async def acknowledge(self, claim: Claim) -> None:
        """Take a job out of the queue; only after its effect is durable."""
        stream = keys.jobs(claim.job.namespace)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xack(stream, keys.GROUP, claim.entry)
            pipe.xdel(stream, claim.entry)
            await pipe.execute()

    async def bury(self, claim: Claim, error: str) -> str:
        """Give a job up: failed, with its error among the dead letters, and out of the queue.

        If it has ended otherwise, it is only taken out of the queue. Returns the status that it has now. Raises Fenced.
        """
        job, name = claim.job, claim.job.namespace
        job_keys = [keys.job(job.job_id), keys.events(job.job_id), keys.jobs(name), keys.dead(name)]
        return str(await self._bury(name, claim.token, job_keys, [time.time(), _HOUR, error, keys.GROUP, claim.entry]))


def _age(entries: Sequence[tuple[str, Any]]) -> float:
    """Seconds since the first of them was written."""
    return max(0.0, time.time() - int(entries[0][0].split("-")[0]) / 1000) if entries else 0.0


def unknown(job_id: str) -> UnknownJob:
    """The error of a job that is not there."""
    return UnknownJob(f"there is no job {job_id!r}", param="job_id")


def new_id() -> str:
    """Of a job."""
    return f"job-{uuid.uuid4().hex[:20]}"
