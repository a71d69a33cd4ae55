"""A prompt's way to an answer: room in the context, leased weights, the engine; several answers as one stream.

Covered: what /generate and the OpenAI routes share. Not covered: bodies and shapes (`schemas.py`, `openai_bodies.py`,
`openai_shapes.py`), decoding (`engine.py`).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from service.errors import GenerationFailed, InvalidRequest, NotReady
from service.generation import Piece, Wanted
from service.runtime import Runtime
from service.version_record import VersionRecord


@dataclass(frozen=True)
class Answer:
    """One answer on its way: its first piece is there."""

    wanted: Wanted
    first: Piece
    _rest: AsyncGenerator[Piece, None]
    _ended: Callable[[Piece], None]

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """All pieces, the first included; leaving cancels the request.

        Raises:
            NotReady, GenerationFailed: it was cut short by the server.
        """
        async with aclosing(self._rest):
            last = self.first
            while last.finish_reason is None:
                yield last
                last = await anext(self._rest)
                _check(last)
            self._ended(last)
            yield last

    async def cancel(self) -> None:
        """Nobody wants it any more."""
        await self._rest.aclose()


async def encode(runtime: Runtime, prompt: str) -> tuple[int, ...]:
    """Token ids of a prompt that leaves room for an answer.

    Raises:
        InvalidRequest: it is empty, or as long as the context.
    """
    return fitting(runtime, await asyncio.to_thread(runtime.base.encode, prompt))  # megabytes take seconds


def fitting(runtime: Runtime, prompt: Sequence[int], param: str = "prompt") -> tuple[int, ...]:
    """`prompt`, if it leaves room for an answer. Raises InvalidRequest."""
    if not prompt or len(prompt) >= runtime.base.context:
        limit = f"the model's context is {runtime.base.context} tokens"
        raise InvalidRequest(f"the prompt has {len(prompt)} tokens; {limit}" if prompt else "the prompt is empty", param=param)
    return tuple(prompt)


async def begin(runtime: Runtime, record: VersionRecord, wanted: Wanted) -> Answer:
    """Put one request to the engine, on leased weights, and wait for its first piece.

    Raises:
        InvalidRequest, QueueFull, NotReady, GenerationFailed
    """
    began, traces = time.time(), runtime.traces
    key = runtime.residency.lease(record.digest)
    if key is None:
        async with runtime.loading:  # one at a time: threads are few, and others must not wait for them
            key = await asyncio.to_thread(runtime.residency.acquire, record.digest)
    rest = runtime.engine.generate(wanted, key, lambda: runtime.residency.release(key))
    first = await anext(rest)  # errors of the request are answered as errors, also when streaming
    _check(first)
    traces.first_token(wanted.namespace, record.name, began)
    return Answer(wanted, first, rest, partial(traces.answer, wanted.namespace, record.name))


async def begin_all(runtime: Runtime, record: VersionRecord, wanted: Sequence[Wanted]) -> list[Answer]:
    """Begin several at once: all of them or none. Raises as `begin`."""
    begun = await asyncio.gather(*(begin(runtime, record, one) for one in wanted), return_exceptions=True)
    failed = next((one for one in begun if isinstance(one, BaseException)), None)
    answers = [one for one in begun if isinstance(one, Answer)]
    if failed is not None:
        for answer in answers:
            await answer.cancel()
        raise failed
    return answers


async def merged(answers: Sequence[Answer]) -> AsyncGenerator[tuple[int, Piece], None]:
    """Pieces of all answers as they come, each with the place of its answer; leaving cancels all. Raises as `Answer.pieces`."""
    if len(answers) == 1:  # nothing to merge
        async with aclosing(answers[0].pieces()) as pieces:
            async for piece in pieces:
                yield 0, piece
        return
    arrived: asyncio.Queue[tuple[int, Piece] | Exception] = asyncio.Queue()

    async def pump(place: int, answer: Answer) -> None:
        try:
            async with aclosing(answer.pieces()) as pieces:
                async for piece in pieces:
                    arrived.put_nowait((place, piece))
        except Exception as error:
            arrived.put_nowait(error)

    pumps = [asyncio.create_task(pump(place, answer)) for place, answer in enumerate(answers)]
    try:
        running = len(answers)
        while running:
            found = await arrived.get()
            if isinstance(found, Exception):
                raise found
            yield found
            running -= found[1].finish_reason is not None
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


def _check(piece: Piece) -> None:
    if piece.finish_reason == "cancelled":
        raise NotReady("the server is shutting down", retry_after=5)
    if piece.finish_reason == "error":
        raise GenerationFailed("a decode step failed; the server's log has it")
