"""The HTTP interface as its clients see it: the real application, the demo model, real sockets."""

import asyncio
import json
import re
import runpy
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
import torch
from conftest import Taught, learn_one
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from serving import Http, ThreadServer, events, eventually, refused

from service.app import create_app
from service.errors import InvalidSettings
from service.settings import Settings
from service.valkey import DataLock

DOCS = Path(__file__).parents[2] / "docs"
Learnt = tuple[Taught, dict[str, Any]]
FINAL = {"succeeded", "rejected", "failed", "cancelled"}


@contextmanager
def learning_paused(server: ThreadServer) -> Iterator[None]:
    """Jobs are claimed but do not begin; nothing is decoded either."""
    with server.runtime.turns.learning():
        yield


def depth(http: Http, namespace: str) -> float:
    return http.metric("infold_queue_depth", namespace=namespace)


def all_final(http: Http, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [eventually(lambda j=job: (f := http.job(j["job_id"]))["status"] in FINAL and f) for job in jobs]


# --- POST /learn


def test_a_document_is_answered_right_after_it_was_learned(http: Http, namespace: str, learned: Learnt) -> None:
    fact, job = learned
    found = http.generate(fact.prompt, namespace=namespace)
    assert found["text"] == fact.answer
    assert found["version"] == job["version"] == http.live(namespace)


def test_the_report_says_what_happened(learned: Learnt) -> None:
    _, job = learned
    report = job["report"]
    assert job["error"] is None
    assert job["attempts"] == 1
    assert job["accepted_at"] <= job["started_at"] <= job["finished_at"]
    assert 0 < report["tokens_kept"] <= report["tokens_read"]
    assert all(fold["loss_after"] < fold["loss_before"] for fold in report["folds"])
    assert report["drift"]["kl"] >= 0
    assert report["rejection"] is None
    assert report["warnings"] == []


def test_without_wait_the_job_is_accepted_and_can_be_followed(http: Http, namespace: str, facts: list[Taught]) -> None:
    answer = http.learn(text=facts[0].text, namespace=namespace, id="my.doc:1")
    assert answer.status_code == 202
    [job] = answer.json()["jobs"]
    assert set(job) == {"job_id", "document_id", "status"}
    assert job["document_id"] == "my.doc:1"
    assert answer.headers["location"] == f"/learn/{job['job_id']}"
    final = eventually(lambda: (f := http.get(answer.headers["location"]).json())["status"] in FINAL and f)
    assert (final["namespace"], final["document_id"]) == (namespace, "my.doc:1")


def test_a_wait_that_is_too_short_answers_as_if_there_were_none(
    server: ThreadServer, http: Http, namespace: str, facts: list[Taught]
) -> None:
    with learning_paused(server):
        answer = http.learn(text=facts[0].text, namespace=namespace, wait=0.2)
    assert answer.status_code == 202
    assert answer.headers["location"]
    all_final(http, answer.json()["jobs"])


def test_the_same_document_again_is_the_same_job_and_nothing_is_learned_twice(http: Http, namespace: str, learned: Learnt) -> None:
    fact, job = learned
    for body in ({"text": fact.text}, {"text": fact.text, "wait": 5}, {"documents": [{"text": fact.text}] * 2}):
        answer = http.learn(**body, namespace=namespace)
        assert {j["job_id"] for j in answer.json()["jobs"]} == {job["job_id"]}
    assert http.live(namespace) == job["version"]


def test_the_same_id_with_the_same_text_is_the_same_job(http: Http, namespace: str, facts: list[Taught]) -> None:
    one = http.learned(text=facts[0].text, id="a", namespace=namespace)
    again = http.learned(text=facts[0].text, id="a", namespace=namespace)
    other = http.learned(text=facts[1].text, id="a", namespace=namespace)
    assert one == again
    assert other["job_id"] != one["job_id"]


def test_a_document_is_learned_again_that_a_rollback_left_behind(http: Http, namespace: str, facts: list[Taught]) -> None:
    """On top of what answers, and only then: what that is made of is known to be learned."""
    first, left, later = facts[:3]
    kept = http.learned(text=first.text, id="first", namespace=namespace)
    old = http.learned(text=left.text, id="left", namespace=namespace)
    http.post("/versions/rollback", json={"to": "v1", "namespace": namespace}).raise_for_status()
    assert http.learned(text=first.text, id="first", namespace=namespace) == kept
    http.learned(text=later.text, id="later", namespace=namespace)
    new = http.learned(text=left.text, id="left", namespace=namespace)
    assert (new["job_id"] != old["job_id"], new["version"]) == (True, "v4")
    assert http.generate(left.prompt, namespace=namespace)["text"] == left.answer
    assert http.learned(text=left.text, id="left", namespace=namespace) == new


def test_an_idempotency_key_answers_the_same_and_refuses_another_body(http: Http, namespace: str, facts: list[Taught]) -> None:
    def post(text: str, **more: Any) -> httpx2.Response:
        body = {"text": text, "namespace": namespace} | more
        return http.post("/learn", json=body, headers={"Idempotency-Key": f"key {namespace}"})

    first, again, later = post(facts[0].text), post(facts[0].text), post(facts[0].text, wait=30)
    jobs = [answer.json()["jobs"][0]["job_id"] for answer in (first, again, later)]
    assert len(set(jobs)) == 1
    refused(post(facts[1].text), 409, "key_reused")
    assert http.get("/documents", params={"namespace": namespace}).json()["total"] == 1


def test_several_documents_are_learned_in_order_each_in_one_version(http: Http, namespace: str, facts: list[Taught]) -> None:
    documents = [{"text": fact.text, "id": f"doc-{n}"} for n, fact in enumerate(facts[:5])]
    answer = http.learn(documents=documents, namespace=namespace, wait=60)
    assert answer.status_code == 200
    jobs = answer.json()["jobs"]
    assert [job["document_id"] for job in jobs] == [d["id"] for d in documents]
    assert all(job["status"] in FINAL for job in jobs)
    learned = [name for version in http.versions(namespace) for name in version["documents"]]
    assert learned == [job["document_id"] for job in jobs if job["version"] and job["status"] == "succeeded"]
    assert len(learned) == len(set(learned)) >= 4


def test_a_document_longer_than_the_context_is_learned_in_windows(http: Http, namespace: str, facts: list[Taught]) -> None:
    job = http.learned(text=" ".join(fact.text for fact in facts[:20]), namespace=namespace)
    assert job["status"] in ("succeeded", "rejected")
    assert job["report"]["windows"] > 1


def test_learning_in_one_namespace_does_not_show_in_another(http: Http, learned: Learnt, facts: list[Taught]) -> None:
    fact, _ = learned
    assert http.generate(fact.prompt)["version"] == "v0"
    assert fact in facts


def test_many_clients_may_wait_for_the_same_job(server: ThreadServer, namespace: str, facts: list[Taught]) -> None:
    async def wait_all() -> list[httpx2.Response]:
        body = {"text": facts[0].text, "namespace": namespace, "wait": 60}
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=server.url, timeout=90, limits=limits) as client:
            posts = [asyncio.create_task(client.post("/learn", json=body)) for _ in range(130)]
            while not any(t.done() for t in posts) and await server_depth(client) == 0:
                await asyncio.sleep(0.01)
            release.set()
            return await asyncio.gather(*posts)

    async def server_depth(client: httpx2.AsyncClient) -> int:
        return int((await client.get("/documents", params={"namespace": namespace})).json()["total"])

    release = threading.Event()

    def hold() -> None:
        with learning_paused(server):
            release.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        answers = asyncio.run(wait_all())
    finally:
        release.set()
        holder.join()
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["jobs"][0]["job_id"] for answer in answers}) == 1


