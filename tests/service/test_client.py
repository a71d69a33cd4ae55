"""The Python client, sync and async, over real HTTP: with a live server, a scripted one, and one that is started again."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import Taught
from scripted import error, ok, scripted
from serving import ThreadServer, free_port

import infold
import infold.calls as calls
from infold.errors import STATUSES, Refused, ServerFailed, refusal
from infold.exchange import Exchange
from service.errors import STATUS, AliasMoved, ServiceError, code_of
from service.settings import Settings

JOB = {"job_id": "job-1", "document_id": "doc-1", "status": "queued"}


class Blocking:
    """An `AsyncClient` that is waited for, so that one test serves both."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._made(*args, **kwargs))

    async def _made(self, *args: Any, **kwargs: Any) -> infold.AsyncClient:
        return infold.AsyncClient(*args, **kwargs)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._runner.run(self._all(name, args, kwargs))

        return call

    async def _all(self, name: str, args: Any, kwargs: Any) -> Any:
        found = getattr(self._client, name)(*args, **kwargs)
        return await found if inspect.isawaitable(found) else [one async for one in found]

    def __enter__(self) -> "Blocking":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._runner.close()


Kind = Callable[..., Any]
both = pytest.mark.parametrize("kind", [infold.Client, Blocking], ids=["sync", "async"])


@pytest.fixture
def client(server: ThreadServer, request: pytest.FixtureRequest) -> Iterator[Any]:
    with request.param(server.url, patience=0) as made:
        yield made


live = pytest.mark.parametrize("client", [infold.Client, Blocking], ids=["sync", "async"], indirect=True)


@live
def test_what_is_learned_is_answered_seen_and_taken_back(client: Any, namespace: str, facts: list[Taught]) -> None:
    fact, there = facts[0], {"namespace": namespace}
    job = client.learn(fact.text, id="first", metadata={"from": "a test"}, **there)
    assert (job.status, job.document_id, job.ended) == ("succeeded", "first", True)
    assert client.learn(fact.text, id="first", metadata={"from": "a test"}, **there).job_id == job.job_id
    answer = client.generate(fact.prompt, max_new_tokens=12, stop=".", explain=True, **there)
    assert (answer.text + ".", answer.version) == (fact.answer, job.version)
    assert [source.document_id for source in answer.sources] == ["first"]
    assert client.documents(**there).documents == ["first"]
    document = client.document("first", **there)
    assert (document.text, document.metadata, document.version) == (fact.text, {"from": "a test"}, job.version)
    assert [v.version for v in client.versions(**there) if v.live] == [job.version]
    assert client.diff("v0", job.version, **there)["documents"]["added"] == ["first"]
    assert client.rollback("v0", expected=job.version, **there).live
    assert client.rollback(job.version, **there).version == job.version
    assert client.forget("first", **there).status == "succeeded"
    assert client.documents(**there).documents == []


@live
def test_many_documents_are_learned_in_their_order(client: Any, namespace: str, facts: list[Taught]) -> None:
    named = infold.NewDocument(facts[2].text, id="third")
    jobs = client.learn_all([facts[0].text, facts[1].text, named], namespace=namespace)
    assert [job.ended for job in jobs] == [True] * 3
    assert jobs[2].document_id == "third"
    assert client.job(jobs[1].job_id).status == jobs[1].status


@live
def test_a_stream_is_the_answer_in_pieces(client: Any, namespace: str) -> None:
    whole = client.generate("Q: Where", max_new_tokens=8, namespace=namespace)
    pieces = list(client.stream("Q: Where", max_new_tokens=8, namespace=namespace))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert (pieces[-1].finish_reason, pieces[-1].version, pieces[-1].usage) == (whole.finish_reason, whole.version, whole.usage)
    turns = list(client.chat([{"role": "user", "content": "Where?"}], model=f"{client.models()[0]}:{namespace}", max_tokens=8))
    assert turns[-1].finish_reason is not None
    assert {turn.version for turn in turns} == {"v0"}


