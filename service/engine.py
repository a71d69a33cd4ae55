"""Generate: one thread decodes all running requests in one batch, each on its own version of the weights.

Covered: continuous joining and leaving, per-request versions, sampling with seeds, stop strings, log-probabilities, streaming,
cancelling. Not covered: whose turn it is (`waiting.py`), how prompts are read (`reading.py`), what of them is known already
(`prefixes.py`), residency of versions (`residency.py`).
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
import torch
from torch import Tensor

from adapters.base_model import BaseModel
from adapters.versioned_linear import VersionTable
from service.decode_step import decode_step
from service.delivery import Delivery
from service.errors import InvalidRequest, NotReady, ServiceError
from service.generation import Piece, Wanted
from service.metrics import Metrics
from service.prefixes import Prefix, PrefixCache
from service.reading import MOST_TOKENS, Prompt, Reading, ReadingPace, unread
from service.sampler import choose, score
from service.slot_cache import SlotCache
from service.text_stream import TextStream
from service.turns import Turns
from service.underway import Underway
from service.waiting import Waiting

log = structlog.get_logger()


@dataclass(frozen=True)
class Limits:
    """How much an engine takes on."""

    slots: int
    """Requests that decode in one batch."""
    waiting: int
    """Requests of one namespace that may wait for a slot."""
    prefix_bytes: int = 0
    """Memory for what was read lately."""
    read_seconds: float = 0.25
    """How long running requests wait, at most and about, for prompts that are read beside them."""
    graphs: bool = True
    """Whether a GPU's decode steps are recorded."""


