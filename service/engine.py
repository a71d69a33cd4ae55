"""Generate: one thread decodes all running requests in one batch, each on its own version of the weights.

Covered: continuous joining and leaving, per-request versions, sampling with seeds, stop strings, log-probabilities, streaming,
cancelling, back-pressure.
Not covered: prefix caching, chunked prefill. Residency of versions is `residency.py`'s.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog
import torch
from torch import Tensor
from transformers import DynamicCache

from adapters.base_model import BaseModel
from adapters.versioned_linear import VersionTable
from service.errors import InvalidRequest, NotReady, QueueFull
from service.generation import GenerationRequest, Piece, ScoredToken
from service.metrics import Metrics
from service.sampler import choose, score
from service.slot_cache import SlotCache
from service.text_stream import TextStream
from service.turns import Turns

PREFILL_TOKENS = 2048
"""Most prompt tokens, padding included, that are read in one forward pass beside a running batch."""

log = structlog.get_logger()


@dataclass(eq=False)
class _Running:
    """One request on its way."""

    request: GenerationRequest
    stream: TextStream
    loop: asyncio.AbstractEventLoop
    pieces: "asyncio.Queue[Piece]"
    generator: torch.Generator
    accepted: float
    scored: list[ScoredToken] = field(default_factory=list)
    """Since the last piece."""
    written: int = 0
    last: int = 0
    touched: float = 0.0
    cancelled: bool = False


class Engine:
    """The decoding thread and its queue."""

    def __init__(self, base: BaseModel, table: VersionTable, turns: Turns, metrics: Metrics, slots: int, max_waiting: int) -> None:
        self._base, self._table, self._turns, self._metrics = base, table, turns, metrics
        self._slots, self._max_waiting = slots, max_waiting
        self._waiting: deque[_Running] = deque()
        self._running: list[_Running] = []
        self._cache = SlotCache(self._layers(), slots)
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
            while (self._waiting or self._running) and time.monotonic() < deadline:
                self._wake.wait(0.05)
            self._stopping = True
            self._wake.notify_all()
        if self._thread.ident is not None:  # it was started
            self._thread.join()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Piece, None]:
        """Pieces of text as they come; leaving the iterator cancels the request.

        Raises:
            QueueFull: too many wait.
            NotReady: the engine has stopped.
            InvalidRequest: prompt and answer do not fit into the context.
        """
        room = self._base.context - len(request.prompt)
        if request.max_new_tokens > room:
            request.on_end()
            raise InvalidRequest(
                f"the prompt has {len(request.prompt)} tokens and max_new_tokens is {request.max_new_tokens}; "
                f"the model's context is {self._base.context}",
                param="max_new_tokens",
            )
        running = self._enqueue(request)
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

    def _enqueue(self, request: GenerationRequest) -> _Running:
        generator = torch.Generator(self._base.device)
        seed = request.sampling.seed
        generator.manual_seed(seed) if seed is not None else generator.seed()
        stream = TextStream(self._base.tokenizer, request.stop)
        running = _Running(request, stream, asyncio.get_running_loop(), asyncio.Queue(), generator, time.perf_counter())
        with self._wake:
            if self._stopping:
                request.on_end()
                raise NotReady("the server is shutting down", retry_after=5)
            if len(self._waiting) >= self._max_waiting:
                request.on_end()
                raise QueueFull(f"{len(self._waiting)} requests are waiting; try again later", retry_after=1)
            self._waiting.append(running)
            self._wake.notify_all()
        return running

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._waiting or self._running)
                if self._stopping:
                    self._end_all(self._running, "cancelled")
                    self._end_all(self._waiting, "cancelled")
                    return
            try:
                with torch.inference_mode():
                    self._step()
            except Exception:
                log.exception("a decode step failed; the requests in it are ended")
                self._end_all(self._running, "error")
                self._cache = SlotCache(self._layers(), self._slots)
            self._metrics.requests_running.set(len(self._running))
            self._metrics.requests_waiting.set(len(self._waiting))

    def _step(self) -> None:
        """Drop what was cancelled, let waiting requests join, write one token for each running one."""
        for running in [r for r in self._running if r.cancelled]:
            self._end(running, "cancelled")
        joining = self._joining()
        if joining:
            with self._on_device():
                self._prefill(joining)
        if self._running:
            with self._on_device():
                self._decode()

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        with self._turns.decoding() as waited:
            self._metrics.decode_stall.observe(waited)
            yield

    def _joining(self) -> list[_Running]:
        """Waiting requests that get a slot now: as many as one prefill of bounded size takes, at least one."""
        joining: list[_Running] = []
        with self._wake:
            while self._waiting and len(self._running) + len(joining) < self._slots:
                if self._waiting[0].cancelled:
                    self._waiting.popleft().request.on_end()
                    continue
                longest = max(len(r.request.prompt) for r in (*joining, self._waiting[0]))
                if joining and longest * (len(joining) + 1) > PREFILL_TOKENS:
                    break
                joining.append(self._waiting.popleft())
            self._running += joining  # before anything can fail, so that whatever happens ends them too
        return joining

    def _prefill(self, joining: list[_Running]) -> None:
        """Read prompts, left-padded, in one forward pass, and write the first token of each."""
        prompts = [r.request.prompt for r in joining]
        longest = max(map(len, prompts))
        device = self._base.device
        ids = torch.tensor([[self._base.pad_id] * (longest - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        self._table.route([r.request.version for r in joining])
        whole = DynamicCache()  # not the model's own choice, which forgets what leaves a sliding window
        out = self._base.model(
            ids, attention_mask=mask, position_ids=positions, past_key_values=whole, use_cache=True, logits_to_keep=1
        )
        for row in range(len(joining)):
            self._cache.join(whole, row, len(prompts[row]))
            self._metrics.prompt_tokens.inc(len(prompts[row]))
        self._write(joining, out.logits[:, -1])

    def _decode(self) -> None:
        """One token for every running request."""
        mask, positions = self._cache.before_step(self._base.device)
        ids = torch.tensor([[r.last] for r in self._running], device=self._base.device)
        self._table.route([r.request.version for r in self._running])
        out = self._base.model(
            ids, attention_mask=mask, position_ids=positions, past_key_values=self._cache, use_cache=True, logits_to_keep=1
        )
        self._cache.after_step()
        self._write(list(self._running), out.logits[:, -1])

    def _write(self, rows: list[_Running], logits: Tensor) -> None:
        """Choose a token for each row, send its text, end what is complete."""
        tokens = choose(logits.float(), [r.request.sampling for r in rows], [r.generator for r in rows])
        now = time.perf_counter()
        for row, (running, token) in enumerate(zip(rows, tokens, strict=True)):
            running.written += 1
            running.last = token
            first = running.written == 1
            observe = self._metrics.first_token if first else self._metrics.between_tokens
            observe.observe(now - (running.accepted if first else running.touched))
            running.touched = now
            ends = token in self._base.stop_ids
            if running.request.alternatives is not None and not ends:
                running.scored.append(score(logits[row], token, running.request.alternatives))
            text = "" if ends else running.stream.push(token)
            if ends or running.stream.stopped:
                self._end(running, "stop", text)
            elif running.written == running.request.max_new_tokens:
                self._end(running, "length", text)
            elif text:
                self._send(running, text)
        self._metrics.generation_tokens.inc(len(rows))

    def _end(self, running: _Running, reason: str, text: str = "") -> None:
        if running in self._running:
            row = self._running.index(running)
            self._cache.leave(row)
            self._running[row] = self._running[-1]
            self._running.pop()
        running.request.on_end()
        self._send(running, text + running.stream.flush(), reason)
        self._metrics.requests.labels(reason).inc()
        self._metrics.end_to_end.observe(time.perf_counter() - running.accepted)

    def _end_all(self, requests: "list[_Running] | deque[_Running]", reason: str) -> None:
        for running in requests:
            running.request.on_end()
            self._send(running, "", reason)
            self._metrics.requests.labels(reason).inc()
        requests.clear()

    def _send(self, running: _Running, text: str, reason: str | None = None) -> None:
        piece = Piece(text, running.written, reason, tuple(running.scored))
        running.scored.clear()
        if not running.loop.is_closed():
            running.loop.call_soon_threadsafe(running.pieces.put_nowait, piece)

    def _layers(self) -> int:
        return int(self._base.model.config.num_hidden_layers)