@pytest.mark.slow
def test_a_wait_may_be_longer_than_any_timeout_on_the_way(server: ThreadServer, namespace: str, facts: list[Taught]) -> None:
    release = threading.Timer(8, lambda: held.set())
    held = threading.Event()

    def hold() -> None:
        with learning_paused(server):
            held.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    release.start()
    answer = server.http.learn(text=facts[0].text, namespace=namespace, wait=50)
    holder.join()
    assert answer.status_code == 200


def test_a_full_queue_refuses_a_whole_batch_and_says_when_to_come_again(server: ThreadServer, http: Http, namespace: str) -> None:
    limit = server.settings.max_queue
    with learning_paused(server):
        accepted = http.learn(documents=[{"text": f"Text number {n}."} for n in range(limit - 1)], namespace=namespace)
        answer = http.learn(documents=[{"text": "One more."}, {"text": "And another."}], namespace=namespace)
        refused(answer, 429, "queue_full")
        assert int(answer.headers["retry-after"]) > 0
        assert depth(http, namespace) == limit - 1
        for job in accepted.json()["jobs"]:
            http.post(f"/learn/{job['job_id']}/cancel")
    eventually(lambda: depth(http, namespace) == 0)
    assert http.get("/documents", params={"namespace": namespace}).json()["total"] == limit - 1
    assert http.learn(text="One more.", namespace=namespace).status_code == 202
    eventually(lambda: depth(http, namespace) == 0)