class Engine:
    """The decoding thread and its queue."""

    def __init__(self, base: BaseModel, table: VersionTable, turns: Turns, metrics: Metrics, limits: Limits) -> None:
        self._base, self._table, self._turns, self._metrics, self._limits = base, table, turns, metrics, limits
        self._waiting: Waiting[Underway] = Waiting(limits.waiting)
        self._joining: list[Underway] = []
        """Those whose prompts are being read."""
        self._reading: Reading | None = None
        self._running: list[Underway] = []
        self._step_of = decode_step(base, table, limits.graphs)
        self._cache = SlotCache(self._layers(), limits.slots)
        self._prefixes = PrefixCache(limits.prefix_bytes)
        self._delivery = Delivery()
        self._reading_pace = ReadingPace(limits.read_seconds)
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to decode."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it decodes, or will."""
        return self._thread.ident is None or self._thread.is_alive()

    def stop(self, drain_seconds: float) -> None:
        """Take nothing new; give running requests `drain_seconds` to end, then cancel them."""
        deadline = time.monotonic() + drain_seconds
        with self._wake:
            while self._busy and time.monotonic() < deadline:
                self._wake.wait(0.05)
            self._stopping = True
            self._wake.notify_all()
        if self._thread.ident is not None:  # it was started
            self._thread.join()

    @property
    def _busy(self) -> bool:
        return bool(self._waiting or self._joining or self._running)

    async def generate(self, wanted: Wanted, version: str, on_end: Callable[[], None]) -> AsyncGenerator[Piece, None]:
        """Pieces of text as they come; leaving the iterator cancels the request.

        version: key of resident weights, leased by the caller. on_end: called exactly once when they will not be touched for this
        request any more, whatever happened.

        Raises:
            QueueFull: too many wait.
            NotReady: the engine has stopped.
            InvalidRequest: prompt and answer do not fit into the context.
        """
        running = self._underway(wanted, version, on_end)
        try:
            self._enqueue(running)
        except ServiceError:
            on_end()
            raise
        try:
            while True:
                piece = await running.pieces.get()
                yield piece
                if piece.finish_reason is not None:
                    return
        finally:
            with self._wake:
                running.cancelled = True
                self._wake.notify_all()

    def _underway(self, wanted: Wanted, version: str, on_end: Callable[[], None]) -> Underway:
        generator = torch.Generator(self._base.device)
        seed = wanted.sampling.seed
        generator.manual_seed(seed) if seed is not None else generator.seed()
        stream = TextStream(self._base.tokenizer, wanted.stop)
        loop = asyncio.get_running_loop()
        return Underway(wanted, version, on_end, stream, loop, asyncio.Queue(), generator, time.perf_counter())

    def _enqueue(self, running: Underway) -> None:
        wanted = running.wanted
        if len(wanted.prompt) + wanted.max_new_tokens > self._base.context:
            raise InvalidRequest(
                f"the prompt has {len(wanted.prompt)} tokens and max_new_tokens is {wanted.max_new_tokens}; "
                f"the model's context is {self._base.context}",
                param="max_new_tokens",
            )
        with self._wake:
            if self._stopping:
                raise NotReady("the server is shutting down", retry_after=5)
            self._waiting.add(wanted.namespace, running)
            self._wake.notify_all()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._busy)
                if self._stopping:
                    self._give_up("cancelled")
                    self._end_all(self._waiting, "cancelled")
                    self._waiting.clear()
                    self._delivery.send()
                    return
            try:
                with torch.inference_mode(), self._turns.decoder():
                    self._step()
            except Exception:
                log.exception("a decode step failed; the requests in it are ended")
                self._give_up("error")
            self._delivery.send()
            self._metrics.requests_running.set(len(self._running) + len(self._joining))
            self._metrics.requests_waiting.set(len(self._waiting))

    def _step(self) -> None:
        """Drop what was cancelled, read some of the prompts that join, write one token for each running request."""
        for running in [r for r in self._running if r.cancelled]:
            self._end(running, "cancelled")
        if self._reading is None or all(r.cancelled for r in self._joining):
            self._end_all(self._joining, "cancelled")
            self._joining, self._reading = [], None
            self._begin_reading()
        if self._reading is not None:
            with self._on_device():
                self._read(self._reading)
        if self._running:
            with self._on_device():
                self._decode()

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        with self._turns.decoding() as waited:
            self._metrics.decode_stall.observe(waited)
            yield

    def _begin_reading(self) -> None:
        """Let waiting requests join: as many as there are slots for, and as are read in one forward pass; at least one."""
        prompts: list[Prompt] = []
        prefixes: list[Prefix | None] = []
        with self._wake:
            underway = Counter(r.wanted.namespace for r in self._running)
            while (chosen := self._waiting.first(underway)) and len(self._running) + len(prompts) < self._limits.slots:
                if chosen.cancelled:
                    self._end_all([self._waiting.take(underway)], "cancelled")
                    continue
                prompt = chosen.wanted.prompt
                known = self._prefixes.longest(chosen.owner, prompt)
                columns = unread([*prompts, prompt], [*prefixes, known])
                if prompts and columns * (len(prompts) + 1) > MOST_TOKENS:
                    break
                prompts.append(prompt)
                prefixes.append(known)
                self._joining.append(self._waiting.take(underway))  # before anything can fail, so that whatever happens ends it
                underway[chosen.wanted.namespace] += 1
        if prompts:
            for joining in self._joining:
                joining.joined = time.perf_counter()
            self._reading = Reading(self._base, prompts, prefixes)
            known_tokens = sum(0 if prefix is None else prefix.length for prefix in prefixes)
            self._metrics.prompt_tokens.inc(sum(map(len, prompts)))
            self._metrics.prefix_tokens.inc(known_tokens)

    def _read(self, reading: Reading) -> None:
        """Read a chunk of the prompts that join; after the last of it, write the first token of each."""
        self._table.route([r.version for r in self._joining])
        with self._reading_pace.chunk(reading, beside=len(self._running)) as columns:
            logits = reading.read(columns)
        if not reading.done:
            return
        joined, self._joining, self._reading = self._joining, [], None
        for row, running in enumerate(joined):
            self._cache.join(reading.cache, row, len(running.wanted.prompt))
            self._running.append(running)
            self._prefixes.add(running.owner, running.wanted.prompt, reading.layers(row))
        self._write(joined, logits)

    def _decode(self) -> None:
        """One token for every running request."""
        tokens, versions = [r.tokens[-1] for r in self._running], [r.version for r in self._running]
        self._write(list(self._running), self._step_of.logits(self._cache, tokens, versions))

    def _write(self, rows: list[Underway], logits: Tensor) -> None:
        """Choose a token for each row, send its text, end what is complete."""
        tokens = choose(logits.float(), [r.wanted.sampling for r in rows], [r.generator for r in rows])
        now = time.perf_counter()
        for row, (running, token) in enumerate(zip(rows, tokens, strict=True)):
            running.tokens.append(token)
            first = len(running.tokens) == 1
            observe = self._metrics.first_token if first else self._metrics.between_tokens
            observe.observe(now - (running.accepted if first else running.touched))
            running.touched = now
            running.first = running.first or now
            ends = token in self._base.stop_ids and not running.wanted.ignore_eos
            if running.wanted.alternatives is not None and not ends:
                running.scored.append(score(logits[row], token, running.wanted.alternatives))
            text = "" if ends else running.stream.push(token)
            if ends or running.stream.stopped:
                self._end(running, "stop", text)
            elif len(running.tokens) == running.wanted.max_new_tokens:
                self._end(running, "length", text)
            elif text:
                self._send(running, text)
        self._metrics.generation_tokens.inc(len(rows))

    def _end(self, running: Underway, reason: str, text: str = "") -> None:
        if running in self._running:
            row = self._running.index(running)
            text_read = (*running.wanted.prompt, *running.tokens[:-1])
            self._prefixes.add(running.owner, text_read, self._cache.layers_of(row))
            self._cache.leave(row)
            self._running[row] = self._running[-1]
            self._running.pop()
        running.on_end()
        self._send(running, text + running.stream.flush(), reason)
        self._metrics.requests.labels(reason).inc()
        self._metrics.end_to_end.observe(time.perf_counter() - running.accepted)

    def _give_up(self, reason: str) -> None:
        """End all that have a slot, and begin with empty caches."""
        self._end_all((*self._joining, *self._running), reason)
        self._joining, self._running, self._reading = [], [], None
        self._cache = SlotCache(self._layers(), self._limits.slots)

    def _end_all(self, requests: Iterable[Underway], reason: str) -> None:
        for running in requests:
            running.on_end()
            self._send(running, "", reason)
            self._metrics.requests.labels(reason).inc()

    def _send(self, running: Underway, text: str, reason: str | None = None) -> None:
        course = None if reason is None else running.course
        piece = Piece(text, len(running.tokens), reason, tuple(running.scored), course)
        running.scored.clear()
        self._delivery.add(running.loop, running.pieces, piece)

    def _layers(self) -> int:
        return int(self._base.model.config.num_hidden_layers)
