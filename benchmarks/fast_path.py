"""What learning a document without views costs, in units of one forward and backward pass over it, measured side by side.

    infold serve --views 0 & python -m benchmarks.fast_path --url http://127.0.0.1:8000

The unit is a plain forward and backward pass over the document with gradients of all weights, in this process, on one
thread, taken right before each document is posted. Prints one JSON line of medians in milliseconds and their ratio.
"""

import argparse
import json
import random
import statistics
import time

import httpx2
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapters.demo import MODEL_PATH
from adapters.demo import world as w


def forward_backward(model: torch.nn.Module, ids: torch.Tensor) -> float:
    """Seconds of one forward and backward pass, the best of three."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        times.append(time.perf_counter() - started)
        model.zero_grad()
    return min(times)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default=str(MODEL_PATH))
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    rng = random.Random(args.seed)
    facts = w.World(args.seed, new=args.documents).one_fact_each
    unit, live, tokens = [], [], []
    stages: dict[str, list[float]] = {}
    with httpx2.Client(base_url=args.url, timeout=60) as http:
        for fact in facts[: args.documents]:
            text = w.document(rng, [fact])
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            tokens.append(ids.shape[1])
            unit.append(forward_backward(model, ids))
            job = http.post("/learn", json={"text": text, "wait": 60}).raise_for_status().json()["jobs"][0]
            live.append(job["finished_at"] - job["accepted_at"])
            for stage, seconds in job["report"]["seconds"].items():
                stages.setdefault(stage, []).append(seconds)
    milliseconds = {stage: round(1000 * statistics.median(s), 2) for stage, s in stages.items()}
    result = {
        "documents": len(live),
        "tokens_median": statistics.median(tokens),
        "forward_backward_ms": round(1000 * statistics.median(unit), 2),
        "learn_to_live_ms": round(1000 * statistics.median(live), 2),
        "ratio": round(statistics.median(live) / statistics.median(unit), 2),
        "stages_ms": milliseconds,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
