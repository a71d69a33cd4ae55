"""The LAMA-CKL protocol of Train-Attention (Seo, Lee, Yeo 2024), for any causal LM and any method of the benchmark.

The evidence texts of To-Learn are learned, epoch after epoch; Not-to-Forget is never learned. Before and after each epoch
both are asked: the score of a row is the share of its object's tokens that are the likeliest after the true tokens before
them, the score of a set the mean over rows. Reported is the first epoch with the highest To-Learn ("Top Acc"), with
Not-to-Forget of that same epoch ("NF Acc") and the sum of both ("Total Knowledge"). This is what the authors'
`evaluation_run.py`, `scripts/eval/lamackl` and `observation_lamackl.ipynb` do (github.com/ybseo-academy/TAALM): 30 epochs,
texts cut at 512 tokens, the descriptive form, the rows in one shuffled order that is the same in each epoch.

Covered: To-Learn, Not-to-Forget, Total and their curve; the choice of rows that fit the model at hand (`tailored`).
Not covered: the loss of the objects, which the authors log and do not report; batches, GPUs.
What To-Learn does not tell apart: knowing facts, and knowing which answers are likely. Saying of each relation its commonest
object is right for .448 of every second published row of To-Learn; Train-Attention's published Top Acc is .429.

Departures. One document at a time: the authors take batches of 64 texts (8 on each of 8 GPUs), so that one of their epochs
has 8 steps of the optimizer. One step on each document is an epoch here for methods that count steps, unless knobs say
otherwise, and the optimizer starts anew with each document. Float32 and the methods' own ranks and rates instead of QLoRA (4
bit, rank 64, dropout .1, rate 1e-4). Mix-review reviews text sampled from the base model: the authors' reviews the evidence of
Not-to-Forget itself. The object's tokens are those after the tokens that prompt and task have in common: the authors search the
task for the object tokenised alone, which finds nothing where a tokeniser writes the space before a word into its token. Their
figures are for 500 rows a set, of which Llama-2-7B and TinyLlama get all wrong or all right; of other models see `tailored`.

Infold has no epochs: what it knows it does not learn again. In epoch k it is given every document again; of the views that it
then writes (partly sampled, so not always the same) it learns those that it does not answer yet, and a document with none
such changes nothing. A document of which it can write no view is learned as raw text each time, until its loss is low enough.

Oracle methods are told prompt, object and subject, and themselves put `Q:` and `A:` around the prompt, which the published
task does not have. Controls that keep documents need one epoch only, and are asked in their own form where they show one.
"""

import random
import statistics
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path

import torch
from torch import nn

from adapters.base_model import BaseModel
from benchmarks.learning.ground import Ground
from benchmarks.learning.lama import FORMS, LamaCkl, Row, UnreadableSet, read_lama
from benchmarks.learning.methods import METHODS, Knobs, Method
from benchmarks.learning.streams import Asked, Step

TOGETHER = 8
"""Tasks asked in one forward pass, as published."""


@dataclass(frozen=True)
class LamaRun:
    """What is to be run; the defaults are as published."""

    model: str
    """Directory or hub id of the base model."""
    data: str
    """Directory of the JSONL files."""
    method: str
    """A key of `METHODS`."""
    knobs: Mapping[str, float] = field(default_factory=dict)
    form: str = "descriptive"
    rows: int | None = None
    """Of each set, the first so many; None: all."""
    tailored: bool = False
    """Of these, only rows that fit the model: see `tailored`."""
    epochs: int = 30
    longest: int = 512
    """Tokens of an evidence text that are learned."""
    seed: int = 42


@dataclass(frozen=True)
class Epoch:
    """Scores in [0, 1] after so many epochs; 0: before learning."""

    epoch: int
    to_learn: float
    not_to_forget: float
    seconds: float
    """Of processor time that learning took in this epoch."""

    @property
    def total(self) -> float:
        """ "Total Knowledge"."""
        return self.to_learn + self.not_to_forget


@dataclass(frozen=True)
class LamaOutcome:
    """What came out of a run."""

    run: LamaRun
    """With the knobs that it had."""
    curve: tuple[Epoch, ...]
    """From epoch 0 on."""
    best: Epoch
    """By the published rule."""
    to_learn_rows: int
    not_to_forget_rows: int
    notes: Mapping[str, float]
    """Whatever the method says of itself."""


@dataclass(frozen=True)
class Task:
    """A prompt, and what must follow it."""

    prompt: str
    object: str


def perform(run: LamaRun, cache: Path, progress: Callable[[float], None] = lambda _: None) -> LamaOutcome:
    """Run it, in this process, on one thread.

    Raises:
        UnreadableSet: see `read_lama` and `tailored`.
    """
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    lama = read_lama(Path(run.data), run.form, run.rows)
    ground = Ground(run.model, cache)
    lama = tailored(lama, ground) if run.tailored else lama
    run = replace(run, knobs=_knobs(run))
    started = time.process_time()
    method = METHODS[run.method](ground, run.knobs)
    prepared = time.process_time() - started
    steps = documents(lama, ground.base, run.longest, method.uses_oracle)
    random.Random(f"lama-ckl {run.seed}").shuffle(steps)
    curve = [_asked(0, 0.0, method, lama)]
    for epoch in range(1, run.epochs + 1):
        started = time.process_time()
        for done, step in enumerate(steps, 1):
            method.learn(step)
            progress((epoch - 1 + done / len(steps)) / run.epochs)
        curve.append(_asked(epoch, time.process_time() - started, method, lama))
    notes = {"prepared_seconds": prepared} | method.notes()
    return LamaOutcome(run, tuple(curve), best_epoch(curve), len(lama.to_learn), len(lama.not_to_forget), notes)