BAD_LEARN = [
    b'{"text": ""}',
    b'{"text": "   \\n\\t "}',
    b'{"text": "a\\u0000b"}',
    b'{"text": "\\ud800"}',
    b'{"text": "a\xff\xfeb"}',
    b'{"documents": [{"text": "fine"}, {"text": " "}]}',
    b'{"documents": [{"text": "fine"}, {"text": "\\udc00"}]}',
    b'{"documents": []}',
    b'{"documents": "text"}',
    b'{"documents": [{"text": "fine", "namespace": "default"}, {"text": "also", "namespace": "ns-000"}]}',
    b'{"text": "fine", "documents": [{"text": "fine"}]}',
    b'{"text": "fine", "foo": 1}',
    b'{"text": "fine", "wait": -1}',
    b'{"text": "fine", "wait": 1e9}',
    b'{"text": "fine", "wait": NaN}',
    b'{"text": "fine", "wait": Infinity}',
    b'{"text": "fine", "wait": "soon"}',
    b'{"text": "fine", "id": "a b"}',
    b'{"text": "fine", "id": "../x"}',
    b'{"text": "fine", "id": ""}',
    b'{"text": "fine", "metadata": {"a": NaN}}',
    b'{"text": "fine", "metadata": {"a": "\\ud800"}}',
    b'{"text": "fine", "metadata": []}',
    b'{"text": 5}',
    b'{"text": null}',
    b"{}",
    b"[]",
    b"5",
    b'"text"',
    b"null",
    b'{"text": ',
    b"",
    b"\x00\x01\x02",
    b'{"text": "fine"',
    b"[" * 100_000,
    b'{"text": "fine", "metadata": ' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}",
]


def test_a_body_that_cannot_be_learned_is_refused_and_nothing_is_queued(http: Http) -> None:
    before = http.get("/documents").json()["total"]
    for body in BAD_LEARN:
        refused(http.post("/learn", content=body, headers={"content-type": "application/json"}), 400)
    assert http.get("/documents").json()["total"] == before
    assert depth(http, "default") == 0


def test_the_field_at_fault_is_named(http: Http) -> None:
    error = refused(http.learn(documents=[{"text": "fine"}, {"text": ""}]), 400, "invalid_request")
    assert error["param"] == "documents.1.text"
    assert "it is empty" in error["message"]


def test_the_field_is_named_and_not_which_of_its_types_was_tried(http: Http) -> None:
    for prompt in ({"a": 1}, [1.5], [["a", 1]]):
        error = refused(http.post("/v1/completions", json={"model": "infold-demo", "prompt": prompt}), 400, "invalid_request")
        assert re.fullmatch(r"prompt(\.\d+)*", str(error["param"])), error
    error = refused(http.post("/generate", json={"prompt": "a", "stop": 7}), 400, "invalid_request")
    assert error["param"] == "stop"


@pytest.mark.parametrize("name", ["docs/a.md", "a/b/c", "..%2F..%2Fetc"])
def test_an_id_that_is_none_is_an_unknown_document(http: Http, name: str) -> None:
    for answer in (http.get(f"/documents/{name}"), http.delete(f"/documents/{name}")):
        refused(answer, 404, "unknown_document")


def test_a_form_is_not_json(http: Http) -> None:
    refused(http.post("/learn", data={"text": "fine"}), 400)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused_while_it_arrives(http: Http, namespace: str, chunked: bool) -> None:
    body = json.dumps({"text": "word " * 2_000_000, "namespace": namespace}).encode()
    content = (body[i : i + 65536] for i in range(0, len(body), 65536)) if chunked else body
    refused(http.post("/learn", content=content, headers={"content-type": "application/json"}), 413, "too_large")
    assert depth(http, namespace) == 0


@pytest.mark.parametrize("path", ["/learn", "/score"])
def test_a_document_of_100_000_tokens_is_too_large(http: Http, path: str) -> None:
    error = refused(http.post(path, json={"text": "word " * 100_000}), 413, "too_large")
    assert "tokens" in error["message"]


def test_one_document_that_is_too_large_keeps_its_whole_batch_out(http: Http, namespace: str) -> None:
    refused(http.learn(documents=[{"text": "fine"}, {"text": "word " * 100_000}], namespace=namespace), 413)
    assert http.get("/documents", params={"namespace": namespace}).json()["total"] == 0


def test_a_text_of_any_characters_comes_back_as_it_was(http: Http, namespace: str) -> None:
    text = "quotes \" ' \\ and \u2028 \u202e \U0001f980 \u00e9 </script>\r\n{json: true}"
    job = http.learned(text=text, id="odd", namespace=namespace, metadata={"by": "m\u00e9", "n": [1, None]})
    assert job["status"] in FINAL - {"failed"}
    found = http.get("/documents/odd", params={"namespace": namespace}).json()
    assert found["text"] == text
    assert found["metadata"] == {"by": "m\u00e9", "n": [1, None]}
    assert "".join(t["text"] for t in found["tokens"]).strip()


@pytest.mark.parametrize("text", ["x", ".", "\u200b", "\U0001f980", "\ufffd", "a" * 600, "\u0301" * 100, "0 " * 200])
def test_odd_but_possible_documents_do_no_harm(http: Http, namespace: str, text: str) -> None:
    answer = http.learn(text=text, namespace=namespace, wait=60)
    if answer.status_code == 400:
        refused(answer, 400)
        return
    [job] = answer.json()["jobs"]
    assert job["status"] in FINAL
    assert http.generate("Q: Where?", namespace=namespace)["finish_reason"] in ("stop", "length")


