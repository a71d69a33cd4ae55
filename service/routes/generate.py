"""Ask the model, on the version of one's choice."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from service.answers import Answer, begin, encode
from service.errors import ServiceError, error_of
from service.generation import Piece, Sampling, Wanted
from service.ledger import VersionRecord
from service.routes.common import RuntimeOf, event
from service.schemas import GenerateIn

router = APIRouter()
DEFAULT_NEW_TOKENS = 128


@router.post("/generate", response_model=None)
async def generate(request: Request, runtime: RuntimeOf, body: GenerateIn) -> dict[str, Any] | StreamingResponse:
    """Text after a prompt; with `stream`, server-sent events of `{"text"}` and a last one with the whole answer's numbers."""
    record = runtime.ledger.resolve(body.namespace, body.version)
    prompt = await encode(runtime, body.prompt)
    most = body.max_new_tokens or min(DEFAULT_NEW_TOKENS, runtime.base.context - len(prompt))
    sampling = Sampling(body.temperature, body.top_p, body.top_k, body.seed)
    answer = await begin(runtime, record, Wanted(body.namespace, prompt, most, sampling, tuple(body.stop or ())))
    if body.stream:
        return StreamingResponse(_events(answer, record), media_type="text/event-stream")
    text, last = "", answer.first
    async with aclosing(answer.pieces()) as pieces:  # which cancels the request if its client has hung up
        async for last in pieces:
            text += last.text
            if last.finish_reason is None and await request.is_disconnected():
                break
    return {"text": text} | _numbers(last, answer, record)


async def _events(answer: Answer, record: VersionRecord) -> AsyncIterator[bytes]:
    try:
        async with aclosing(answer.pieces()) as pieces:
            async for piece in pieces:
                data: dict[str, Any] = {"text": piece.text}
                if piece.finish_reason is not None:
                    data |= _numbers(piece, answer, record)
                yield event(data)
    except ServiceError as error:  # too late for a status
        yield event(error_of(error))


def _numbers(last: Piece, answer: Answer, record: VersionRecord) -> dict[str, Any]:
    return {
        "finish_reason": last.finish_reason,
        "version": record.name,
        "usage": {"prompt_tokens": len(answer.wanted.prompt), "completion_tokens": last.tokens},
    }
