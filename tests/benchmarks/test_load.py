"""The load client counts what a server sends, and tells an answer that ended from one that did not."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from benchmarks.serving.load import Endpoint, Load, Stream, stream

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def chunk(text: str, finish: str | None = None) -> str:
    return json.dumps({"choices": [{"text": text, "finish_reason": finish}]})


@asynccontextmanager
async def answering(status: int, events: Sequence[str], asked: list[dict[str, Any]]) -> AsyncIterator[Endpoint]:
    """A server on loopback that sends these events, whatever it is asked, and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        asked.append(json.loads(await reader.readexactly(length)))
        writer.write(f"HTTP/1.1 {status} Whatever\r\nContent-Type: text/event-stream\r\n\r\n".encode())
        for event in events:
            writer.write(f"data: {event}\n\n".encode())
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1], "/v1/completions", {"model": "m"})


async def one(status: int, *events: str) -> Stream:
    asked: list[dict[str, Any]] = []
    async with answering(status, events, asked) as endpoint:
        found = await stream(endpoint, "News:")
    assert asked == [{"model": "m", "prompt": "News:", "stream": True}]
    return found


async def test_the_servers_own_count_of_tokens_is_taken() -> None:
    usage = json.dumps({"choices": [], "usage": {"completion_tokens": 9}})
    found = await one(200, chunk("a"), chunk("b"), chunk("", "stop"), usage, "[DONE]")
    assert (found.tokens, len(found.gaps), found.ended) == (9, 1, True)
    assert found.first > 0


async def test_without_it_events_with_text_are_counted_and_an_end_needs_no_marker() -> None:
    found = await one(200, chunk("a"), chunk("b"), chunk("c", "length"))
    assert (found.tokens, found.ended) == (3, True)


async def test_an_answer_that_is_cut_off_has_not_ended() -> None:
    found = await one(200, chunk("a"))
    assert (found.tokens, found.ended) == (1, False)


async def test_a_refusal_is_no_answer() -> None:
    found = await one(429)
    assert (found.status, found.tokens, found.ended) == (429, 0, False)
    assert math.isnan(found.first)


def test_a_load_is_the_sum_of_its_streams() -> None:
    found = Load(
        2, 2.0, (Stream(200, 0.5, (0.1, 0.3), 3, True), Stream(200, 0.7, (0.2,), 2, True), Stream(429, math.nan, (), 0, False))
    )
    assert (found.tokens_per_second, found.failed) == (2.5, 1)
    assert (found.gap(0.5), found.gap(1.0), found.first(0.99)) == (0.2, 0.3, 0.7)
