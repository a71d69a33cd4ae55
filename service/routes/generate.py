"""Ask the model, on the version of one's choice."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from adapters.errors import AdapterError
from service.answers import Answer, begin, encode
from service.errors import ServiceError, error_of
from service.generation import Piece, Sampling, Wanted
from service.routes.access import MayGenerate
from service.routes.common import RuntimeOf, event
from service.runtime import Runtime
from service.schemas import GenerateIn
from service.version_record import VersionRecord

router = APIRouter()
DEFAULT_NEW_TOKENS = 128


@router.post("/generate", response_model=None)
async def generate(
    request: Request, runtime: RuntimeOf, access: MayGenerate, body: GenerateIn
) -> dict[str, Any] | StreamingResponse:
    """Text after a prompt; with `stream`, server-sent events of `{"text"}` and a last one with the whole answer's numbers."""
    namespace = access.namespace(body.namespace)
    record = runtime.ledger.resolve(namespace, body.version)
    prompt = await encode(runtime, body.prompt)
    most = body.max_new_tokens or min(DEFAULT_NEW_TOKENS, runtime.base.context - len(prompt))
    sampling = Sampling(body.temperature, body.top_p, body.top_k, body.seed)
    scored = 0 if body.explain else None  # which tokens were written is known of scored ones
    wanted = Wanted(namespace, prompt, most, sampling, tuple(body.stop or ()), alternatives=scored)
    answer = await begin(runtime, record, wanted)
    if body.stream:
        return StreamingResponse(_events(runtime, answer, record), media_type="text/event-stream")
    text, tokens, last = "", list[int](), answer.first
    async with aclosing(answer.pieces()) as pieces:  # which cancels the request if its client has hung up
        async for last in pieces:
            text += last.text
            tokens += _tokens(last)
            if last.finish_reason is None and await request.is_disconnected():
                break
    return {"text": text} | _numbers(last, answer, record) | await _sources(runtime, answer, record, tokens)


async def _events(runtime: Runtime, answer: Answer, record: VersionRecord) -> AsyncIterator[bytes]:
    tokens: list[int] = []
    try:
        async with aclosing(answer.pieces()) as pieces:
            async for piece in pieces:
                tokens += _tokens(piece)
                data: dict[str, Any] = {"text": piece.text}
                if piece.finish_reason is not None:
                    data |= _numbers(piece, answer, record) | await _sources(runtime, answer, record, tokens)
                yield event(data)
    except (ServiceError, AdapterError) as error:  # too late for a status
        yield event(error_of(error))


async def _sources(runtime: Runtime, answer: Answer, record: VersionRecord, tokens: Sequence[int]) -> dict[str, Any]:
    """What the answer's tokens come from, if that was asked for."""
    wanted = answer.wanted
    if wanted.alternatives is None:
        return {}
    names = runtime.ledger.names(wanted.namespace)
    async with runtime.explaining:
        found = await asyncio.to_thread(runtime.explainer.sources, record.digest, wanted.prompt, tokens, names)
    return {"sources": [asdict(source) for source in found]}


def _tokens(piece: Piece) -> list[int]:
    return [scored.token for scored in piece.scored]


def _numbers(last: Piece, answer: Answer, record: VersionRecord) -> dict[str, Any]:
    return {
        "finish_reason": last.finish_reason,
        "version": record.name,
        "usage": {"prompt_tokens": len(answer.wanted.prompt), "completion_tokens": last.tokens},
    }
