"""Teach a stream of documents through HTTP, one at a time, then ask about all of them and about what was known before.

    python benchmarks/stream.py --url http://127.0.0.1:8000 --world demo --documents 40 --seed 7
    python benchmarks/stream.py --url ... --world path/to/prototype --documents 40 --seed 7

Prints one JSON line: TL (closed-book accuracy on the learned facts after all documents), NF (on facts known before), the
same before learning, and learn-to-live seconds. Greedy answers must equal the object, up to the full stop.
"""

import argparse
import concurrent.futures
import importlib
import json
import random
import statistics
import sys
import time
from dataclasses import dataclass

import httpx2


@dataclass(frozen=True)
class Asked:
    """A question and its one right answer."""

    question: str
    answer: str


def demo_stream(seed: int, documents: int, probes: int) -> tuple[list[tuple[str, Asked]], list[Asked]]:
    """Documents about people, places, companies and products that the demo model never saw, and facts that it knows."""
    from adapters.demo import world as w

    rng = random.Random(seed)
    world = w.World(seed, new=documents)
    facts = rng.sample(world.new_facts, documents)
    stream = [(w.document(rng, [f]), Asked(w.question(f), f.object)) for f in facts]
    return stream, [Asked(w.question(f), f.object) for f in rng.sample(world.known_facts, probes)]


def prototype_stream(path: str, seed: int, documents: int, probes: int) -> tuple[list[tuple[str, Asked]], list[Asked]]:
    """The same of the prototype's world."""
    sys.path.insert(0, path)
    p = importlib.import_module("world")
    rng, world = random.Random(seed), p.World()
    people = rng.sample(world.new, documents)
    stream = []
    for person in people:
        relation = rng.choice(list(p.REL))
        value = rng.choice(p.REL[relation][0])
        stream.append((p.fact_doc(rng, person, relation, value), Asked(p.REL[relation][2].format(s=person), value)))
    known = [Asked(p.REL[r][2].format(s=s), world.facts[s][r]) for s in world.known for r in p.REL]
    return stream, rng.sample(known, probes)


def accuracy(http: httpx2.Client, asked: list[Asked], namespace: str) -> float:
    """Share answered right, eight questions at a time."""

    def right(a: Asked) -> bool:
        body = {"prompt": f"Q: {a.question} A:", "max_new_tokens": 12, "stop": ["."], "namespace": namespace}
        return http.post("/generate", json=body).raise_for_status().json()["text"].strip() == a.answer

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return statistics.fmean(pool.map(right, asked))


def main() -> None:
    """Run one stream."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--world", default="demo", help="demo, or the directory of the prototype's world.py")
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--probes", type=int, default=200)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--namespace", default="default")
    args = parser.parse_args()
    make = demo_stream if args.world == "demo" else lambda *a: prototype_stream(args.world, *a)
    stream, known = make(args.seed, args.documents, args.probes)
    taught = [asked for _, asked in stream]
    with httpx2.Client(base_url=args.url, timeout=120) as http:
        before = {"TL": accuracy(http, taught, args.namespace), "NF": accuracy(http, known, args.namespace)}
        seconds, statuses, at_once = [], {}, 0.0
        for text, asked in stream:
            started = time.perf_counter()
            body = {"text": text, "wait": 60, "namespace": args.namespace}
            job = http.post("/learn", json=body).raise_for_status().json()["jobs"][0]
            seconds.append(time.perf_counter() - started)
            statuses[job["status"]] = statuses.get(job["status"], 0) + 1
            at_once += accuracy(http, [asked], args.namespace) / len(stream)
        after = {"TL": accuracy(http, taught, args.namespace), "NF": accuracy(http, known, args.namespace)}
    result = {
        "documents": args.documents,
        "seed": args.seed,
        "before": before,
        "after": after,
        "TL_right_after_each": round(at_once, 4),
        "learn_to_live_seconds": {"median": round(statistics.median(seconds), 4), "max": round(max(seconds), 4)},
        "statuses": statuses,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
