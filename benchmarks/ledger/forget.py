"""Is a document that was taken back forgotten, and are all others still known? Through HTTP, on a learned stream.

    python -m benchmarks.ledger.forget --seed 7 --documents 200 --forgets 50 [--exact]
    python -m benchmarks.ledger.forget --seed 7 --documents 200 --forgets 50 --url http://127.0.0.1:8000 --namespace default

Starts a server with the demo model of its own unless it is given one, whose namespace must be empty or hold this very stream. Takes
documents back one after the other, each on top of what the ones before it left. Prints one JSON line: the share of their facts that
is answered by the base model, with the documents, and once they are all gone; the same of all others; and seconds.
"""

import argparse
import json
import random
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2

from benchmarks.learning.streams import facts
from benchmarks.learning.worlds import open_world
from benchmarks.ledger.blame import teach
from benchmarks.serving.contenders import demo_servers
from benchmarks.stream import accuracy


def main() -> None:
    """Learn, forget, ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--forgets", type=int, default=50)
    parser.add_argument("--exact", action="store_true", help="learn anew what came after each")
    parser.add_argument("--url", help="of a server that runs; none: one is started")
    parser.add_argument("--namespace", default="default")
    args = parser.parse_args()
    stream = facts(open_world("demo"), args.seed, args.documents, 0)
    chosen = random.Random(args.seed).sample(range(args.documents), args.forgets)
    gone = [asked for n in chosen for asked in stream.steps[n].asked]
    left = [asked for n, step in enumerate(stream.steps) if n not in chosen for asked in step.asked]
    with ExitStack() as ending:
        url = args.url or demo_servers(Path(ending.enter_context(TemporaryDirectory())), worker=False, ending=ending).url
        http = ending.enter_context(httpx2.Client(base_url=url, timeout=660))
        base = accuracy(http, gone, args.namespace, "v0")
        teach(http, stream, args.namespace)
        before = accuracy(http, gone, args.namespace), accuracy(http, left, args.namespace)
        seconds, reports = [], []
        for number in chosen:
            started = time.perf_counter()
            query = {"namespace": args.namespace, "exact": args.exact, "wait": 600}
            job = http.delete(f"/documents/doc-{number:03}", params=query).raise_for_status().json()
            assert job["status"] == "succeeded", job
            seconds.append(time.perf_counter() - started)
            reports.append(job["report"])
        after = accuracy(http, gone, args.namespace), accuracy(http, left, args.namespace)
    result = {
        "seed": args.seed,
        "documents": args.documents,
        "forgets": args.forgets,
        "exact": args.exact,
        "forgotten": {"base": base, "before": before[0], "after": after[0]},
        "others": {"before": before[1], "after": after[1]},
        "left_by_report": sum(report["left"] for report in reports),
        "seconds": round(statistics.median(seconds), 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
