"""Load on a server of the OpenAI API: so many streams at once, and when each of their tokens came.

A small client on bare sockets, so that it takes little of the cores that the server under test runs on. Covered: streamed
completions over HTTP on loopback. Not covered: starting servers (`servers.py`), tables (`report.py`).
"""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_PATIENCE = 600.0
"""Seconds that one stream may take."""
_LINE = 1 << 20
"""Most bytes of one event."""


@dataclass(frozen=True)
class Endpoint:
    """Where requests go, and what all of them say."""

    host: str
    port: int
    path: str
    body: Mapping[str, Any]
    chat: bool = False
    """Whether the prompt goes as a message."""

    def request(self, prompt: str) -> bytes:
        """One request, as bytes on the wire."""
        asked = {"messages": [{"role": "user", "content": prompt}]} if self.chat else {"prompt": prompt}
        body = json.dumps({**self.body, **asked, "stream": True}).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nContent-Type: application/json\r\n"
            f"Accept: text/event-stream\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(frozen=True)
class Stream:
    """What came of one request."""

    status: int
    first: float
    """Seconds until the first event with text."""
    gaps: tuple[float, ...]
    """Seconds between events, one of which is a token or a few."""
    tokens: int
    """As the server counts them, or else events with text."""
    ended: bool
    """Whether it came to its end."""


@dataclass(frozen=True)
class Load:
    """What came of many."""

    concurrency: int
    seconds: float
    streams: tuple[Stream, ...]

    @property
    def failed(self) -> int:
        """Streams without an end."""
        return sum(not s.ended for s in self.streams)

    @property
    def tokens_per_second(self) -> float:
        """Of all streams together."""
        return sum(s.tokens for s in self.streams) / self.seconds

    def first(self, quantile: float) -> float:
        """Seconds to the first token."""
        return _quantile([s.first for s in self.streams if s.ended], quantile)

    def gap(self, quantile: float) -> float:
        """Seconds between tokens."""
        return _quantile([gap for s in self.streams for gap in s.gaps], quantile)


def load(endpoint: Endpoint, prompts: Sequence[str], concurrency: int) -> Load:
    """Send all prompts, `concurrency` at a time."""
    return asyncio.run(_load(endpoint, prompts, concurrency))


async def _load(endpoint: Endpoint, prompts: Sequence[str], concurrency: int) -> Load:
    left, streams = iter(prompts), list[Stream]()
    started = time.perf_counter()
    await asyncio.gather(*(_work(endpoint, left, streams) for _ in range(concurrency)))
    return Load(concurrency, time.perf_counter() - started, tuple(streams))


async def _work(endpoint: Endpoint, left: Iterator[str], into: list[Stream]) -> None:
    for prompt in left:
        into.append(await stream(endpoint, prompt))


async def stream(endpoint: Endpoint, prompt: str) -> Stream:
    """One request from its first byte to its last."""
    started = time.perf_counter()
    times: list[float] = []
    counted, status, ended = None, 0, False
    async with asyncio.timeout(_PATIENCE):
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, limit=_LINE)
        try:
            writer.write(endpoint.request(prompt))
            status = int((await reader.readline()).split()[1])
            while line := await reader.readline():
                if not line.startswith(b"data:"):
                    continue
                now, data = time.perf_counter(), line[5:].strip()
                if data == b"[DONE]":
                    ended = True
                    break
                event = json.loads(data)
                counted = (event.get("usage") or {}).get("completion_tokens", counted)
                ended = ended or any(c.get("finish_reason") for c in event.get("choices", ()))
                if _has_text(event):
                    times.append(now)
        finally:
            writer.close()
    gaps = tuple(b - a for a, b in pairwise(times))
    first = times[0] - started if times else float("nan")
    return Stream(status, first, gaps, len(times) if counted is None else counted, ended and status == 200)


def _has_text(event: Mapping[str, Any]) -> bool:
    return any(c.get("text") or (c.get("delta") or {}).get("content") for c in event.get("choices", ()))


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
