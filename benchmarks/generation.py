"""Tokens per second on the base model's version and on a learned one, side by side, through HTTP.

    infold serve & python -m benchmarks.generation --url http://127.0.0.1:8000

Rounds alternate between the versions, so that both see the same machine. Prints one JSON line per concurrency: the median over
rounds of each version's tokens per second, and the median ratio of neighbouring rounds.
"""

import argparse
import concurrent.futures
import json
import statistics
import time

import httpx2


def tokens_per_second(http: httpx2.Client, version: str, concurrent: int, requests: int, tokens: int) -> float:
    """Of `requests` greedy requests, `concurrent` at a time."""

    def one(number: int) -> int:
        body = {
            "prompt": f"News number {number}:",
            "max_new_tokens": tokens,
            "temperature": 1.0,
            "seed": number,
            "version": version,
        }
        usage = http.post("/generate", json=body).raise_for_status().json()["usage"]
        return int(usage["completion_tokens"])

    started = time.perf_counter()
    with concurrent_pool(concurrent) as pool:
        written = sum(pool.map(one, range(requests)))
    return written / (time.perf_counter() - started)


def concurrent_pool(workers: int) -> concurrent.futures.ThreadPoolExecutor:
    """Threads that each hold one request."""
    return concurrent.futures.ThreadPoolExecutor(workers)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=100)
    args = parser.parse_args()
    with httpx2.Client(base_url=args.url, timeout=120) as http:
        text = "Zora Quill lives in Bergen."
        live = http.post("/learn", json={"text": text, "wait": 60}).raise_for_status().json()["jobs"][0]["version"]
        for concurrency, requests in ((1, 6), (16, 48)):
            speeds: dict[str, list[float]] = {"v0": [], live: []}
            for number in range(-1, args.rounds):
                for version in ("v0", live) if number % 2 else (live, "v0"):
                    speed = tokens_per_second(http, version, concurrency, requests, args.tokens)
                    if number >= 0:  # the first round warms up
                        speeds[version].append(speed)
            ratios = [a / b for a, b in zip(speeds[live], speeds["v0"], strict=True)]
            shown = {version: round(statistics.median(s)) for version, s in speeds.items()}
            print(json.dumps({"concurrent": concurrency, "tokens_per_second": shown, "ratio": round(statistics.median(ratios), 3)}))


if __name__ == "__main__":
    main()
