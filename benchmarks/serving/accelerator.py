"""What serving and learning take on a GPU, on random weights of real sizes: `python -m benchmarks.serving.accelerator --shape 8b`.

One process, without HTTP: how long a fold and a swap take, how fast steps are with and without graphs, and what learning costs
those who are answered, with a stream each and by turns. It prints one JSON object a line.

Covered: one GPU (a CPU too, to try it). Not covered: other servers (`infold bench serving --device cuda`).
"""

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from adapters.anchors import Anchors
from adapters.base_model import BaseModel
from adapters.config import CurvatureConfig, FoldConfig, LearnConfig, ViewConfig
from adapters.curvature import Curvature, DampedCurvature, measure_curvature
from adapters.delta import DeltaSum
from adapters.fold import FoldReport, fold
from adapters.learner import Learner
from adapters.memory import Memory, of_answer, relearn
from adapters.reflection import rehearse
from adapters.sampling import continue_rows
from adapters.targets import find_targets
from adapters.versioned_linear import BASE, VersionTable
from adapters.views import template_for
from adapters.workspace import Workspace
from benchmarks.serving.per_token import EngineAlone
from benchmarks.serving.random_llama import random_llama
from service.engine import Engine, Limits
from service.metrics import Metrics
from service.turns import Turns

DOCUMENT = (
    "The harbour committee met on Tuesday and agreed that the old bridge over the canal would be painted green before the winter, "
    "that the ferry to the islands would leave an hour earlier from March on, and that Ines Varga would be its first captain."
)
VIEWS, REHEARSED = 2, 24
"""Texts of a fold, as in learning through views."""
PROMPT, ANSWER = 24, 6
"""Tokens of each of them."""
VERSION = "learned"


@dataclass(frozen=True)
class Loaded:
    """A random model with all that both sides need."""

    base: BaseModel
    workspace: Workspace
    table: VersionTable
    curvature: Curvature
    turns: Turns


def build(shape: str, dtype: str, device: str, samples: int) -> Loaded:
    """The model on the device, and its curvature from a little text."""
    model, tokenizer = random_llama(shape, dtype, device)
    model.eval()  # type: ignore[no-untyped-call]
    base = BaseModel(model.requires_grad_(False), tokenizer, f"random {shape}", "0" * 32)
    turns = Turns()
    if base.device.type == "cuda":
        turns.separate(base.device)
    targets = find_targets(base.model)
    workspace = Workspace(base, targets, turns.pace)
    curvature = measure_curvature(workspace, CurvatureConfig(samples=samples, batch=samples, held_out=8))
    return Loaded(base, workspace, VersionTable(base.model, targets), curvature, turns)


def say(what: str, **found: Any) -> None:
    """One line."""
    print(json.dumps({"what": what, **found}), flush=True)


def timed(work: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each call, the device's work included; one more goes before."""
    found = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - started)
    return found[1:]


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """Median and worst."""
    return {"median_ms": round(1e3 * statistics.median(seconds), 3), "worst_ms": round(1e3 * max(seconds), 3)}


def learning(loaded: Loaded, repeats: int) -> Callable[[], None]:
    """How long it takes to fold views, and to learn raw text. Returns what learns such a document again."""
    base, workspace, device = loaded.base, loaded.workspace, loaded.base.device
    started = time.perf_counter()
    damped = DampedCurvature(loaded.curvature, FoldConfig(), device)
    say("damped curvature", seconds=round(time.perf_counter() - started, 2), layers=len(damped.A))
    drawn = torch.Generator().manual_seed(0)
    prompts = torch.randint(10, 16_000, (VIEWS + REHEARSED, PROMPT), generator=drawn).tolist()
    workspace.install(workspace.base_weights)
    said = continue_rows(workspace, prompts, ANSWER, [0.0] * len(prompts))
    recalled = [of_answer(p, a) for p, a in zip(prompts[VIEWS:], said[VIEWS:], strict=True)]
    reports: list[FoldReport] = []

    def one() -> None:
        answers = torch.randint(10, 16_000, (VIEWS, ANSWER), generator=drawn).tolist()
        new: list[Memory] = [of_answer(p, a) for p, a in zip(prompts[:VIEWS], answers, strict=True)]
        workspace.install(workspace.base_weights)
        reports.append(fold(workspace, rehearse(workspace, relearn(workspace, new), recalled), damped, FoldConfig())[1])

    with loaded.turns.learning():
        found = timed(one, device, repeats)
    iterations = statistics.median(r.iterations for r in reports)
    say("fold of 2 views with 24 rehearsed", **milliseconds(found), iterations=iterations, took=sum(r.took for r in reports[1:]))
    config = replace(LearnConfig(), views=ViewConfig(count=0))
    learner = Learner(workspace, loaded.curvature, Anchors((), base.digest), None, template_for(base), config)
    empty = DeltaSum(workspace.base_weights)
    batch = workspace.batch([base.encode(DOCUMENT)])

    def forward() -> None:
        with torch.no_grad():
            workspace.logits(batch)

    with loaded.turns.learning():
        f, found = timed(forward, device, repeats), timed(lambda: learner.learn(DOCUMENT, empty), device, repeats)
    ratio = statistics.median(found) / statistics.median(f)
    say("raw document, guard included", **milliseconds(found), tokens=batch.ids.shape[1], forward_ms=milliseconds(f)["median_ms"])
    say("raw document over one forward pass", ratio=round(ratio, 2))
    return one


