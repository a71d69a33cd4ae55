"""How long a server takes to start with many documents learned, against one that starts with none; and what each document costs.

    python -m benchmarks.ledger.startup --documents 10000

Makes a ledger (`synthetic.py`), then starts `infold serve` on it and on an empty directory by turns. Prints one JSON line for the
making, one for each start, and one of medians. Seconds are counted from the start of the process: until /readyz answers, until it
says that the server learns, and until a first document is live, which begins to be waited for then.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from adapters.base_model import load_base_model
from adapters.demo import MODEL_PATH
from benchmarks.ledger.synthetic import Made, make_ledger
from benchmarks.serving.servers import Command, Server

_ENDS = 500
"""Documents at either end that are compared."""
_CITIES = ("Bergen", "Warsaw", "Lisbon", "Oslo", "Vienna", "Prague")


def start(data: Path, log: Path, number: int) -> dict[str, float]:
    """Seconds of one start, to each of its stages, of which the last is to learn what it has not before. The server is ended."""
    begun = time.perf_counter()
    server = Server(
        Command("infold", (str(Path(sys.executable).with_name("infold")), "serve", "--port", "{port}", "--data-dir", str(data))),
        log,
    )
    seconds = {}
    try:
        for stage, part in (("ready", "ready"), ("learning", '"learning":true')):
            server.wait_until("/readyz", part)
            seconds[stage] = time.perf_counter() - begun
        text, posted = f"Zelkan Ottimar lives in {_CITIES[number % len(_CITIES)]}. It rained.", time.perf_counter()
        job = server.post("/learn", {"text": text, "id": f"new-{time.time_ns()}", "wait": 100})["jobs"][0]
        assert job["status"] == "succeeded", job
        seconds["first_document"] = time.perf_counter() - posted
    finally:
        server.end()
    return {stage: round(value, 2) for stage, value in seconds.items()}


def made_of(made: Made) -> dict[str, object]:
    """What making the ledger says."""
    seconds, (none, half, whole) = made.seconds, made.store_bytes
    count = len(seconds) + 1
    ends = min(_ENDS, len(seconds) // 2)
    first, last = statistics.mean(seconds[:ends]), statistics.mean(seconds[-ends:])
    return {
        "documents": count,
        "first_ms": round(1000 * first, 1),
        "last_ms": round(1000 * last, 1),
        "last_over_first": round(last / first, 2),
        "first_median_ms": round(1000 * statistics.median(seconds[:ends]), 1),
        "last_median_ms": round(1000 * statistics.median(seconds[-ends:]), 1),
        "redis_bytes_per_document_first_half": (half - none) // max(1, count // 2),
        "redis_bytes_per_document_second_half": (whole - half) // max(1, count - count // 2),
    }


def medians(starts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each stage."""
    return {stage: round(statistics.median(s[stage] for s in starts), 2) for stage in starts[0]}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="make the ledger there, or start with the one that is there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as scratch:
        data: Path = args.keep or Path(scratch) / "full"
        empty: list[dict[str, float]] = []
        full: list[dict[str, float]] = []
        if not data.exists():
            made = make_ledger(data, load_base_model(str(MODEL_PATH)), args.documents)
            print(json.dumps({"what": "made"} | made_of(made)), flush=True)
        for number in range(args.rounds):
            for what, directory, found in (("empty", Path(scratch) / f"empty-{number}", empty), ("full", data, full)):
                found.append(start(directory, Path(scratch) / "log", number))
                print(json.dumps({"what": what, "round": number} | found[-1]), flush=True)
        print(json.dumps({"what": "medians", "empty": medians(empty), "full": medians(full)}))


if __name__ == "__main__":
    main()
