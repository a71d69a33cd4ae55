"""Which runs make a report, in which order: tune the rivals, measure everything, then the best of it for longer.

Covered: the phases, each of which depends on the outcomes of those before. Not covered: doing them (`bench.py`).
"""

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from adapters.demo import MODEL_PATH
from adapters.errors import AdapterError
from benchmarks.learning.ablations import ABLATIONS
from benchmarks.learning.methods import CONTROLS, METHODS, RIVALS
from benchmarks.learning.protocol import Outcome, Run
from benchmarks.learning.results import Results

TUNING_SEED = 900
"""Of the streams that knobs are tuned on; no report uses it."""
TUNING_DOCUMENTS = 40
FINALISTS = 3
"""Knobs of each rival that are tried again at the length of the stream proper."""
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
        rivals = [m for m in self.methods if m in RIVALS or m in CONTROLS]
        yield "tuning", [run for m in rivals for run in self._combinations(m)]
        for count in self.counts:
            if count > TUNING_DOCUMENTS:
                yield f"tuning at {count}", [replace(r, documents=count) for m in rivals for r in self._finalists(results, m)]
            chosen = [self.chosen(results, m, count) for m in self.methods]
            yield f"{count} documents", [replace(run, seed=seed) for run in chosen for seed in self.seeds]
        infold = self._run("infold", max(self.counts), self.seeds[0])
        kinds = [replace(infold, kind=kind, documents=100, seed=seed) for kind in ("several", "moves") for seed in self.seeds]
        yield "several facts, moves", kinds if "infold" in self.methods else []
        yield "ablations", [replace(infold, switch=switch, seed=seed) for switch in self.ablations for seed in self.seeds[:1]]
        if self.long:
            runs = [self.chosen(results, m, max(self.counts)) for m in ("infold", *self.best_rivals(results)) if m in self.methods]
            yield f"{self.long} documents", [replace(run, documents=self.long, seed=self.seeds[0]) for run in runs]

    def chosen(self, results: Results, method: str, count: int) -> Run:
        """The run of `method` on a stream of `count` documents, with the knobs that were best on the tuning stream."""
        for at in (count, TUNING_DOCUMENTS):
            tuned = [outcome for r in self._combinations(method) if (outcome := results.of(replace(r, documents=at)))]
            if tuned:
                return replace(max(tuned, key=_score).run, documents=count)
        return self._run(method, count, 0)

    def best_rivals(self, results: Results) -> list[str]:
        """Those with the highest TL + NF on the longest stream that all methods ran on."""

        def mean(method: str) -> float:
            run = self.chosen(results, method, max(self.counts))
            return statistics.fmean(_score(results.of(replace(run, seed=seed))) for seed in self.seeds)

        return sorted((m for m in self.methods if m in RIVALS), key=mean, reverse=True)[:LONG_RIVALS]

    def _finalists(self, results: Results, method: str) -> list[Run]:
        runs = self._combinations(method)
        return sorted(runs, key=lambda r: _score(results.of(r)), reverse=True)[:FINALISTS] if len(runs) > 1 else []

    def _combinations(self, method: str) -> list[Run]:
        """One run for each combination of knobs, on the tuning stream; none of a method without knobs."""
        grid = METHODS[method].grid
        if not grid:
            return []
        values = itertools.product(*grid.values())
        return [replace(self._run(method, TUNING_DOCUMENTS, TUNING_SEED), knobs=dict(zip(grid, v, strict=True))) for v in values]

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
        model or str(MODEL_PATH), world, counts, long, chosen, method_names(methods),
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


def _score(outcome: Outcome | None) -> float:
    return outcome.last.TL + outcome.last.NF if outcome else 0.0


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the range."""
    return statistics.fmean(values), (max(values) - min(values)) / 2