# --- jobs


def test_events_come_as_they_happen_and_can_be_resumed(
    server: ThreadServer, http: Http, namespace: str, facts: list[Taught]
) -> None:
    with learning_paused(server):
        [job] = http.learn(text=facts[0].text, namespace=namespace).json()["jobs"]
        path = f"/learn/{job['job_id']}/events"
        with http.stream("GET", path) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert json.loads(next(events(answer.iter_lines()))["data"])["status"] == "queued"
    with http.stream("GET", path) as answer:
        seen = [event for event in events(answer.iter_lines()) if "data" in event]
    statuses = [json.loads(event["data"])["status"] for event in seen]
    assert statuses[0] == "queued"
    assert statuses[-1] in FINAL
    stages = [stage for event in seen if (stage := json.loads(event["data"]).get("stage"))]
    assert stages[0] == "view"
    assert stages[-2:] == ["fold", "guard"]
    for n, event in enumerate(seen):
        with http.stream("GET", path, headers={"Last-Event-ID": event["id"]}) as answer:
            assert [e for e in events(answer.iter_lines()) if "data" in e] == seen[n + 1 :]


def test_no_name_of_a_job_leads_to_anything_else(http: Http, learned: Learnt) -> None:
    _, job = learned
    for name in (f"{job['job_id']}:events", f"{job['job_id']}\n", job["job_id"].upper(), "*"):
        refused(http.get(f"/learn/{quote(name)}"), 404, "unknown_job")


@pytest.mark.parametrize("last", ["x", "-1", "1-", "9" * 40, "1-2-3", "$"])
def test_events_cannot_be_resumed_after_what_is_no_event(http: Http, learned: Learnt, last: str) -> None:
    _, job = learned
    refused(http.get(f"/learn/{job['job_id']}/events", headers={"Last-Event-ID": last}), 400)


def test_a_queued_job_can_be_cancelled_and_a_finished_one_cannot(
    server: ThreadServer, http: Http, namespace: str, facts: list[Taught]
) -> None:
    with learning_paused(server):
        running, queued = http.learn(documents=[{"text": facts[0].text}, {"text": facts[1].text}], namespace=namespace).json()[
            "jobs"
        ]
        eventually(lambda: http.job(running["job_id"])["status"] == "running")
        assert http.post(f"/learn/{queued['job_id']}/cancel").json()["status"] == "cancelled"
        refused(http.post(f"/learn/{running['job_id']}/cancel"), 409, "not_cancellable")
    eventually(lambda: http.job(running["job_id"])["status"] in FINAL)
    refused(http.post(f"/learn/{running['job_id']}/cancel"), 409, "not_cancellable")
    assert http.post(f"/learn/{queued['job_id']}/cancel").json()["status"] == "cancelled"
    assert not any(queued["document_id"] in v["documents"] for v in http.versions(namespace))


UNKNOWN = [
    ("GET", f"/learn/job-{20 * '0'}", "unknown_job"),
    ("GET", "/learn/job-none", "unknown_job"),
    ("GET", f"/learn/job-{20 * '0'}/events", "unknown_job"),
    ("POST", f"/learn/job-{20 * '0'}/cancel", "unknown_job"),
    ("GET", "/learn/%00%ff%0a", "unknown_job"),
    ("GET", "/documents/none", "unknown_document"),
    ("GET", "/documents/none?namespace=nowhere", "unknown_namespace"),
    ("GET", "/documents?namespace=nowhere", "unknown_namespace"),
    ("GET", "/versions?namespace=nowhere", "unknown_namespace"),
    ("GET", "/versions/v99", "unknown_version"),
    ("GET", "/versions/v-1", "unknown_version"),
    ("GET", "/versions/v0?namespace=nowhere", "unknown_namespace"),
    ("GET", "/nothing/here", "http_error"),
]


@pytest.mark.parametrize(("method", "path", "code"), UNKNOWN)
def test_what_is_unknown_is_not_found(http: Http, method: str, path: str, code: str) -> None:
    refused(http.request(method, path), 404, code)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/learn", {"text": "fine", "namespace": "nowhere"}),
        ("/learn", {"text": "fine", "namespace": "\ud800"}),
        ("/generate", {"prompt": "a", "namespace": "nowhere"}),
        ("/generate", {"prompt": "a", "version": "v99"}),
        ("/generate", {"prompt": "a", "version": ""}),
        ("/generate", {"prompt": "a", "version": "\ud800"}),
        ("/versions/rollback", {"to": "v99"}),
        ("/versions/rollback", {"to": "v0", "namespace": "nowhere"}),
    ],
)
def test_unknown_names_in_a_body_are_not_found(http: Http, path: str, body: dict[str, Any]) -> None:
    refused(http.post(path, content=json.dumps(body), headers={"content-type": "application/json"}), 404)