@live
def test_a_job_is_followed_to_its_end(client: Any, namespace: str, facts: list[Taught]) -> None:
    job = client.learn(facts[0].text, namespace=namespace, wait=0)
    events = list(client.follow(job.job_id))
    assert (events[0].status, events[-1].status) == ("queued", "succeeded")


@live
def test_canaries_are_added_asked_and_removed(client: Any, namespace: str) -> None:
    [canary] = client.add_canaries([("Q: Where? A:", " Nowhere.")], namespace=namespace)
    assert canary.holds is False
    assert client.canaries(namespace=namespace)[0].id == canary.id
    assert client.remove_canaries(canary.id, namespace=namespace) == 1
    assert client.remove_canaries(namespace=namespace) == 0


@live
def test_errors_are_of_one_tree_and_say_what_the_server_said(client: Any, namespace: str) -> None:
    with pytest.raises(infold.NotFound, match="v99") as found:
        client.generate("Q:", version="v99", namespace=namespace)
    assert (found.value.status, found.value.code, found.value.param) == (404, "unknown_version", "version")
    with pytest.raises(infold.NotFound):
        list(client.stream("Q:", version="v99", namespace=namespace))
    with pytest.raises(infold.AliasMoved):
        client.rollback("v0", expected="v7", namespace=namespace)
    with pytest.raises(infold.BadRequest, match="empty"):
        client.learn(" ", namespace=namespace)
    with pytest.raises(infold.TooLarge):
        client.learn("word " * 100_000, namespace=namespace)
    with pytest.raises(infold.NotFound):
        client.document("../versions", namespace=namespace)


@pytest.mark.parametrize("kind", STATUS)
def test_every_error_of_the_server_has_a_class_of_its_own_here(kind: type[ServiceError]) -> None:
    code, status = code_of(kind.__new__(kind)), STATUS[kind]
    named = type(refusal("", status, code))
    assert named is not Refused
    assert (named is infold.AliasMoved) == (kind is AliasMoved)
    if status != 500:  # in a stream the code is all there is
        assert STATUSES.get(code, status) == status
    if status in (429, 503):
        assert type(refusal("", None, code)) is named
    assert issubclass(named, ServerFailed) == (status >= 500)


@both
def test_a_full_queue_is_waited_for_with_the_same_key(kind: Kind) -> None:
    """429 with Retry-After, then accepted: the server sees one Idempotency-Key."""
    accepted = ok({"jobs": [JOB]})
    busy = error(429, "queue_full", Retry_After="0.05")
    with scripted(busy, error(503, "not_ready"), accepted) as script, kind(script.url) as client:
        assert client.learn("A text.", wait=0).job_id == "job-1"
    assert len(script.asked) == 3
    [key] = {asked.headers["idempotency-key"] for asked in script.asked}
    assert len(key) == 32
    with scripted(accepted) as script, kind(script.url) as client:
        client.learn("A text.", wait=0)
        assert script.asked[0].headers["idempotency-key"] != key


@both
def test_what_may_have_happened_is_asked_again_only_if_that_is_harmless(kind: Kind) -> None:
    """The connection is lost without an answer: learning is repeated, forgetting is not."""
    with scripted(None, ok({"jobs": [JOB]})) as script, kind(script.url) as client:
        assert client.learn("A text.", wait=0).status == "queued"
        assert len({asked.headers["idempotency-key"] for asked in script.asked}) == 1
    with scripted(None, ok(JOB)) as script, kind(script.url) as client:
        with pytest.raises(infold.Unreachable):
            client.forget("doc-1", wait=0)
        assert len(script.asked) == 1


@both
def test_what_is_told_to_wait_longer_than_it_may_fails_at_once(kind: Kind) -> None:
    with scripted(error(429, "queue_full", Retry_After="3600")) as script, kind(script.url, patience=5) as client:
        with pytest.raises(infold.TooMany) as found:
            client.learn("A text.")
        assert found.value.retry_after == 3600
        assert len(script.asked) == 1


