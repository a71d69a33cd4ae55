"""Teach a stream of documents through HTTP, one at a time, then ask about all of them and about what was known before.

    python -m benchmarks.stream --url http://127.0.0.1:8000 --world demo --documents 40 --seed 7
    python -m benchmarks.stream --url ... --world path/to/prototype --kind several --documents 40 --seed 7

Prints one JSON line: TL (closed-book accuracy on the learned facts after all documents), NF (on facts known before), of
`--kind moves` the other facts of those who moved, the same before learning, and learn-to-live seconds. Greedy answers must
equal the object, up to the full stop.
"""

import argparse
import concurrent.futures
import json
import statistics
import time
from collections.abc import Sequence

import httpx2

from benchmarks.learning.streams import KINDS, Asked
from benchmarks.learning.worlds import open_world

EDGE = 50
"""Documents at each end whose times are compared."""


def accuracy(http: httpx2.Client, asked: Sequence[Asked], namespace: str, version: str | None = None) -> float | None:
    """Share answered right, eight questions at a time. version: None: the live one."""

    def right(a: Asked) -> bool:
        body = {"prompt": f"Q: {a.question} A:", "max_new_tokens": 14, "stop": ["."], "namespace": namespace, "version": version}
        return bool(http.post("/generate", json=body).raise_for_status().json()["text"].strip() == a.answer)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return statistics.fmean(pool.map(right, asked)) if asked else None


def main() -> None:
    """Run one stream."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--world", default="demo", help="demo, or the directory of the prototype's world.py")
    parser.add_argument("--kind", default="facts", choices=KINDS)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--probes", type=int, default=200)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--namespace", default="default")
    args = parser.parse_args()
    stream = KINDS[args.kind](open_world(args.world), args.seed, args.documents, args.probes)
    with httpx2.Client(base_url=args.url, timeout=120) as http:

        def measure() -> dict[str, float | None]:
            sets = {"TL": stream.asked, "NF": stream.known, "kept": stream.kept}
            return {name: accuracy(http, asked, args.namespace) for name, asked in sets.items()}

        before, seconds, right = measure(), [], []
        statuses: dict[str, int] = {}
        for step in stream.steps:
            started = time.perf_counter()
            body = {"text": step.text, "wait": 60, "namespace": args.namespace}
            job = http.post("/learn", json=body).raise_for_status().json()["jobs"][0]
            seconds.append(time.perf_counter() - started)
            statuses[job["status"]] = statuses.get(job["status"], 0) + 1
            right.append(accuracy(http, step.asked, args.namespace) or 0.0)
        after = measure()
    edge = min(EDGE, len(seconds) // 2) or 1
    result = {
        "kind": args.kind,
        "documents": args.documents,
        "seed": args.seed,
        "before": before,
        "after": after,
        "TL_right_after_each": round(statistics.fmean(right), 4),
        "learn_to_live_seconds": {"median": round(statistics.median(seconds), 4), "max": round(max(seconds), 4)},
        "last_over_first": round(statistics.fmean(seconds[-edge:]) / statistics.fmean(seconds[:edge]), 3),
        "statuses": statuses,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