@pytest.mark.parametrize(("method", "path"), [("GET", "/generate"), ("PUT", "/learn"), ("DELETE", "/versions")])
def test_a_method_that_is_not_allowed_is_answered_in_the_same_form(http: Http, method: str, path: str) -> None:
    refused(http.request(method, path), 405)


@pytest.mark.parametrize("query", ["offset=-1", "limit=0", "limit=1001", "limit=many", "offset=99999999999999999999"])
def test_a_page_that_cannot_be_is_refused(http: Http, query: str) -> None:
    refused(http.get(f"/documents?{query}"), 400)


# --- documents and scores


def test_a_document_tells_where_its_knowledge_is(http: Http, namespace: str, learned: Learnt) -> None:
    fact, job = learned
    found = http.get(f"/documents/{job['document_id']}", params={"namespace": namespace}).json()
    assert (found["text"], found["job_id"], found["version"]) == (fact.text, job["job_id"], job["version"])
    assert "".join(t["text"] for t in found["tokens"]) == fact.text
    assert all(0 <= t["weight"] <= 1 for t in found["tokens"])
    listed = http.get("/documents", params={"namespace": namespace}).json()
    assert job["document_id"] in listed["documents"]


@pytest.mark.parametrize("text", ["Zelkan Ottimar was born in Oslo.", "caf\u00e9 \u65e5\u672c", "a  b\n\nc ", "word " * 400])
def test_a_score_says_what_each_token_of_the_text_is_worth(http: Http, text: str) -> None:
    answer = http.post("/score", json={"text": text})
    assert answer.status_code == 200
    tokens = answer.json()["tokens"]
    assert all(0 <= t["weight"] <= 1 for t in tokens)
    if text.isascii():
        assert "".join(t["text"] for t in tokens) == text


def test_scoring_changes_nothing(http: Http, namespace: str, facts: list[Taught]) -> None:
    before = http.post("/score", json={"text": facts[0].text}).json()
    http.learned(text=facts[0].text, namespace=namespace)
    assert http.post("/score", json={"text": facts[0].text}).json() == before


def test_scoring_and_decoding_beside_learning_do_not_change_what_is_learned(
    http: Http, namespace: str, facts: list[Taught], server: ThreadServer
) -> None:
    quiet = http.learned(text=facts[0].text, id="same", namespace=namespace)
    stop = threading.Event()

    def disturb(n: int) -> None:
        with Http(server.url) as own:
            while not stop.is_set():
                if n % 2:
                    own.post("/score", json={"text": facts[n].text}).raise_for_status()
                else:
                    own.generate(facts[n].prompt)

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(disturb, n) for n in range(4)]
        http.post("/versions/rollback", json={"to": "v0", "namespace": namespace}).raise_for_status()
        http.learned(text=facts[1].text, id="same", namespace=namespace)
        http.post("/versions/rollback", json={"to": "v0", "namespace": namespace}).raise_for_status()
        again = http.learned(text=facts[0].text, id="same", namespace=namespace)
        stop.set()
        for each in running:
            each.result()
    assert again["job_id"] != quiet["job_id"]
    for key in ("views", "tokens_read", "tokens_kept", "folds", "drift"):
        assert again["report"][key] == quiet["report"][key]


# --- anything at all

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, categories=None), max_size=20)
    | st.sampled_from(["v0", "default", "\ud800", "0", 0, -1, 1e308, 2**64]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FIELDS = {
    "/learn": ["text", "id", "metadata", "documents", "wait", "other"],
    "/score": ["text", "other"],
    "/generate": ["prompt", "temperature", "top_p", "top_k", "seed", "stop", "stream", "version", "namespace", "other"],
    "/versions/rollback": ["to", "expected", "namespace", "other"],
    "/versions/v0/export": ["rank", "namespace", "other"],
}


@settings(max_examples=40)
@given(st.data())
def test_no_body_is_an_error_of_ours(server: ThreadServer, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(FIELDS)))
    fields = data.draw(st.lists(st.sampled_from(FIELDS[path]), unique=True))
    body = {field: data.draw(VALUES) for field in fields}
    if path == "/learn":
        body["namespace"] = "nowhere"  # nothing is to be learned
    if path == "/generate":
        body = {"prompt": "a", "max_new_tokens": 2} | body
    answer = server.http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    if answer.status_code != 200:
        refused(answer, answer.status_code)
        assert 400 <= answer.status_code < 500


# --- POST /generate


def test_greedy_answers_are_the_same_each_time(http: Http, facts: list[Taught]) -> None:
    asked = [
        http.generate(facts[0].prompt, **more)
        for more in ({}, {}, {"temperature": 0}, {"temperature": 2.0, "top_k": 1}, {"temperature": 1e-40}, {"top_p": 0.5})
    ]
    assert all(answer == asked[0] for answer in asked)


