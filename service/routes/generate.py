"""Ask the model, on the version of one's choice."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event

from service.engine import GenerationRequest, Piece
from service.errors import GenerationFailed, InvalidRequest, NotReady
from service.ledger import VersionRecord
from service.routes.common import RuntimeOf
from service.sampler import Sampling
from service.schemas import GenerateIn

router = APIRouter()
DEFAULT_NEW_TOKENS = 128


@router.post("/generate", response_model=None)
async def generate(request: Request, runtime: RuntimeOf, body: GenerateIn) -> dict[str, Any] | StreamingResponse:
    """Text after a prompt; with `stream`, server-sent events of `{"text"}` and a last one with the whole answer's numbers."""
    record = runtime.ledger.resolve(body.namespace, body.version)
    prompt = await asyncio.to_thread(runtime.base.encode, body.prompt)  # a prompt of megabytes takes seconds
    room = runtime.base.context - len(prompt)
    if not prompt or room < 1:
        limit = f"the model's context is {runtime.base.context} tokens"
        raise InvalidRequest("the prompt is empty" if not prompt else f"the prompt has {len(prompt)}; {limit}", param="prompt")
    key = runtime.residency.lease(record.digest)
    if key is None:
        async with runtime.loading:  # one at a time: threads are few, and others must not wait for them
            key = await asyncio.to_thread(runtime.residency.acquire, record.digest)
    wanted = GenerationRequest(
        prompt=tuple(prompt),
        max_new_tokens=body.max_new_tokens or min(DEFAULT_NEW_TOKENS, room),
        sampling=Sampling(body.temperature, body.top_p, body.top_k, body.seed),
        stop=tuple(body.stop or ()),
        version=key,
        on_end=lambda: runtime.residency.release(key),
    )
    pieces = runtime.engine.generate(wanted)
    first = await anext(pieces)  # errors of the request are answered as errors, also when streaming
    _check(first)
    if body.stream:
        return StreamingResponse(_events(pieces, first, len(prompt), record), media_type="text/event-stream")
    text, last = first.text, first
    async with aclosing(pieces):  # which cancels the request if its client has hung up
        while last.finish_reason is None and not await request.is_disconnected():
            last = await anext(pieces)
            text += last.text
    _check(last)
    return {"text": text} | _numbers(last, len(prompt), record)


async def _events(pieces: AsyncIterator[Piece], piece: Piece, prompt_tokens: int, record: VersionRecord) -> AsyncIterator[bytes]:

    while True:
        data = {"text": piece.text}
        if piece.finish_reason is not None:
            data |= _numbers(piece, prompt_tokens, record)
        yield format_sse_event(data_str=json.dumps(data))
        if piece.finish_reason is not None:
            return
        piece = await anext(pieces)


def _check(last: Piece) -> None:
    if last.finish_reason == "cancelled":
        raise NotReady("the server is shutting down", retry_after=5)
    if last.finish_reason == "error":
        raise GenerationFailed("a decode step failed; the server's log has it")


def _numbers(last: Piece, prompt_tokens: int, record: VersionRecord) -> dict[str, Any]:
    return {
        "finish_reason": last.finish_reason,
        "version": record.name,
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": last.tokens},
    }
