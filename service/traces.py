"""Traces: where the time of a document and of an answer goes, as OpenTelemetry spans. None are made unless an endpoint is named.

    POST /learn                       of the client's own trace, if it sends `traceparent`
      accept                          sizes checked, jobs queued
      queue                           of each document, until a worker claims it
      learn                           wherever the worker is: the job carries the trace context (`keys.py`)
        view, score, fold, guard      each until the next begins; several times for a document of several windows
        publish                       the version to disk and into memory
          flip                        registered, and the alias moved
      arrive                          a version that was learned elsewhere, until this server answers from it
      first token                     of the first answer from that version; linked to the request that asked for it
    POST /generate, /v1/...
      queue, read, decode             of each answer, with its version

Covered: all of OpenTelemetry (the extra `traces`; its own variables hold for samplers, headers, batches). Not covered: when to make
which span (the callers). No text is in them, nor names that clients chose.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infold import __version__
from service.errors import InvalidSettings
from service.generation import Piece
from service.job import Job

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

TRACED = frozenset({"/learn", "/generate", "/v1/completions", "/v1/chat/completions"})
LAST_SECONDS = 2.0
"""For spans that are left when a process ends."""


class Traces:
    """Makes the spans of one process."""

    def __init__(self, endpoint: str | None = None, service: str = "infold") -> None:
        """endpoint: of a collector; None: there are no spans. Raises InvalidSettings: the extra is not installed."""
        self.on = endpoint is not None
        self._awaited: dict[str, tuple[str, str]] = {}
        """Namespace -> the version that nobody was answered from yet, and the trace of its document."""
        if endpoint is not None:
            try:
                self._provider = _provider(endpoint, service)
            except ImportError as error:
                raise InvalidSettings("traces are made by an extra: pip install 'infold[traces]'") from error
            from opentelemetry import trace
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            self._api, self._propagator = trace, TraceContextTextMapPropagator()
            self._tracer = self._provider.get_tracer("infold")

    def close(self) -> None:
        """Send what has not been sent, if the collector takes it; a server must not wait for one that does not."""
        if self.on:
            sending = threading.Thread(target=self._provider.shutdown, daemon=True)
            sending.start()
            sending.join(LAST_SECONDS)

    @property
    def current(self) -> str | None:
        """The current span, as a `traceparent` that can travel."""
        carrier: dict[str, str] = {}
        if self.on:
            self._propagator.inject(carrier)
        return carrier.get("traceparent")

    @contextmanager
    def span(self, name: str, parent: str | None = None, kind: str = "INTERNAL", **attributes: Any) -> Iterator[None]:
        """Around what is done below `parent` (a `traceparent`), or below the current span; none below neither."""
        if not self.on or not (parent or self.current):
            yield
            return
        with self._tracer.start_as_current_span(
            name, self._below(parent), self._api.SpanKind[kind], _named(attributes),
            record_exception=False, set_status_on_exception=False,  # a message may say what a document says
        ) as span:  # fmt: skip
            try:
                yield
            except Exception as error:
                span.set_status(self._api.StatusCode.ERROR, type(error).__name__)
                raise

    def mark(self, **attributes: Any) -> None:
        """Say more about the current span."""
        if self.on:
            self._api.get_current_span().set_attributes(_named(attributes))

    @contextmanager
    def job(self, job: Job) -> Iterator[None]:
        """Around what a worker does with a job that it has just claimed."""
        if job.traceparent is not None:
            self._add("queue", job.accepted_at, time.time(), job.traceparent, namespace=job.namespace, job_id=job.job_id)
        known = {"namespace": job.namespace, "job_id": job.job_id, "attempt": job.attempts}
        with self.span(job.kind, job.traceparent, "CONSUMER", **known):
            yield

    @contextmanager
    def stages(self) -> Iterator[Callable[[str], None]]:
        """What is to be told of each stage that begins, in whatever thread: its span lasts until the next one does."""
        if not self.on or not self.current:
            yield lambda _: None
            return
        parent, running = self._below(self.current), list[Any]()

        def begin(name: str) -> None:
            if running:
                running.pop().end()
            running.append(self._tracer.start_span(name, parent))

        try:
            yield begin
        finally:
            if running:
                running.pop().end()

    def arrived(self, job: Job, version: str, began: float) -> None:
        """A version that was learned elsewhere answers from now on; `began`: when it was heard of."""
        if job.traceparent is not None:
            self._add("arrive", began, time.time(), job.traceparent, namespace=job.namespace, version=version)
        self.live(job, version)

    def live(self, job: Job, version: str) -> None:
        """What the job taught answers from now on: the first answer is waited for."""
        if self.on and job.traceparent is not None:
            self._awaited[job.namespace] = version, job.traceparent

    def first_token(self, namespace: str, version: str, began: float) -> None:
        """A request, current since `began`, has its first token from `version`."""
        asking = self.current
        if asking is None or self._awaited.get(namespace, ("",))[0] != version:
            return  # or the server asked itself
        _, parent = self._awaited.pop(namespace)
        self._add("first token", began, time.time(), parent, asking, namespace=namespace, version=version)

    def answer(self, namespace: str, version: str, last: Piece) -> None:
        """How an answer came about, below the current span."""
        if last.course is None or self.current is None:
            return
        course, clock = last.course, time.time() - time.perf_counter()
        known = {"namespace": namespace, "version": version}
        self._add("queue", course.accepted + clock, course.joined + clock, **known)
        self._add("read", course.joined + clock, course.first + clock, **known)
        self._add("decode", course.first + clock, course.last + clock, tokens=last.tokens, reason=last.finish_reason, **known)

    def _add(
        self, name: str, began: float, ended: float, parent: str | None = None, link: str | None = None, **attributes: Any
    ) -> None:
        """A span that is over."""
        if self.on:
            links = [] if link is None else [self._api.Link(self._span_context(link))]
            start, known = int(began * 1e9), _named(attributes)
            span = self._tracer.start_span(name, self._below(parent), attributes=known, links=links, start_time=start)
            span.end(max(start, int(ended * 1e9)))

    def _below(self, parent: str | None, more: Mapping[str, str] | None = None) -> "Context | None":
        """None: below what is current."""
        return None if parent is None else self._propagator.extract({"traceparent": parent, **(more or {})})

    def _span_context(self, traceparent: str) -> Any:
        return self._api.get_current_span(self._below(traceparent)).get_span_context()

    @contextmanager
    def request(self, scope: Scope) -> Iterator[None]:
        """Around a request: the root of a trace, or part of its client's."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"] if name in _CONTEXT}
        context = self._propagator.extract(headers)
        known = {
            "http.request.method": scope["method"],
            "url.path": scope["path"],
            "infold.request_id": scope.get("request_id", ""),
        }
        with self._tracer.start_as_current_span(
            f"{scope['method']} {scope['path']}", context, self._api.SpanKind.SERVER, known,
            record_exception=False, set_status_on_exception=False,
        ):  # fmt: skip
            yield

    def status(self, status: int) -> None:
        """What the current request is answered with."""
        span = self._api.get_current_span()
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_status(self._api.StatusCode.ERROR)


class Traced:
    """Spans of the requests that learn and ask."""

    def __init__(self, app: ASGIApp, traces: Traces) -> None:
        self._app, self._traces = app, traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in TRACED:
            await self._app(scope, receive, send)
            return

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._traces.status(message["status"])
            await send(message)

        with self._traces.request(scope):
            await self._app(scope, receive, noted)


_CONTEXT = {b"traceparent", b"tracestate"}


def _named(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {f"infold.{name}": value for name, value in attributes.items()}


def _provider(endpoint: str, service: str) -> "TracerProvider":
    """What sends spans to a collector, in a thread of its own. What the environment says of the service holds."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": service, "service.version": __version__}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
    return provider