def test_a_seed_makes_a_sampled_answer_the_same(http: Http, facts: list[Taught]) -> None:
    def ask(seed: int | None) -> str:
        return str(http.generate(facts[0].prompt, temperature=5.0, seed=seed, max_new_tokens=20)["text"])

    assert ask(1) == ask(1)
    assert len({ask(seed) for seed in range(5)}) > 1
    assert len({ask(None) for _ in range(5)}) > 1


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 1e-300},
        {"temperature": 1e-6},
        {"temperature": 10, "top_p": 1e-300},
        {"temperature": 10, "top_p": 1e-40},
        {"temperature": 10, "top_k": 1_000_000},
        {"temperature": 10, "top_p": 1, "top_k": 1, "seed": 2**63 - 1},
    ],
)
def test_extreme_but_possible_sampling_answers(http: Http, sampling: dict[str, Any]) -> None:
    assert http.generate("Q: Where", **sampling)["finish_reason"] in ("stop", "length")


def test_usage_counts_tokens_and_the_limit_holds(http: Http, server: ThreadServer) -> None:
    prompt = "The harbour of"
    for limit in (1, 2, 7):
        found = http.generate(prompt, max_new_tokens=limit, temperature=1.0, seed=3)
        usage = found["usage"]
        assert usage["prompt_tokens"] == len(server.runtime.base.encode(prompt))
        assert usage["completion_tokens"] <= limit
        assert (found["finish_reason"] == "length") == (usage["completion_tokens"] == limit) or limit > 2


def test_the_default_limit_fits_into_the_context(http: Http, server: ThreadServer) -> None:
    prompt = "word " * 100
    answer = http.post("/generate", json={"prompt": prompt})
    assert answer.status_code == 200
    usage = answer.json()["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] <= server.runtime.base.context


@pytest.mark.parametrize("stop", ["e", ["zz", "a", "o"], [" "], ["\U0001f980", "n."]])
def test_stop_strings_cut_the_answer_and_never_appear(http: Http, stop: str | list[str]) -> None:
    body = {"temperature": 3.0, "seed": 11, "max_new_tokens": 60}
    whole = http.generate("The", **body)["text"]
    found = http.generate("The", **body, stop=stop)
    stops = [stop] if isinstance(stop, str) else stop
    ended = [(whole.find(s) + len(s), whole.find(s)) for s in stops if s in whole]
    assert found["text"] == (whole[: min(ended)[1]] if ended else whole)
    assert not ended or found["finish_reason"] == "stop"


@pytest.mark.parametrize("more", [{}, {"stop": [".", "zz"]}, {"temperature": 4.0, "seed": 5}, {"max_new_tokens": 1}])
def test_the_pieces_of_a_stream_join_to_the_whole_answer(http: Http, facts: list[Taught], more: dict[str, Any]) -> None:
    body = {"prompt": facts[0].prompt, "max_new_tokens": 30} | more
    whole = http.post("/generate", json=body).json()
    with http.stream("POST", "/generate", json=body | {"stream": True}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        pieces = [json.loads(event["data"]) for event in events(answer.iter_lines())]
    assert "".join(piece.pop("text") for piece in pieces) == whole.pop("text")
    assert pieces[-1] == whole
    assert all(piece == {} for piece in pieces[:-1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"temperature": 1e9},
        {"top_p": 0},
        {"top_p": 2},
        {"top_k": -1},
        {"max_new_tokens": 0},
        {"max_new_tokens": -5},
        {"max_new_tokens": 10**12},
        {"max_new_tokens": 10**6},
        {"max_new_tokens": 250},
        {"seed": -1},
        {"stop": [""]},
        {"prompt": "word " * 300},
        {"prompt": "word " * 300, "stream": True},
        {"prompt": 5},
        {"explian": True},
        {"stream": True, "max_new_tokens": 10**6},
    ],
)
def test_absurd_parameters_are_refused(http: Http, wrong: dict[str, Any]) -> None:
    refused(http.post("/generate", json={"prompt": "Q: Where was Anna Berg born? A:"} | wrong), 400)


@pytest.mark.parametrize("body", [b'{"prompt": "a", "temperature": NaN}', b'{"prompt": "\\ud800"}', b'{"prompt": "a\xff"}', b"{"])
def test_what_is_no_json_or_no_text_is_refused(http: Http, body: bytes) -> None:
    refused(http.post("/generate", content=body, headers={"content-type": "application/json"}), 400)


def test_a_request_that_names_a_version_keeps_it(http: Http, namespace: str, learned: Learnt) -> None:
    fact, _ = learned
    pinned = http.generate(fact.prompt, namespace=namespace, version="v0")
    assert pinned["version"] == "v0"
    assert pinned == http.generate(fact.prompt) | {"version": "v0"}
    assert pinned["text"] != fact.answer


def test_requests_on_many_versions_at_once_answer_as_they_do_alone(
    server: ThreadServer, http: Http, namespace: str, facts: list[Taught]
) -> None:
    http.learn(documents=[{"text": fact.text} for fact in facts[:6]], namespace=namespace, wait=60)
    names = [version["version"] for version in http.versions(namespace)]
    assert len(names) > server.settings.resident_versions + 1
    asked = [(fact.prompt, name) for fact in facts[:6] for name in names]
    alone = [http.generate(prompt, namespace=namespace, version=name) for prompt, name in asked]
    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(lambda ask: http.generate(ask[0], namespace=namespace, version=ask[1]), asked))
    assert together == alone
    assert len({answer["text"] for answer in alone}) > 6
    assert [answer["version"] for answer in alone] == [name for _, name in asked]


