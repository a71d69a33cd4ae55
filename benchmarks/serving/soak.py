"""Crowds at once, then half an hour of answering and learning: is everybody answered or refused, and does anything grow?

    python -m benchmarks.serving.soak --minutes 30 --streams 8 --crowd 1000 --crowds 4

Starts a server with the demo model of its own. Prints one JSON line for each crowd, one a minute, and one with what grew between
the fifth minute and the last. Keys of documents and of their jobs are counted apart: there are as many as was learned.
"""

import argparse
import json
import os
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from benchmarks.serving.contenders import demo_servers
from benchmarks.serving.load import Endpoint, load
from benchmarks.serving.servers import Server
from benchmarks.serving.while_learning import Teaching
from service.valkey import EmbeddedValkey

_SETTLED = 5
"""Minutes until caches are full."""
_TOKENS, _CROWD_TOKENS = 200, 32


@dataclass(frozen=True)
class Size:
    """Of the server's process and of its store."""

    resident_mb: float
    threads: int
    files: int
    keys: int
    """Beside those of documents and jobs."""
    document_keys: int


def size(server: Server, data: Path) -> Size:
    """Now."""
    process = Path(f"/proc/{server.pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    with redis.Redis(unix_socket_path=str(EmbeddedValkey(data).socket)) as store:
        found = Counter(b":document:" in key or b":job:" in key for key in store.scan_iter("infold:*", 1000))
    files = len(os.listdir(process / "fd"))
    return Size(int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), files, found[False], found[True])


def crowd(server: Server, model: str, count: int, number: int) -> dict[str, float]:
    """So many streams at once, of other prompts than another crowd's."""
    body = {"model": model, "max_tokens": _CROWD_TOKENS, "ignore_eos": True, "stream_options": {"include_usage": True}}
    endpoint = Endpoint("127.0.0.1", server.port, "/v1/completions", body)
    found = load(endpoint, [f"News {number}, {each}:" for each in range(count)], count)
    statuses = Counter(s.status for s in found.streams)
    shown = {f"answered_{status}": float(many) for status, many in statuses.items()}
    return shown | {
        "ended": sum(s.ended for s in found.streams),
        "seconds": round(found.seconds, 1),
        "first_p99": found.first(0.99),
    }


def main() -> None:
    """Soak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--crowd", type=int, default=1000)
    parser.add_argument("--crowds", type=int, default=1)
    args = parser.parse_args()
    with TemporaryDirectory() as scratch, ExitStack() as ending:
        server = demo_servers(Path(scratch), worker=False, ending=ending)
        model, data = server.get("/v1/models")["data"][0]["id"], Path(scratch) / "store"

        def show(what: str, **more: object) -> Size:
            now = size(server, data)
            print(json.dumps({"what": what, **more} | asdict(now)), flush=True)
            return now

        show("started")
        for number in range(args.crowds):
            show("crowd", **crowd(server, model, args.crowd, number))
        teaching = Teaching(server.url, model, _TOKENS, 60.0)
        settled, started = None, time.monotonic()
        for minute in range(1, args.minutes + 1):
            phase = teaching.phase(args.streams, True)
            now = show("minute", minute=minute, tokens_per_second=phase.tokens_per_second, live=phase.live, learned=phase.learned)
            settled = now if minute <= _SETTLED or settled is None else settled
        if settled is not None:
            grown = {key: value - asdict(settled)[key] for key, value in asdict(now).items()}
            print(json.dumps({"what": "grown", "minutes": round((time.monotonic() - started) / 60 - _SETTLED, 1)} | grown))


if __name__ == "__main__":
    main()
