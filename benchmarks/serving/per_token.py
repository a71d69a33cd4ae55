"""What a token costs beside the model: text out of tokens, events out of text, tokens out of prompts; and all of HTTP together.

Covered: the functions that the server itself calls, timed alone, in texts of several lengths (a cost that grows with the text
would show); the same engine without HTTP. Not covered: the model's own steps (`throughput.py`).
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from adapters.base_model import BaseModel
from adapters.targets import find_targets
from adapters.versioned_linear import BASE, VersionTable
from benchmarks.serving.contenders import Sample
from benchmarks.serving.load import Load, Stream
from service.engine import Engine, Limits
from service.generation import Piece, Wanted
from service.metrics import Metrics
from service.model import load_model, serve_fast
from service.openai_shapes import Choice, CompletionShape
from service.routes.common import event
from service.settings import load_settings
from service.text_stream import TextStream
from service.turns import Turns

LENGTHS = (64, 512, 2048)
_REPEATS = 5


@dataclass(frozen=True)
class Price:
    """Microseconds of a token in texts of `LENGTHS` tokens."""

    what: str
    microseconds: tuple[float, ...]


def prices(base: BaseModel) -> list[Price]:
    """Of everything that happens to a token on its way in or out."""
    shape = CompletionShape("model", "v1", "fp", str, False, False)

    def detokenise(tokens: Sequence[int]) -> None:
        text = TextStream(base.tokenizer)
        for token in tokens:
            text.push(token)

    def frame(tokens: Sequence[int]) -> None:
        choice = Choice(0)
        for number, _ in enumerate(tokens):
            piece = Piece(" word", number)
            choice.add(piece)
            event(shape.chunk(choice, piece, number == 0))

    def tokenise(tokens: Sequence[int]) -> None:
        base.encode(base.decode(list(tokens)))

    named: dict[str, Callable[[Sequence[int]], None]] = {
        "text out of tokens": detokenise,
        "events out of text": frame,
        "tokens out of a prompt": tokenise,
    }
    return [Price(what, tuple(_microseconds(base, work, length) for length in LENGTHS)) for what, work in named.items()]


def _microseconds(base: BaseModel, work: Callable[[Sequence[int]], None], length: int) -> float:
    """The best of several: what disturbs only adds."""
    ordinary = range(len(base.tokenizer.all_special_ids), len(base.tokenizer))
    found = []
    for seed in range(_REPEATS):
        tokens = random.Random(seed).choices(ordinary, k=length)
        started = time.perf_counter()
        work(tokens)
        found.append(time.perf_counter() - started)
    return 1e6 * min(found) / length


class EngineAlone:
    """infold's engine in this process, asked without HTTP."""

    def __init__(self, base: BaseModel, engine: Engine) -> None:
        self._base, self._engine = base, engine
        self._engine.start()

    @staticmethod
    def serving(model: Path, dtype: str, streams: int) -> "EngineAlone":
        """As a server would set it up."""
        settings = load_settings(None, model=str(model), dtype=dtype, slots=streams)
        base = load_model(settings)
        table = VersionTable(base.model, find_targets(base.model, settings.learn.targets))
        serve_fast(settings, base)
        return EngineAlone(base, Engine(base, table, Turns(), Metrics(), Limits(streams, settings.max_waiting)))

    def stop(self) -> None:
        """End its thread."""
        self._engine.stop(0)

    def measure(self, prompts: Sequence[str], concurrency: int, tokens: int, version: str = BASE) -> Sample:
        """As `contenders.over_http`. version: a key of resident weights."""
        return asyncio.run(self._measure(prompts, concurrency, tokens, version))

    async def _measure(self, prompts: Sequence[str], concurrency: int, tokens: int, version: str) -> Sample:
        left, streams = iter(prompts), list[Stream]()

        async def work() -> None:
            for prompt in left:
                streams.append(await self._stream(prompt, tokens, version))

        started = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        return Sample.of(Load(concurrency, time.perf_counter() - started, tuple(streams)))

    async def _stream(self, prompt: str, tokens: int, version: str) -> Stream:
        wanted = Wanted("default", tuple(self._base.encode(prompt)), tokens, ignore_eos=True)
        started, times, written = time.perf_counter(), list[float](), 0
        async for piece in self._engine.generate(wanted, version, lambda: None):
            times.append(time.perf_counter())
            written = piece.tokens
        gaps = tuple(b - a for a, b in pairwise(times))
        return Stream(200, times[0] - started, gaps, written, written == tokens)