def test_two_hundred_requests_at_once_are_all_answered(http: Http, server: ThreadServer, facts: list[Taught]) -> None:
    expected = http.generate(facts[0].prompt)

    async def ask_all() -> list[httpx2.Response]:
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=server.url, timeout=90, limits=limits) as client:
            body = {"prompt": facts[0].prompt, "max_new_tokens": 12}
            return await asyncio.gather(*(client.post("/generate", json=body) for _ in range(200)))

    assert all(answer.json() == expected for answer in asyncio.run(ask_all()))
    eventually(lambda: http.metric("infold_num_requests_running") == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_its_slot(http: Http, server: ThreadServer, stream: bool) -> None:
    before = http.metric("infold_requests_total", finish_reason="cancelled")
    body = json.dumps({"prompt": "The", "max_new_tokens": 250, "temperature": 10, "stream": stream}).encode()
    head = f"POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    hung_up = 0
    while http.metric("infold_requests_total", finish_reason="cancelled") == before:  # it may end before it is noticed
        assert hung_up < 50
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as raw:
            raw.sendall(head.encode() + body)
            eventually(lambda: server.runtime.engine._running)
        hung_up += 1
        eventually(lambda: http.metric("infold_num_requests_running") == 0)
    assert http.metric("infold_num_requests_waiting") == 0
    assert not server.runtime.engine._running


def test_a_client_that_never_sends_its_body_does_not_keep_others_waiting(http: Http, server: ThreadServer) -> None:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as raw:
        raw.sendall(b"POST /learn HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{")
        assert http.generate("Q: Where")["finish_reason"]


def test_a_decode_step_that_fails_is_an_error_of_ours_and_the_next_request_succeeds(
    http: Http, server: ThreadServer, facts: list[Taught]
) -> None:
    expected = http.generate(facts[0].prompt)

    def fail(_: torch.nn.Module, __: Any) -> None:
        handle.remove()
        raise MemoryError

    handle = server.runtime.base.model.register_forward_pre_hook(fail)
    refused(http.post("/generate", json={"prompt": facts[0].prompt}), 500, "generation_failed")
    assert http.generate(facts[0].prompt) == expected


def test_a_prompt_of_megabytes_keeps_nobody_waiting_but_its_sender(http: Http, server: ThreadServer) -> None:
    def send() -> httpx2.Response:
        with Http(server.url) as own:
            return own.post("/generate", json={"prompt": "word " * 200_000})

    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(send)
        served = 0
        while not large.done():
            http.get("/healthz").raise_for_status()
            served += 1
        refused(large.result(), 400)
    assert served > 2


# --- versions


def test_versions_say_where_they_come_from(http: Http, namespace: str, learned: Learnt) -> None:
    _, job = learned
    base, *_, last = http.versions(namespace)
    assert (base["version"], base["parent"], base["documents"], base["digest"]) == ("v0", None, [], None)
    assert (last["version"], last["live"], last["documents"]) == (job["version"], True, [job["document_id"]])
    assert last["parent"] in {v["version"] for v in http.versions(namespace)}
    assert last["bytes"] > 0
    assert last["job_id"] == job["job_id"]
    assert http.get(f"/versions/{job['version']}", params={"namespace": namespace}).json() == last


def test_a_rollback_answers_as_before_and_learning_goes_on_from_there(
    http: Http, namespace: str, facts: list[Taught], learned: Learnt
) -> None:
    fact, job = learned
    before = http.generate(fact.prompt, namespace=namespace, version="v0")
    rolled = http.post("/versions/rollback", json={"to": "v0", "expected": job["version"], "namespace": namespace})
    assert rolled.status_code == 200
    assert rolled.json()["version"] == "v0"
    assert http.live(namespace) == "v0"
    assert http.generate(fact.prompt, namespace=namespace) == before
    other, again = learn_one(http, namespace, facts[10:])
    record = next(v for v in http.versions(namespace) if v["documents"] == [again["document_id"]])
    assert int(record["version"][1:]) > int(job["version"][1:])
    assert http.generate(other.prompt, namespace=namespace)["text"] == other.answer
    assert http.metric("infold_weight_version_info", namespace=namespace, version=http.live(namespace)) == 1
    forward = http.post("/versions/rollback", json={"to": job["version"], "namespace": namespace})
    assert forward.status_code == 200
    assert http.generate(fact.prompt, namespace=namespace)["text"] == fact.answer


def test_a_rollback_that_expected_something_else_changes_nothing(http: Http, namespace: str, learned: Learnt) -> None:
    _, job = learned
    answer = http.post("/versions/rollback", json={"to": "v0", "expected": "v7", "namespace": namespace})
    assert job["version"] in refused(answer, 412, "alias_moved")["message"]
    assert http.live(namespace) == job["version"]
    refused(http.post("/versions/rollback", json={"to": "v0", "expected": "", "namespace": namespace}), 400)


def test_of_rollbacks_at_once_that_expect_the_same_one_succeeds(http: Http, namespace: str, learned: Learnt) -> None:
    _, job = learned
    body = {"to": "v0", "expected": job["version"], "namespace": namespace}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: http.post("/versions/rollback", json=body).status_code, range(8)))
    assert sorted(answers) == [200] + [412] * 7


