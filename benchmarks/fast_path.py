"""What learning a document without views costs, in forward passes of the document (F), measured side by side.

    infold serve --views 0 & python -m benchmarks.fast_path --url http://127.0.0.1:8000

F is a plain forward pass over the document, in this process, on one thread, taken right before each document is posted. Prints one
JSON line of medians: the learner's own stages over F, writing the version durably, the whole way from accepting to serving over F,
and, as the unit of training, a forward and backward pass with gradients of all weights.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import httpx2
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapters.demo import MODEL_PATH
from adapters.demo import world as w


def best_of_three(work: Callable[[], object]) -> float:
    """Seconds."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def forward(model: torch.nn.Module, ids: torch.Tensor) -> None:
    """One forward pass."""
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)


def forward_backward(model: torch.nn.Module, ids: torch.Tensor) -> None:
    """One forward and backward pass."""
    model(input_ids=ids, labels=ids).loss.backward()
    model.zero_grad()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default=str(MODEL_PATH))
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--fillers", type=int, help="sentences beside the fact, for longer documents; default: one to three")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    rng = random.Random(args.seed)
    facts = w.World(args.seed, new=args.documents).one_fact_each
    single, training, learner, publish, live, tokens = [], [], [], [], [], []
    with httpx2.Client(base_url=args.url, timeout=60) as http:
        for fact in facts[: args.documents]:
            text = w.document(rng, [fact], filler_count=args.fillers)
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            tokens.append(ids.shape[1])
            single.append(best_of_three(partial(forward, model, ids)))
            training.append(best_of_three(partial(forward_backward, model, ids)))
            job = http.post("/learn", json={"text": text, "wait": 60}).raise_for_status().json()["jobs"][0]
            live.append(job["finished_at"] - job["accepted_at"])
            seconds = job["report"]["seconds"]
            publish.append(seconds.pop("publish", 0.0))
            learner.append(sum(seconds.values()))
    result = {
        "documents": len(live),
        "tokens_median": statistics.median(tokens),
        "forward_ms": round(1000 * statistics.median(single), 2),
        "forward_backward_over_F": round(statistics.median(training) / statistics.median(single), 2),
        "learner_over_F": round(statistics.median(learner) / statistics.median(single), 2),
        "publish_ms": round(1000 * statistics.median(publish), 2),
        "live_over_F": round(statistics.median(live) / statistics.median(single), 2),
        "live_over_forward_backward": round(statistics.median(live) / statistics.median(training), 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
