"""One method on one stream: learn the documents one at a time, measure at some of them and after all.

Covered: the curve, costs, controls, a fresh process for each run (so that peak memory is its own). Not covered: which
runs make a report (`bench.py`).
"""

import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from adapters.demo import MODEL_PATH
from benchmarks.learning import streams
from benchmarks.learning.ablations import ABLATIONS, Ablated
from benchmarks.learning.ground import Ground
from benchmarks.learning.measure import HeldOut, answers_right, forward_seconds
from benchmarks.learning.methods import METHODS
from benchmarks.learning.worlds import open_world

DEMO = "demo"
"""The model that ships."""
MARKS = (10, 40, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000)
"""Where a curve is measured unless a run says otherwise."""
EDGE = 50
"""Documents at each end whose costs are compared."""


@dataclass(frozen=True)
class Run:
    """What is to be run."""

    model: str
    """`demo`, or directory or hub id of the base model."""
    world: str
    """`demo`, or the directory of a prototype's `world.py`."""
    kind: str
    """Of stream: a key of `streams.KINDS`."""
    documents: int
    seed: int
    method: str
    """A key of `METHODS`."""
    knobs: Mapping[str, float] = field(default_factory=dict)
    switch: str = ""
    """An ablation of infold, a key of `ABLATIONS`; none: the method as it is."""
    probes: int = 200
    """Facts known before that are asked after."""
    marks: tuple[int, ...] = MARKS
    """After how many documents the curve is measured, beside the end."""


@dataclass(frozen=True)
class Mark:
    """The curve at one point. Shares in [0, 1], KL in nats per token."""

    documents: int
    TL: float
    """Of all that was taught so far."""
    NF: float
    kl: float
    perplexity: float


@dataclass(frozen=True)
class Outcome:
    """What came out of a run."""

    run: Run
    base: Mark
    """Before learning: TL is that of guesses."""
    curve: tuple[Mark, ...]
    at_once: float
    """TL of each document right after it was learned."""
    object_first: float | None
    """TL after all, of the facts whose object stands before their subject; None: there are none."""
    subject_first: float | None
    kept: float | None
    """Other facts of the subjects whose facts were replaced; None: none were."""
    shuffled: float
    """TL with the answers shuffled among questions of one kind."""
    seconds: float
    """Median processor seconds per document."""
    forward_seconds: float
    """F: the median, measured after each document."""
    growth: float
    """Cost of the last `EDGE` documents in F over that of the first: a machine gets faster and slower within a run."""
    peak_mb: float
    """Resident memory of the process at its largest."""
    total_seconds: float
    notes: Mapping[str, float]
    """Whatever the method says of itself."""

    @property
    def last(self) -> Mark:
        """After all documents."""
        return self.curve[-1]


def perform(run: Run, cache: Path, progress: Callable[[float], None] = lambda _: None) -> Outcome:
    """Run it, in this process, on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    ground = Ground(str(MODEL_PATH) if run.model == DEMO else run.model, cache)
    stream = streams.KINDS[run.kind](open_world(run.world), run.seed, run.documents, run.probes)
    held_out = HeldOut(ground, stream.held_out)
    started = time.process_time()
    method = Ablated(ground, ABLATIONS[run.switch]) if run.switch else METHODS[run.method](ground, run.knobs)
    prepared = time.process_time() - started

    def share(asked: tuple[streams.Asked, ...]) -> float | None:
        return statistics.fmean(answers_right(method.model, ground, asked, method.prompt)) if asked else None

    def mark(documents: int) -> Mark:
        taught = tuple(a for step in stream.steps[: documents or None] for a in step.asked)
        damage = held_out.damage(method.model)
        return Mark(documents, share(taught) or 0.0, share(stream.known) or 0.0, damage.kl, damage.perplexity)

    base, curve, seconds, forward, at_once = mark(0), [], [], [], []
    for done, step in enumerate(stream.steps, 1):
        started = time.process_time()
        method.learn(step)
        seconds.append(time.process_time() - started)
        forward.append(forward_seconds(ground, step.text))
        at_once += answers_right(method.model, ground, step.asked, method.prompt)
        if done in run.marks or done == run.documents:
            curve.append(mark(done))
        progress(done / run.documents)
    edge = min(EDGE, len(seconds) // 2) or 1
    return Outcome(
        run=run,
        base=base,
        curve=tuple(curve),
        at_once=statistics.fmean(at_once),
        object_first=share(_by_order(stream, True)),
        subject_first=share(_by_order(stream, False)),
        kept=share(stream.kept),
        shuffled=share(streams.shuffled(stream, run.seed)) or 0.0,
        seconds=statistics.median(seconds),
        forward_seconds=statistics.median(forward),
        growth=sum(seconds[-edge:]) / sum(forward[-edge:]) / (sum(seconds[:edge]) / sum(forward[:edge])),
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        total_seconds=sum(seconds),
        notes={"prepared_seconds": prepared} | method.notes(),
    )


def _by_order(stream: streams.Stream, object_first: bool) -> tuple[streams.Asked, ...]:
    pairs = ((a, first) for step in stream.steps for a, first in zip(step.asked, step.object_first, strict=True))
    return tuple(asked for asked, first in pairs if first is object_first)
