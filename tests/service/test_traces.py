"""Traces, as a real collector receives them: from POST /learn to the first token under the new version."""

import builtins
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from collector import Collector, Received
from conftest import Taught
from serving import Http, ThreadServer, eventually, serving

from service.errors import InvalidSettings
from service.settings import Settings
from service.traces import Traces


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector().listening() as listening:
        yield listening


@pytest.fixture(scope="module")
def traced(
    tmp_path_factory: pytest.TempPathFactory, settings_for: Callable[..., Settings], collector: Collector
) -> Iterator[ThreadServer]:
    """A server that sends its spans to `collector` at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        settings = settings_for(tmp_path_factory.mktemp("traced"), traces=collector.url, namespaces=("default", "other", "empty"))
        with serving(settings) as server:
            yield server


class Client:
    """Who sends trace context along with each request."""

    def __init__(self, http: Http, collector: Collector) -> None:
        self.http, self.collector = http, collector

    def post(self, path: str, sampled: bool = True, **body: Any) -> tuple[str, str, Any]:
        """Ids of the trace and of the client's span, and the answer."""
        trace, span = secrets.token_hex(16), secrets.token_hex(8)
        headers = {"traceparent": f"00-{trace}-{span}-0{int(sampled)}"}
        answer = self.http.post(path, json=body, headers=headers)
        return trace, span, answer

    def spans(self, trace: str, last: str) -> list[Received]:
        """The spans of a trace once `last` is among them, with those that it is part of."""

        def complete() -> list[Received] | None:
            found = self.collector.trace(trace)
            ids = {span.id for span in found}
            ends = [span for span in found if span.name == last]
            roots = [span for span in found if span.parent not in ids]
            return found if ends and len(roots) == 1 else None

        return eventually(complete)


@pytest.fixture
def client(traced: ThreadServer, collector: Collector) -> Client:
    return Client(traced.http, collector)


def by_name(spans: list[Received]) -> dict[str, list[Received]]:
    found: dict[str, list[Received]] = {}
    for span in spans:
        found.setdefault(span.name, []).append(span)
    return found


def test_one_trace_leads_from_a_document_to_the_first_answer_from_it(client: Client, facts: list[Taught]) -> None:
    """The client's own trace goes on: accept, queue, learn with its stages, publish, and the first token of who asks next."""
    fact = facts[0]
    trace, caller, answer = client.post("/learn", text=fact.text, wait=60)
    [job] = answer.json()["jobs"]
    assert job["status"] == "succeeded"
    asking, _, found = client.post("/generate", prompt=fact.prompt, max_new_tokens=8)
    assert found.json()["version"] == job["version"]

    spans = by_name(client.spans(trace, "first token"))
    assert set(spans) == {
        "POST /learn", "accept", "queue", "learn", "view", "score", "fold", "guard", "publish", "flip", "first token",
    }  # fmt: skip
    [root], [accept], [queue], [learn] = (spans[name] for name in ("POST /learn", "accept", "queue", "learn"))
    [publish], [flip], [first] = (spans[name] for name in ("publish", "flip", "first token"))
    assert root.parent == caller
    assert root.attributes["http.response.status_code"] == 200
    assert {span.parent for span in (accept, queue, learn, first)} == {root.id}
    assert {span.parent for name in ("view", "score", "fold", "guard", "publish") for span in spans[name]} == {learn.id}
    assert flip.parent == publish.id
    assert accept.start <= queue.start <= queue.end <= learn.start
    assert spans["view"][0].end <= spans["guard"][0].start
    assert spans["guard"][-1].end <= publish.start <= flip.start <= flip.end <= publish.end <= learn.end
    assert flip.end <= first.end
    assert learn.attributes["infold.job_id"] == job["job_id"]
    assert publish.attributes["infold.version"] == first.attributes["infold.version"] == job["version"]

    [request] = [span for span in client.spans(asking, "decode") if span.name == "POST /generate"]
    assert first.links == (request.id,)
    assert request.start <= first.start <= first.end <= request.end


def test_only_the_first_answer_is_the_first(client: Client, facts: list[Taught]) -> None:
    trace, _, _ = client.post("/learn", text=facts[1].text, wait=60)
    for _ in range(2):
        asking, _, _ = client.post("/generate", prompt=facts[1].prompt, max_new_tokens=2)
        client.spans(asking, "decode")
    assert len(by_name(client.spans(trace, "first token"))["first token"]) == 1


def test_an_answer_from_another_version_is_not_the_first(client: Client, facts: list[Taught]) -> None:
    trace, _, _ = client.post("/learn", text=facts[2].text, wait=60)
    asking, _, _ = client.post("/generate", prompt=facts[2].prompt, version="v0", max_new_tokens=2)
    client.spans(asking, "decode")
    assert "first token" not in by_name(client.collector.trace(trace))


