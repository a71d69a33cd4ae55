"""Tokens per second of several servers on one model, by turns: in each round every contender has every load once.

A turn is short and neighbours in time are compared, so that a machine which is slower for a minute is slower for all of them.
Covered: rounds, warming up, ratios. Not covered: who competes (`contenders.py`), tables (`report.py`).
"""

import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from benchmarks.serving.contenders import Contender, Sample

WAVES = 2
"""Requests of a turn, over the streams at a time."""
FEWEST = 4
"""Requests of a turn."""
_WARM_TOKENS = 4


@dataclass(frozen=True)
class Row:
    """All turns of one contender at one concurrency."""

    name: str
    weights: str
    concurrency: int
    samples: tuple[Sample, ...]

    @property
    def tokens_per_second(self) -> float:
        """Median of the rounds."""
        return statistics.median(s.tokens_per_second for s in self.samples)


@dataclass(frozen=True)
class Sitting:
    """What was measured in one go."""

    command: str
    model: str
    parameters: int
    dtype: str
    prompt_tokens: int
    tokens: int
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.dtype}-{self.prompt_tokens}"

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> "Sitting":
        """What `to_json` wrote."""
        rows = (Row(**{**row, "samples": tuple(Sample(**s) for s in row["samples"])}) for row in data["rows"])
        return Sitting(**{**data, "rows": tuple(rows)})


def by_turns(
    contenders: Sequence[Contender], prompts: "Prompts", concurrencies: Sequence[int], tokens: int, rounds: int
) -> Iterator[tuple[Contender, int, Sample]]:
    """Every turn, after one short one of each that is not counted."""
    for number in range(-1, rounds):
        for concurrency in concurrencies:
            for contender in contenders:
                if concurrency not in contender.measured_at(concurrencies):
                    continue
                streams = 1 if contender.alone else concurrency
                asked = max(FEWEST, WAVES * streams) if number >= 0 else streams
                found = contender.measure(prompts.draw(asked), concurrency, tokens if number >= 0 else _WARM_TOKENS)
                if number >= 0:
                    yield contender, concurrency, found


def gather(turns: Sequence[tuple[Contender, int, Sample]]) -> tuple[Row, ...]:
    """One row for each contender and concurrency."""
    found: dict[tuple[str, str, int], list[Sample]] = {}
    for contender, concurrency, sample in turns:
        found.setdefault((contender.name, contender.weights, concurrency), []).append(sample)
    return tuple(Row(*key, tuple(samples)) for key, samples in found.items())


def ratio(ours: Row, theirs: Row) -> float:
    """Of tokens per second: the median of what each round says."""
    pairs = zip(ours.samples, theirs.samples, strict=True)
    return statistics.median(a.tokens_per_second / b.tokens_per_second for a, b in pairs)


class Prompts:
    """Different prompts of one length, so that nothing of one is known from another."""

    def __init__(self, model: Path, tokens: int, seed: int = 0) -> None:
        tokenizer = AutoTokenizer.from_pretrained(model)
        words = sorted(tokenizer.convert_tokens_to_string([t]) for t in tokenizer.get_vocab() if t.startswith("Ġ"))
        self._words = [word for word in words if word.strip().isalpha()]
        self._tokens, self._random = tokens, random.Random(seed)

    def draw(self, count: int) -> list[str]:
        """So many new ones."""
        return ["".join(self._random.choices(self._words, k=self._tokens)) for _ in range(count)]
