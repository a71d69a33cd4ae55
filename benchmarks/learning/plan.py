"""Which runs make a report, in which order: tune the rivals, measure everything, then the best of it for longer.

Covered: the phases, each of which depends on the outcomes of those before. Not covered: doing them (`bench.py`).
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from adapters.errors import AdapterError
from benchmarks.learning.ablations import ABLATIONS
from benchmarks.learning.methods import METHODS, RIVALS
from benchmarks.learning.protocol import DEMO, Outcome, Run
from benchmarks.learning.results import Results

TUNING_SEED = 900
"""Of the stream that knobs are tuned on; no report uses it."""
TUNING_MARKS = (40, 100)
"""After how many documents of it a rival is measured. The knobs for a stream are the best at the last of these that it reaches."""
KIND_DOCUMENTS, SWITCH_DOCUMENTS = 50, 100
"""Of the streams of several facts a document and of moves, and of those that ablations run on."""
LONG_RIVALS = 3
"""Rivals that go on to the long stream."""


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    model: str
    world: str
    counts: tuple[int, ...] = (40, 200)
    """Documents of the streams that every method runs on."""
    long: int = 1000
    """Documents of the stream for infold and the best rivals; 0: none."""
    seeds: tuple[int, ...] = (11, 12, 13)
    methods: tuple[str, ...] = tuple(METHODS)
    ablations: tuple[str, ...] = tuple(ABLATIONS)

    def phases(self, results: Results) -> Iterator[tuple[str, list[Run]]]:
        """Names and runs; each phase is made from the outcomes of those before it, so ask for the next only when they are in."""
        rivals = [m for m in self.methods if METHODS[m].grid]
        for turn in range(max((len(METHODS[m].grid) for m in rivals), default=0)):
            yield f"tuning, knob {turn + 1}", [run for m in rivals for run in self._sweep(results, m, turn)]
        for count in self.counts:
            chosen = [self.chosen(results, m, count) for m in self.methods]
            yield f"{count} documents", [replace(run, seed=seed) for run in chosen for seed in self.seeds]
        infold = self._run("infold", KIND_DOCUMENTS, self.seeds[0])
        kinds = [replace(infold, kind=kind, seed=seed) for kind in ("several", "moves") for seed in self.seeds]
        yield "several facts, moves", kinds if "infold" in self.methods else []
        ablated = replace(infold, documents=SWITCH_DOCUMENTS, marks=(SWITCH_DOCUMENTS,))
        yield "ablations", [replace(ablated, switch=switch) for switch in self.ablations]
        if self.long:
            runs = [self.chosen(results, m, self.long) for m in ("infold", *self.best_rivals(results)) if m in self.methods]
            yield f"{self.long} documents", [replace(run, seed=self.seeds[0]) for run in runs]

    def chosen(self, results: Results, method: str, count: int) -> Run:
        """The run of `method` on a stream of `count` documents, with the knobs that were best on the tuning stream."""
        run, tuned = self._run(method, count, 0), self._tuned(results, method)
        return replace(run, knobs=max(tuned, key=partial(_score_after, count)).run.knobs) if tuned else run

    def best_rivals(self, results: Results) -> list[str]:
        """Those with the highest TL + NF on the longest stream that all methods ran on."""

        def mean(method: str) -> float:
            run = self.chosen(results, method, max(self.counts))
            return statistics.fmean(_score(o) for seed in self.seeds if (o := results.of(replace(run, seed=seed))))

        return sorted((m for m in self.methods if m in RIVALS), key=mean, reverse=True)[:LONG_RIVALS]

    def _sweep(self, results: Results, method: str, turn: int) -> list[Run]:
        """One run for each value of one knob, the knobs before it as they were best, those after it at their defaults."""
        grid = METHODS[method].grid
        if turn >= len(grid):
            return []
        name, defaults = list(grid)[turn], {name: values[0] for name, values in grid.items()}
        later = list(grid)[turn:]
        before = [o for o in self._tuned(results, method) if all(o.run.knobs[n] == defaults[n] for n in later)]
        knobs = max(before, key=_score).run.knobs if before else defaults
        run = replace(self._run(method, TUNING_MARKS[-1], TUNING_SEED), marks=TUNING_MARKS, probes=100)
        return [replace(run, knobs=dict(knobs) | {name: value}) for value in grid[name]]

    def _tuned(self, results: Results, method: str) -> list[Outcome]:
        """What came of the tuning of `method` so far."""
        of = (self.model, self.world, method, TUNING_SEED)
        return [o for o in results.all() if (o.run.model, o.run.world, o.run.method, o.run.seed) == of]

    def _run(self, method: str, documents: int, seed: int) -> Run:
        return Run(self.model, self.world, "facts", documents, seed, method)


def make_plan(model: str | None, world: str, documents: str, long: int, seeds: str, methods: str, ablations: str) -> Plan:
    """A plan from the command line's words.

    Raises:
        AdapterError: a name that does not exist, or a number that is none.
    """
    try:
        counts, chosen = tuple(sorted(map(int, documents.split(",")))), tuple(map(int, seeds.split(",")))
    except ValueError as error:
        raise AdapterError(f"documents and seeds are numbers with commas between them: {error}") from error
    if TUNING_SEED in chosen or min(counts) < 1:
        raise AdapterError(f"a stream has at least one document, and seed {TUNING_SEED} is taken by the tuning of rivals")
    return Plan(
        model or DEMO, world, counts, long, chosen, method_names(methods),
        _names(ablations, ABLATIONS, "ablation"),
    )  # fmt: skip


def method_names(given: str) -> tuple[str, ...]:
    """Names of methods, with commas between them, or `all`. Raises AdapterError: there is none of that name."""
    return _names(given, METHODS, "method")


def _names(given: str, known: Mapping[str, object], what: str) -> tuple[str, ...]:
    names = tuple(known) if given == "all" else tuple(n for n in given.split(",") if n != "none")
    if unknown := [n for n in names if n not in known]:
        raise AdapterError(f"there is no {what} {unknown[0]}; there are {', '.join(known)}")
    return names


def _score(outcome: Outcome) -> float:
    return outcome.last.TL + outcome.last.NF


def _score_after(documents: int, outcome: Outcome) -> float:
    """At the last mark that a stream of so many documents reaches, or the first there is."""
    mark = max((m for m in outcome.curve if m.documents <= documents), default=outcome.curve[0], key=lambda m: m.documents)
    return mark.TL + mark.NF


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the range."""
    return statistics.fmean(values), (max(values) - min(values)) / 2