# --- health and metrics


def test_the_server_says_that_it_is_alive_ready_and_what_it_is(http: Http, server: ThreadServer) -> None:
    assert http.get("/healthz").json() == {"status": "alive"}
    ready = http.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["status"] == "ready"
    assert ready.json()["model"] == http.get("/v1/models").json()["data"][0]["root"] == "infold-demo", "a name, never a path"
    version = http.get("/version").json()
    assert (version["version"], version["model"]) == (metadata.version("infold"), "infold-demo")
    assert version["digest"] == server.runtime.base.digest
    assert version["forms"] == {"question": "Q: {question} A:", "view": "Q: {question} A: {answer}", "stop": [".", " Q:"]}


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/version", "/v1/models", "/metrics", "/"])
def test_a_probe_may_ask_without_wanting_the_body(http: Http, path: str) -> None:
    """HEAD is GET without the body, on a connection that goes on."""
    asked = http.head(path)
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["content-type"] == http.get(path).headers["content-type"]
    refused(http.get("/generate"), 405)
    assert http.head("/generate").status_code == 405


def test_asking_for_the_head_of_a_stream_ends(http: Http, learned: Learnt) -> None:
    assert http.head(f"/learn/{learned[1]['job_id']}/events").status_code == 200


def test_it_stays_ready_while_it_learns(server: ThreadServer, http: Http, namespace: str, facts: list[Taught]) -> None:
    with learning_paused(server):
        [job] = http.learn(text=facts[0].text, namespace=namespace).json()["jobs"]
        eventually(lambda: http.job(job["job_id"])["status"] == "running")
        assert http.get("/readyz").status_code == 200
    all_final(http, [job])


def test_metrics_count_what_was_done(http: Http, namespace: str, facts: list[Taught]) -> None:
    def seen() -> dict[str, float]:
        value = http.scrape()
        return {
            "learned": value("infold_updates_total"),
            "kept": value("infold_tokens_kept_ratio_count"),
            "folded": value("infold_update_operation_duration_seconds_count", operation="fold"),
            "first": value("infold_time_to_first_token_seconds_count"),
            "between": value("infold_inter_token_latency_seconds_count"),
            "whole": value("infold_e2e_request_latency_seconds_count"),
            "read": value("infold_prompt_tokens_total"),
            "written": value("infold_generation_tokens_total"),
        }

    eventually(lambda: http.metric("infold_num_requests_running") == 0)
    before = seen()
    usage = http.generate(facts[0].prompt)["usage"]
    http.learned(text=facts[0].text, namespace=namespace)
    eventually(lambda: seen()["whole"] == before["whole"] + 1)
    after = seen()
    assert after["read"] - before["read"] == usage["prompt_tokens"]
    assert after["written"] - before["written"] == usage["completion_tokens"]
    assert after["between"] - before["between"] == usage["completion_tokens"] - 1
    assert after["first"] - before["first"] == 1
    assert after["learned"] - before["learned"] == after["kept"] - before["kept"] == 1
    assert after["folded"] - before["folded"] == 1


def test_metrics_are_what_prometheus_reads(http: Http) -> None:
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {"infold_learn_to_live_seconds", "infold_redis_up", "process_resident_memory_bytes"} <= names


def test_the_interface_describes_itself(http: Http) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/learn", "/learn/{job_id}", "/generate", "/score", "/versions", "/documents/{document_id}"} <= set(paths)


def test_the_reference_is_what_the_server_publishes(http: Http) -> None:
    reference = runpy.run_path(str(DOCS / "api.py"))["reference"]
    assert (DOCS / "api.md").read_text() == reference(http.get("/openapi.json").json()), "run `python docs/api.py`"


def test_an_application_whose_redis_cannot_be_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="nonsense"):
        create_app(Settings(data_dir=tmp_path, redis_url="nonsense"))
    DataLock(tmp_path).release()
