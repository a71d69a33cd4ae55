"""POST documents, follow their jobs, see what would be learned."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from service.errors import InvalidRequest, TooLarge
from service.job import NewDocument
from service.routes.access import Access, MayGenerate, MayLearn
from service.routes.common import RuntimeOf, until_live
from service.runtime import Runtime
from service.schemas import DocumentIn, LearnIn, ScoreIn, job_out

router = APIRouter()


@router.post("/learn", status_code=202)
async def learn(
    runtime: RuntimeOf,
    access: MayLearn,
    body: LearnIn,
    response: Response,
    idempotency_key: Annotated[str | None, Header(max_length=256)] = None,
) -> dict[str, Any]:
    """Accept documents; with `wait`, answer when they are live, or after so many seconds."""
    documents = body.listed()
    namespace = _namespace(access, body, documents)
    key = (
        None
        if idempotency_key is None
        else (idempotency_key, hashlib.sha256(body.model_dump_json(exclude={"wait"}).encode()).hexdigest())
    )
    traceparent = runtime.traces.current
    async with runtime.audit.of(access.key, "learn", namespace) as ids:
        ids += [_name(d) for d in documents]
        with runtime.traces.span("accept", namespace=namespace, documents=len(documents)):
            await asyncio.to_thread(_check_sizes, runtime, documents)
            wanted = [_new(d) for d in documents]
            left = await runtime.left_behind(namespace, [d.document_id for d in wanted])
            jobs = await runtime.queue.accept(namespace, wanted, key, traceparent, left)
    if body.wait:
        jobs, live = await until_live(runtime, jobs, body.wait)
        if live:
            response.status_code = 200
            return {"jobs": [job_out(job) for job in jobs]}
    response.headers["Location"] = f"/learn/{jobs[0].job_id}"
    return {"jobs": [{"job_id": j.job_id, "document_id": j.document_id, "status": j.status} for j in jobs]}


@router.get("/learn/{job_id}")
async def job(access: MayLearn, job_id: str) -> dict[str, Any]:
    """A job and its report."""
    return job_out(await access.job(job_id))


@router.post("/learn/{job_id}/cancel")
async def cancel(runtime: RuntimeOf, access: MayLearn, job_id: str) -> dict[str, Any]:
    """Cancel a job that has not started."""
    job = await access.job(job_id)
    async with runtime.audit.of(access.key, "cancel", job.namespace, job_id):
        return job_out(await runtime.queue.cancel(job_id))


async def _known(access: MayLearn, job_id: str) -> None:
    """Before the answer begins: afterwards an unknown job could not be a 404 any more."""
    await access.job(job_id)


@router.get("/learn/{job_id}/events", response_class=EventSourceResponse, dependencies=[Depends(_known)])
async def events(
    runtime: RuntimeOf, job_id: str, last_event_id: Annotated[str, Header(pattern=r"^\d{1,19}(-\d{1,19})?$")] = "0"
) -> AsyncIterator[ServerSentEvent]:
    """Status and stages as they happen; resumes after Last-Event-ID."""
    async for event in runtime.queue.follow(job_id, last_event_id):
        yield ServerSentEvent(comment="waiting") if event is None else ServerSentEvent(data=event[1], event="job", id=event[0])


@router.post("/score")
async def score(runtime: RuntimeOf, _: MayGenerate, body: ScoreIn) -> dict[str, Any]:
    """What would be learned from a text: its tokens and their weights."""
    await asyncio.to_thread(_check_sizes, runtime, [DocumentIn(text=body.text)])

    def run() -> list[dict[str, Any]]:
        with runtime.turns.learning():
            return [{"text": text, "weight": weight} for text, weight in runtime.learner.score(body.text)]

    async with runtime.scoring:  # one at a time: threads are few, and this one waits for the job that is being learned
        tokens = await asyncio.to_thread(run)
    return {"tokens": tokens, "scorer": "trained" if runtime.scorer_trained else "surprise"}


def _namespace(access: Access, body: LearnIn, documents: list[DocumentIn]) -> str:
    named = {access.namespace(body.namespace if d.namespace is None else d.namespace) for d in documents}
    if len(named) > 1:
        raise InvalidRequest("all documents of one request must go to one namespace", param="namespace")
    return named.pop()


def _check_sizes(runtime: Runtime, documents: list[DocumentIn]) -> None:
    limit = runtime.settings.max_document_tokens
    for document in documents:
        size = len(runtime.base.tokenizer(document.text, add_special_tokens=False, verbose=False)["input_ids"])
        if size > limit:
            raise TooLarge(f"the document has {size} tokens; the limit is {limit}", param="text")


def _name(document: DocumentIn) -> str:
    return document.id or f"doc-{hashlib.sha256(document.text.encode()).hexdigest()[:24]}"


def _new(document: DocumentIn) -> NewDocument:
    sha256 = hashlib.sha256(document.text.encode()).hexdigest()
    return NewDocument(_name(document), document.text, sha256, document.metadata)
