"""What learning costs those who are being answered, and they it: streams with and without it, by turns, through HTTP.

Documents of the demo world are taught one after another while so many streams of one length are kept running.
Covered: phases and their ratios. Not covered: starting the server (`cost.py`).
"""

import asyncio
import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2

from benchmarks.learning.streams import KINDS
from benchmarks.learning.worlds import open_world
from benchmarks.serving.load import Endpoint, Load, Stream, stream

DOCUMENTS = 2000
"""More than are learned in the time."""


@dataclass(frozen=True)
class Phase:
    """What was seen while so many streams ran, documents were taught, or both."""

    tokens_per_second: float | None
    gap: float | None
    gap_p99: float | None
    gap_worst: float | None
    """Seconds between tokens: median, 99th percentile, most."""
    live: float | None
    """Median seconds from a document to the version that answers from it."""
    learned: int


@dataclass(frozen=True)
class Comparison:
    """Of one server at one number of streams."""

    streams: int
    learning: Phase
    """Alone."""
    rounds: tuple[tuple[Phase, Phase], ...]
    """Answering alone, and both."""

    def ratio(self, key: str) -> float:
        """Of both over one alone: median of the rounds."""
        alone = [self.learning if key == "live" else idle for idle, _ in self.rounds]
        pairs = zip(alone, self.rounds, strict=True)
        return float(statistics.median(getattr(both, key) / getattr(one, key) for one, (_, both) in pairs))


class Teaching:
    """A server and its streams, and documents for it or for another one."""

    def __init__(self, url: str, model: str, tokens: int, seconds: float, seed: int = 5, taught: str | None = None) -> None:
        """taught: the server that is given the documents; None: the same."""
        where = urlsplit(url)
        body = {"model": model, "max_tokens": tokens, "ignore_eos": True, "stream_options": {"include_usage": True}}
        self._endpoint = Endpoint(where.hostname or "127.0.0.1", where.port or 80, "/v1/completions", body)
        self._taught, self._seconds = taught or url, seconds
        self._documents = iter([step.text for step in KINDS["facts"](open_world("demo"), seed, DOCUMENTS, 1).steps])

    def compare(self, streams: int, rounds: int) -> Comparison:
        """Learning alone, then answering without and with it, by turns."""
        alone = self.phase(0, True)
        return Comparison(streams, alone, tuple((self.phase(streams, False), self.phase(streams, True)) for _ in range(rounds)))

    def phase(self, streams: int, teaching: bool) -> Phase:
        """Keep so many streams running, and teach."""
        return asyncio.run(self._phase(streams, self._documents if teaching else iter(())))

    async def _phase(self, streams: int, documents: Iterator[str]) -> Phase:
        started = time.perf_counter()
        until, answered, lives = started + self._seconds, list[Stream](), list[float]()
        asking = (self._ask(place, until, answered) for place in range(streams))
        await asyncio.gather(*asking, self._teach(documents, until, lives))
        live = statistics.median(lives) if lives else None
        if not answered:
            return Phase(None, None, None, None, live, len(lives))
        found = Load(streams, time.perf_counter() - started, tuple(answered))
        return Phase(found.tokens_per_second, found.gap(0.5), found.gap(0.99), found.gap(1.0), live, len(lives))

    async def _ask(self, place: int, until: float, into: list[Stream]) -> None:
        for number in itertools.count():
            if time.perf_counter() > until:
                return
            into.append(await stream(self._endpoint, f"News {place} {number}:"))

    async def _teach(self, documents: Iterator[str], until: float, into: list[float]) -> None:
        async with httpx2.AsyncClient(base_url=self._taught, timeout=120) as http:
            while time.perf_counter() < until and (text := next(documents, None)) is not None:
                started = time.perf_counter()
                (await http.post("/learn", json={"text": text, "wait": 60})).raise_for_status()
                into.append(time.perf_counter() - started)