@both
def test_the_key_is_sent_and_a_missing_one_has_an_error_of_its_own(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = error(401, "invalid_api_key")
    with scripted(refused) as script:
        with kind(script.url, api_key="k-1") as client, pytest.raises(infold.Unauthorized):
            client.versions()
        monkeypatch.setenv("INFOLD_API_KEY", "k-2")
        with kind(script.url) as client, pytest.raises(infold.Unauthorized):
            list(client.stream("Q:"))
    assert [asked.headers["authorization"] for asked in script.asked] == ["Bearer k-1", "Bearer k-2"]


@both
def test_an_answer_that_breaks_off_is_an_error_and_not_a_short_answer(kind: Kind) -> None:
    events = (200, b'data: {"text":"a"}\n\n', {"Content-Type": "text/event-stream"})
    with scripted(events) as script, kind(script.url) as client:
        with pytest.raises(infold.Unreachable, match="broke off"):
            list(client.stream("Q:"))
        assert len(script.asked) == 1
    failed = (
        200,
        b'data: {"error":{"message":"m","type":"","param":null,"code":"queue_full"}}\n\n',
        {"Content-Type": "text/event-stream"},
    )
    with scripted(failed) as script, kind(script.url, patience=0) as client, pytest.raises(infold.TooMany):
        list(client.stream("Q:"))


@both
def test_what_is_no_infold_is_said_to_be_none(kind: Kind) -> None:
    with scripted((200, b"<html>", {"Content-Type": "text/html"})) as script, kind(script.url) as client:
        for ask in (client.versions, client.ready, lambda: list(client.stream("Q:")), lambda: client.export("v1")):
            with pytest.raises(infold.UnexpectedAnswer):
                ask()
    for url in (f"http://127.0.0.1:{free_port()}", "nonsense", "http://", "http://[::1"):
        with kind(url, patience=0) as client, pytest.raises(infold.Unreachable):
            client.versions()


def test_pauses_grow_and_are_never_shorter_than_the_server_asks_for() -> None:
    exchange = Exchange("http://h", calls.versions().request, 1, patience=1e9)
    pauses = [exchange.pause(infold.Unavailable("")) for _ in range(12)]
    assert all(0.05 * 2**n <= pause <= 0.1 * 2**n for n, pause in enumerate(pauses[:7]))
    assert max(pauses) <= 8
    assert exchange.pause(infold.TooMany("", 429, retry_after=20)) >= 20


def test_methods_explain_themselves() -> None:
    for kind in (infold.Client, infold.AsyncClient):
        assert list(inspect.signature(kind("http://h").learn).parameters) == ["text", "id", "metadata", "namespace", "wait"]
        assert "Learn one text" in str(kind.learn.__doc__)
    shown = [
        name
        for name, call in vars(calls).items()
        if inspect.isfunction(call) and not name.startswith("_") and call.__module__ == "infold.calls"
    ]
    assert [name for name in shown if not (hasattr(infold.Client, name) and hasattr(infold.AsyncClient, name))] == []


@pytest.mark.slow
def test_a_server_that_is_started_again_is_waited_for(
    tmp_path: Path, settings_for: Callable[..., Settings], facts: list[Taught]
) -> None:
    """A document in flight is learned once, its followers see its end, and questions are answered: by the next server."""
    settings = settings_for(tmp_path / "data")
    server = ThreadServer(settings).start()
    port = int(server.url.rpartition(":")[2])
    with (
        infold.Client(server.url, patience=60) as client,
        Blocking(server.url, patience=60) as other,
        ThreadPoolExecutor(3) as pool,
    ):
        try:
            job = client.learn(facts[0].text, id="a", wait=0)
            events = pool.submit(lambda: list(client.follow(job.job_id)))
        finally:
            server.stop()
        learned = pool.submit(client.learn, facts[1].text, id="b", wait=60)
        answer = pool.submit(other.generate, facts[0].prompt, max_new_tokens=4)
        server = ThreadServer(settings, port).start()
        try:
            assert learned.result(60).ended
            assert answer.result(60).finish_reason is not None
            assert events.result(60)[-1].status == client.job(job.job_id).status == "succeeded"
            named = [name for version in client.versions() for name in version.documents]
            assert len(named) == len(set(named))
            assert set(client.documents().documents) == {"a", "b"}
        finally:
            server.stop()
