"""What every route starts from."""

import asyncio
import contextlib
from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic_core import to_json

from service.job import Job
from service.runtime import Runtime


def _runtime(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


RuntimeOf = Annotated[Runtime, Depends(_runtime)]
"""The running server."""


def event(data: Any) -> bytes:
    """A server-sent event. JSON in one line needs no further care, and an event a token should cost little."""
    return b"data: " + to_json(data) + b"\n\n"


LAST_EVENT = b"data: [DONE]\n\n"
"""OpenAI's end of a stream."""


async def until_live(runtime: Runtime, jobs: list[Job], seconds: float) -> tuple[list[Job], bool]:
    """The jobs as they are once all have ended and this server answers from them, or after `seconds`; and which of these it was."""
    live = False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            for job in jobs:  # one after the other: a request holds one connection, however many documents it has
                async for _ in runtime.queue.follow(job.job_id):
                    pass
                ended = await runtime.queue.read(job.job_id)
                if ended.version is not None and not (ended.report or {}).get("shadow"):
                    await runtime.ledger.reached(job.namespace, ended.version)
            live = True
    return [await runtime.queue.read(job.job_id) for job in jobs], live
