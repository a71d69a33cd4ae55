"""What learning costs those who are being answered, and they it: streams with and without it, by turns, through HTTP.

    infold serve & python -m benchmarks.while_learning --url http://127.0.0.1:8000 --streams 4

Documents of the demo world are taught one after another while so many streams of 200 tokens are kept running. Prints one JSON line
for learning alone, then one for each phase: tokens per second, milliseconds between tokens (median, 99th percentile, worst),
median learn-to-live seconds; and the ratios of each phase with learning to the one without before it.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2

from benchmarks.learning.streams import KINDS
from benchmarks.learning.worlds import open_world
from benchmarks.serving.load import Endpoint, Load, Stream, stream


@dataclass(frozen=True)
class Phase:
    """What was seen in it."""

    load: Load
    lives: tuple[float, ...]
    """Learn-to-live seconds."""

    def shown(self) -> dict[str, float]:
        """As numbers to print."""
        found: dict[str, float] = {}
        if self.load.streams:
            gaps = {"between_ms": 0.5, "between_p99_ms": 0.99, "worst_ms": 1.0}
            found = {name: round(1000 * self.load.gap(share), 1) for name, share in gaps.items()}
            found["tokens_per_second"] = round(self.load.tokens_per_second, 1)
        if self.lives:
            found |= {"learn_seconds": round(statistics.median(self.lives), 2), "learned": len(self.lives)}
        return found


async def phase(url: str, endpoint: Endpoint, streams: int, documents: Iterator[str] | None, seconds: float) -> Phase:
    """Keep so many streams running, and teach if there are documents."""
    until, answered, lives = time.perf_counter() + seconds, list[Stream](), list[float]()

    async def ask(place: int) -> None:
        for number in itertools.count():
            if time.perf_counter() > until:
                return
            answered.append(await stream(endpoint, f"News {place} {number}:"))

    async def teach() -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=120) as http:
            for text in documents or ():
                if time.perf_counter() > until:
                    return
                started = time.perf_counter()
                (await http.post("/learn", json={"text": text, "wait": 60})).raise_for_status()
                lives.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(ask(place) for place in range(streams)), teach())
    return Phase(Load(streams, time.perf_counter() - started, tuple(answered)), tuple(lives))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="infold-demo")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=12, help="of a phase")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    where = urlsplit(args.url)
    body = {"model": args.model, "max_tokens": args.tokens, "ignore_eos": True, "stream_options": {"include_usage": True}}
    endpoint = Endpoint(where.hostname or "127.0.0.1", where.port or 80, "/v1/completions", body)
    documents = iter([step.text for step in KINDS["facts"](open_world("demo"), args.seed, 1000, 1).steps])

    def run(streams: int, teaching: bool) -> Phase:
        return asyncio.run(phase(args.url, endpoint, streams, documents if teaching else None, args.seconds))

    alone = run(0, True)
    print(json.dumps({"phase": "learning alone"} | alone.shown()), flush=True)
    for _ in range(args.rounds):
        idle, both = run(args.streams, False), run(args.streams, True)
        ratios = {
            "tokens_per_second": both.load.tokens_per_second / idle.load.tokens_per_second,
            "between_p99": both.load.gap(0.99) / idle.load.gap(0.99),
            "learn_seconds": statistics.median(both.lives) / statistics.median(alone.lives),
        }
        print(json.dumps({"phase": "answering alone"} | idle.shown()))
        print(json.dumps({"phase": "both"} | both.shown() | {"ratios": {k: round(v, 2) for k, v in ratios.items()}}), flush=True)


if __name__ == "__main__":
    main()