def swaps(loaded: Loaded, repeats: int) -> None:
    """How long it takes to put another version where graphs read it."""
    device = loaded.base.device
    loaded.table.install(VERSION, {n: w + 1e-4 for n, w in loaded.workspace.base_weights.items()})
    size = sum(w.nbytes for w in loaded.workspace.base_weights.values())
    order: Iterator[str] = iter([BASE, VERSION] * (repeats + 1))
    found = timed(lambda: loaded.table.swap(next(order)), device, repeats)
    say(
        "swap", median_us=round(1e6 * statistics.median(found), 1), worst_us=round(1e6 * max(found), 1), megabytes=round(size / 1e6)
    )


@contextmanager
def engine(loaded: Loaded, graphs: bool, turns: Turns) -> Iterator[EngineAlone]:
    """One that decodes, and ends."""
    alone = EngineAlone(loaded.base, Engine(loaded.base, loaded.table, turns, Metrics(), Limits(64, 1024, graphs=graphs)))
    try:
        yield alone
    finally:
        alone.stop()


def decoding(loaded: Loaded, streams: list[int], tokens: int) -> None:
    """Tokens per second, with and without graphs."""
    prompts = [f"{n} {DOCUMENT}" for n in range(64)]
    for graphs in (False, True) if loaded.base.device.type == "cuda" else (False,):
        with engine(loaded, graphs, loaded.turns) as alone:
            for count in streams:
                for version in (BASE, VERSION):
                    alone.measure(prompts[:count], count, 8, version)
                    found = alone.measure(prompts[:count], count, tokens, version)
                    say("decoding", graphs=graphs, streams=count, version=version, **rounded(found))


def beside(loaded: Loaded, learn: Callable[[], None], streams: int, tokens: int) -> None:
    """The same while documents are folded one after another: with a stream each, and by turns."""
    prompts = [f"{n} {DOCUMENT}" for n in range(streams)]
    for name, turns in (("a stream each", loaded.turns), ("by turns", Turns())):
        loaded.workspace.pace = turns.pace
        with engine(loaded, True, turns) as alone:
            alone.measure(prompts, streams, 8, VERSION)
            for busy in (False, True, False, True):
                lessons, stop = list[float](), threading.Event()

                def teach(turns: Turns = turns, lessons: list[float] = lessons, stop: threading.Event = stop) -> None:
                    while not stop.is_set():
                        started = time.perf_counter()
                        with turns.learning():
                            learn()
                        lessons.append(time.perf_counter() - started)

                thread = threading.Thread(target=teach) if busy else None
                if thread is not None:
                    thread.start()
                found = alone.measure(prompts, streams, tokens, VERSION)
                stop.set()
                if thread is not None:
                    thread.join()
                learned = {"folds": len(lessons), **milliseconds(lessons)} if lessons else {}
                say("beside learning", how=name, learning=busy, streams=streams, **rounded(found), **learned)
    loaded.workspace.pace = loaded.turns.pace


def rounded(sample: Any) -> dict[str, float]:
    """A sample for a line."""
    found = {k: v for k, v in asdict(sample).items() if v is not None}
    return {k: round(v, 1) if k == "tokens_per_second" else round(v, 5) for k, v in found.items()}


def main() -> None:
    """Everything, in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="1b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--long", type=int, default=1024, help="of an answer beside learning")
    parser.add_argument("--parts", default="decoding,beside", help="that may be left out")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--samples", type=int, default=32)
    given = parser.parse_args()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() and given.device != "cpu" else "cpu"
    started = time.perf_counter()
    loaded = build(given.shape, given.dtype, given.device, given.samples)
    parameters = sum(p.numel() for p in loaded.base.model.parameters())
    seconds = round(time.perf_counter() - started, 1)
    say("built", shape=given.shape, parameters=parameters, dtype=given.dtype, device=gpu, torch=torch.__version__, seconds=seconds)
    streams = [int(part) for part in given.streams.split(",")]
    swaps(loaded, given.repeats)
    if "decoding" in given.parts:
        decoding(loaded, streams, given.tokens)
    learn = learning(loaded, given.repeats)
    if "beside" in given.parts:
        beside(loaded, learn, streams[len(streams) // 2], given.long)
    if gpu != "cpu":
        say("memory", peak_gb=round(torch.cuda.max_memory_allocated() / 1e9, 1))


if __name__ == "__main__":
    main()