def best_epoch(curve: Sequence[Epoch]) -> Epoch:
    """The first with the highest To-Learn, whatever became of Not-to-Forget: the published rule."""
    return max(curve, key=lambda e: e.to_learn)


def tailored(lama: LamaCkl, ground: Ground) -> LamaCkl:
    """Only rows that fit this base model, as the authors choose rows for theirs: of To-Learn those of which it gets no token right
    in either form, of Not-to-Forget those that it gets all right in the form that is asked.

    Raises:
        UnreadableSet: no row of a set fits.
    """

    def scores(rows: Sequence[Row], form: str) -> list[float]:
        return object_accuracy(ground.base.model, ground, [Task(row.prompts[form], row.object) for row in rows])

    best = [max(found) for found in zip(*(scores(lama.to_learn, form) for form in FORMS), strict=True)]
    new = tuple(row for row, score in zip(lama.to_learn, best, strict=True) if score == 0)
    sure = scores(lama.not_to_forget, lama.form)
    known = tuple(row for row, score in zip(lama.not_to_forget, sure, strict=True) if score == 1)
    if not new or not known:
        raise UnreadableSet(
            f"{ground.source} gets {len(new)} of {len(lama.to_learn)} rows of To-Learn all wrong and {len(known)} of "
            f"{len(lama.not_to_forget)} rows of Not-to-Forget all right; at least one of each is needed"
        )
    return replace(lama, to_learn=new, not_to_forget=known)


@torch.no_grad()
def object_accuracy(model: nn.Module, ground: Ground, tasks: Sequence[Task]) -> list[float]:
    """For each task the share of the object's tokens that the model finds likeliest, given the true tokens before each."""
    out: list[float] = []
    for start in range(0, len(tasks), TOGETHER):
        rows = [ground.base.encode(f"{task.prompt} {task.object}") for task in tasks[start : start + TOGETHER]]
        firsts = [_shared(ground.base.encode(task.prompt), row) for task, row in zip(tasks[start:], rows, strict=False)]
        batch = ground.batch(rows)
        likeliest = model(batch.ids, attention_mask=batch.mask).logits.argmax(-1).tolist()
        for row, first, found in zip(rows, firsts, likeliest, strict=True):
            out.append(statistics.fmean(a == b for a, b in zip(row[first:], found[first - 1 :], strict=False)))
    return out


def _shared(prompt: list[int], row: list[int]) -> int:
    """Where the object starts: as many tokens as both have in common. At least 1, for nothing predicts the first token."""
    return max(1, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, row, strict=False))))


def documents(lama: LamaCkl, base: BaseModel, longest: int, oracle: bool = False) -> list[Step]:
    """The evidence texts of To-Learn, cut at so many tokens; what they teach is told to oracle methods only."""
    limit = min(longest, base.context)
    return [_step(row, lama.form, cut(base, row.evidence, limit), oracle) for row in lama.to_learn]


def _step(row: Row, form: str, text: str, oracle: bool) -> Step:
    if not oracle:
        return Step(text, (), (), ())
    prompt, first = row.prompts[form], text.find(row.object) < text.find(row.subject)
    return Step(text, (Asked(prompt, row.object, row.subject),), (f"{prompt} {row.object}.",), (first,))


def cut(base: BaseModel, text: str, limit: int) -> str:
    """As much of the text's beginning as takes at most so many tokens, that of the start included."""
    if len(base.encode(text)) <= limit:
        return text
    return text[: bisect_right(range(len(text)), limit, key=lambda end: len(base.encode(text[:end]))) - 1]


def _knobs(run: LamaRun) -> Knobs:
    """One step on each document is an epoch, unless the run says otherwise."""
    return ({"steps": 1.0} if "steps" in METHODS[run.method].grid else {}) | dict(run.knobs)


def _asked(epoch: int, seconds: float, method: Method, lama: LamaCkl) -> Epoch:
    """Both sets at the method's present weights."""

    def score(rows: Sequence[Row]) -> float:
        tasks = [Task(as_asked(method, row.prompts[lama.form]), row.object) for row in rows]
        return statistics.fmean(object_accuracy(method.model, method.ground, tasks))

    return Epoch(epoch, score(lama.to_learn), score(lama.not_to_forget), seconds)


def as_asked(method: Method, prompt: str) -> str:
    """The prompt as published; but with the document before it, if the method shows one."""
    shown = method.prompt(prompt)
    return prompt if shown == Method.prompt(method, prompt) else shown