def test_each_document_of_a_request_has_spans_of_its_own(client: Client, facts: list[Taught]) -> None:
    documents = [{"text": fact.text} for fact in facts[3:5]]
    trace, _, answer = client.post("/learn", documents=documents, namespace="other", wait=60)
    jobs = {job["job_id"] for job in answer.json()["jobs"]}
    learns = eventually(lambda: len(f := by_name(client.collector.trace(trace)).get("learn", [])) == 2 and f)
    assert {span.attributes["infold.job_id"] for span in learns} == jobs


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_answer_waits_is_read_and_is_decoded_by_a_version(client: Client, stream: bool) -> None:
    trace, caller, _ = client.post("/generate", prompt="Q: Where is Graz? A:", max_new_tokens=4, namespace="empty", stream=stream)
    spans = client.spans(trace, "decode")
    assert [span.name for span in spans] == ["POST /generate", "queue", "read", "decode"]
    root, queue, read, decode = spans
    assert root.parent == caller
    assert {span.parent for span in (queue, read, decode)} == {root.id}
    assert root.start <= queue.start <= queue.end <= read.start <= read.end <= decode.start <= decode.end <= root.end
    assert {span.attributes["infold.version"] for span in (queue, read, decode)} == {"v0"}
    assert decode.attributes["infold.tokens"] <= 4


def test_the_openai_routes_are_traced_too_each_choice_of_its_own(client: Client) -> None:
    body = {"model": "infold-demo", "prompt": "Q: Where is Graz? A:", "max_tokens": 2, "n": 2, "temperature": 1.0, "seed": 1}
    trace, _, answer = client.post("/v1/completions", **body)
    assert answer.status_code == 200
    found = eventually(lambda: len(f := by_name(client.collector.trace(trace)).get("decode", [])) == 2 and f)
    assert len({span.parent for span in found}) == 1


def test_a_request_that_is_refused_has_a_trace_that_says_so(client: Client) -> None:
    trace, _, answer = client.post("/learn", text="Graz.", namespace="nowhere")
    [root] = eventually(lambda: client.collector.trace(trace))
    assert root.attributes["http.response.status_code"] == answer.status_code == 404


def test_a_trace_that_its_client_does_not_record_is_not_recorded_here(client: Client, facts: list[Taught]) -> None:
    trace, _, _ = client.post("/learn", sampled=False, text=facts[5].text, namespace="other", wait=60)
    later, _, _ = client.post("/generate", prompt="Q:", max_new_tokens=2, namespace="other")
    client.spans(later, "decode")
    assert client.collector.trace(trace) == []


def test_a_request_without_trace_context_begins_a_trace(client: Client) -> None:
    before = client.collector.raw
    client.http.generate("Q: Where is Graz? A:", namespace="empty")
    eventually(lambda: client.collector.raw != before)


def test_nothing_that_a_client_wrote_is_in_a_span(client: Client, facts: list[Taught]) -> None:
    fact = facts[6]
    trace, _, _ = client.post("/learn", documents=[{"text": fact.text, "id": "secret-name"}], wait=60)
    asking, _, answer = client.post("/generate", prompt=fact.prompt, max_new_tokens=8)
    client.spans(trace, "first token")
    client.spans(asking, "decode")
    for text in (fact.text, fact.prompt, answer.json()["text"].strip(), "secret-name"):
        assert text.encode() not in client.collector.raw


def test_what_is_not_traced_costs_nothing_and_sends_nothing(server: ThreadServer, namespace: str) -> None:
    """No middleware, no trace context with the job."""
    assert not server.runtime.traces.on
    headers = {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"}
    [job] = server.http.post("/learn", json={"text": "Graz.", "namespace": namespace}, headers=headers).json()["jobs"]
    eventually(lambda: server.http.job(job["job_id"])["status"] not in ("queued", "running"))
    with Traces().stages() as begin, Traces().span("nothing"):
        begin("view")


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InvalidSettings, match=r"infold\[traces\]"):
        Traces("http://127.0.0.1:1")


def test_a_collector_that_is_away_keeps_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    """Spans end as if it were there, and so does the process; the log says what was lost."""
    traces = Traces("http://127.0.0.1:9")
    with traces.request({"type": "http", "method": "POST", "path": "/learn", "headers": []}), traces.span("accept"):
        pass
    traces.close()
    assert "opentelemetry" in {record.name.split(".")[0] for record in caplog.records}


def test_the_endpoint_is_a_setting_or_opentelemetrys_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().traces is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    assert Settings().traces == "http://collector:4318"
    monkeypatch.setenv("INFOLD_TRACES", "http://other:4318")
    assert Settings().traces == "http://other:4318"
