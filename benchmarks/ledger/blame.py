"""Does an answer name the document that taught it, and what does explaining cost? Through HTTP, on a learned stream.

    python -m benchmarks.ledger.blame --seed 7 --documents 200
    python -m benchmarks.ledger.blame --seed 7 --documents 200 --url http://127.0.0.1:8000 --namespace default

Starts a server with the demo model of its own unless it is given one, whose namespace must be empty or hold this very stream: what
it has learned is not learned again. Prints one JSON line: facts learned and answered rightly, the share of those whose own document
is the first source, or among the first three; and the time of a whole
call with `explain` over the same without, by turns, for `--tokens` tokens after the beginning of each document.
"""

import argparse
import json
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2

from benchmarks.learning.streams import Stream, facts
from benchmarks.learning.worlds import open_world
from benchmarks.serving.contenders import demo_servers

_BEGINNING = 6
"""Words of a document that it is to be continued from."""


def teach(http: httpx2.Client, stream: Stream, namespace: str) -> list[str]:
    """Learn all documents, one at a time. Returns what became of each."""
    statuses = []
    for number, step in enumerate(stream.steps):
        body = {"text": step.text, "id": f"doc-{number:03}", "wait": 120, "namespace": namespace}
        statuses.append(http.post("/learn", json=body).raise_for_status().json()["jobs"][0]["status"])
    return statuses


def ranks(http: httpx2.Client, stream: Stream, namespace: str) -> list[int | None]:
    """Of each fact that is answered rightly: which place its document has among the sources, from 0; None: it is not among them."""
    found: list[int | None] = []
    for number, step in enumerate(stream.steps):
        for asked in step.asked:
            answer = ask(http, f"Q: {asked.question} A:", namespace, 14, explain=True)
            if answer["text"].strip() == asked.answer:
                named = [source["document_id"] for source in answer["sources"]]
                found.append(named.index(f"doc-{number:03}") if f"doc-{number:03}" in named else None)
    return found


def cost(http: httpx2.Client, stream: Stream, namespace: str, tokens: int) -> dict[str, float]:
    """Seconds of a call with and without explaining, each prompt once with each, taking turns in who is first."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    written = []
    for number, step in enumerate(stream.steps):
        prompt = " ".join(step.text.split()[:_BEGINNING])
        for explain in (number % 2 == 0, number % 2 == 1):
            started = time.perf_counter()
            answer = ask(http, prompt, namespace, tokens, explain, stop=[])
            seconds[explain].append(time.perf_counter() - started)
            written.append(answer["usage"]["completion_tokens"])
    plain, explained = (statistics.median(seconds[explain]) for explain in (False, True))
    return {
        "tokens": statistics.fmean(written),
        "plain_ms": round(1000 * plain, 2),
        "explained_ms": round(1000 * explained, 2),
        "ratio": round(explained / plain, 3),
    }


def ask(
    http: httpx2.Client, prompt: str, namespace: str, tokens: int, explain: bool, stop: list[str] | str = "."
) -> dict[str, Any]:
    """One answer."""
    body = {"prompt": prompt, "max_new_tokens": tokens, "stop": stop, "namespace": namespace, "explain": explain}
    return dict(http.post("/generate", json=body).raise_for_status().json())


def share(places: list[int | None], first: int) -> float | None:
    """Of those that are among the `first`."""
    return round(statistics.fmean(p is not None and p < first for p in places), 4) if places else None


def main() -> None:
    """Learn, ask, time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--url", help="of a server that runs; none: one is started")
    parser.add_argument("--namespace", default="default")
    args = parser.parse_args()
    stream = facts(open_world("demo"), args.seed, args.documents, 0)
    with ExitStack() as ending:
        url = args.url or demo_servers(Path(ending.enter_context(TemporaryDirectory())), worker=False, ending=ending).url
        http = ending.enter_context(httpx2.Client(base_url=url, timeout=300))
        statuses = teach(http, stream, args.namespace)
        places = ranks(http, stream, args.namespace)
        result = {
            "seed": args.seed,
            "documents": args.documents,
            "succeeded": statuses.count("succeeded"),
            "answered": len(places),
            "first": share(places, 1),
            "first_three": share(places, 3),
            "cost": cost(http, stream, args.namespace, args.tokens),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
