"""What can be asked of a server: each call described once, for whichever client makes it.

A call that names no namespace is about the only one that its key sees, else about `default`.

Covered: method, path, body, how the answer is read, whether asking again is harmless. Not covered: connections and retries
(`exchange.py`, `client.py`).
"""

import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from httpx2 import Response, ServerSentEvent
from pydantic import BaseModel

from infold.answers import Answer, Canary, Document, DocumentIds, Job, JobEvent, Piece, Turn, Version

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Request:
    """What goes over the wire."""

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: float = 0
    """Seconds that the server has been asked to take."""
    repeatable: bool = True
    """Asked twice, no more happens than asked once: it may be sent again when nobody knows whether it has arrived."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One answer."""

    request: Request
    read: Callable[[Response], T]
    """Raises ValueError if it is no such answer."""


@dataclass(frozen=True)
class Stream(Generic[T]):
    """An answer in server-sent events."""

    request: Request
    read: Callable[[ServerSentEvent], T | None]
    """Of one event; None: there is nothing in it. Raises ValueError."""
    ends: Callable[[T | None], bool] | None = None
    """Whether this was the last one. None: the stream ends as it likes, and can be resumed after each event."""


@dataclass(frozen=True)
class NewDocument:
    """A document to learn. The same id and text again: nothing is learned twice; another text: it replaces the old one."""

    text: str
    id: str | None = None
    metadata: Mapping[str, Any] | None = None


def learn(
    text: str,
    *,
    id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    namespace: str | None = None,
    wait: float = 60,
) -> Call[Job]:
    """Learn one text; returns its job when it answers, or as it is after `wait` seconds."""
    request = learn_all([NewDocument(text, id, metadata)], namespace=namespace, wait=wait).request
    return Call(request, lambda response: Job.model_validate(response.json()["jobs"][0]))


def learn_all(documents: Iterable[str | NewDocument], *, namespace: str | None = None, wait: float = 60) -> Call[list[Job]]:
    """Learn documents, all accepted or none; their jobs, in this order."""
    new = [NewDocument(document) if isinstance(document, str) else document for document in documents]
    listed = [_given(text=d.text, id=d.id, metadata=d.metadata) for d in new]
    body = _given(documents=listed, namespace=namespace, wait=wait)
    once = {"Idempotency-Key": uuid.uuid4().hex}
    return Call(Request("POST", "/learn", body=body, headers=once, wait=wait), _many(Job, "jobs"))


def job(job_id: str) -> Call[Job]:
    """A job and its report."""
    return Call(Request("GET", f"/learn/{_part(job_id)}"), _one(Job))


def cancel(job_id: str) -> Call[Job]:
    """Cancel a job that has not started."""
    return Call(Request("POST", f"/learn/{_part(job_id)}/cancel", repeatable=False), _one(Job))


def follow(job_id: str) -> Stream[JobEvent]:
    """What happens to a job, from its beginning to its end; goes on where it was when the connection is lost."""
    return Stream(Request("GET", f"/learn/{_part(job_id)}/events"), _event(JobEvent))


def generate(
    prompt: str, *, max_new_tokens: int | None = None, temperature: float = 0, top_p: float = 1, top_k: int = 0,
    seed: int | None = None, stop: str | Sequence[str] | None = None, namespace: str | None = None, version: str | None = None,
    explain: bool = False,
) -> Call[Answer]:  # fmt: skip
    """Text after a prompt; with `explain`, and the documents that raised it."""
    return Call(_generate(locals(), stream=False), _one(Answer))


def stream(
    prompt: str, *, max_new_tokens: int | None = None, temperature: float = 0, top_p: float = 1, top_k: int = 0,
    seed: int | None = None, stop: str | Sequence[str] | None = None, namespace: str | None = None, version: str | None = None,
    explain: bool = False,
) -> Stream[Piece]:  # fmt: skip
    """The same, as it is written."""
    return Stream(
        _generate(locals(), stream=True), _event(Piece), lambda piece: piece is not None and piece.finish_reason is not None
    )


def chat(
    messages: Sequence[Mapping[str, str]], *, model: str, max_tokens: int | None = None, temperature: float = 0
) -> Stream[Turn]:
    """The assistant's next turn, as it is written. model: `<name>[:<namespace>][@<version>]`, see `models`."""
    body = _given(messages=list(messages), model=model, max_tokens=max_tokens, temperature=temperature, stream=True)

    def read(event: ServerSentEvent) -> Turn | None:
        if event.data == "[DONE]":
            return None
        found = json.loads(event.data)
        choice = found["choices"][0]
        return Turn(text=choice["delta"]["content"], version=found["weight_version"], finish_reason=choice["finish_reason"])

    return Stream(Request("POST", "/v1/chat/completions", body=body), read, lambda turn: turn is None)


def models() -> Call[list[str]]:
    """Names of what can be asked: the model, once for each namespace; the first one is the default's."""
    return Call(Request("GET", "/v1/models"), lambda response: [str(model["id"]) for model in response.json()["data"]])


def documents(*, namespace: str | None = None, offset: int = 0, limit: int = 100) -> Call[DocumentIds]:
    """Ids of what was learned, newest first."""
    return Call(Request("GET", "/documents", _given(namespace=namespace, offset=offset, limit=limit)), _one(DocumentIds))


def document(document_id: str, *, namespace: str | None = None) -> Call[Document]:
    """One document, with its tokens' weights."""
    return Call(Request("GET", f"/documents/{_part(document_id)}", _given(namespace=namespace)), _one(Document))


def forget(document_id: str, *, exact: bool = False, namespace: str | None = None, wait: float = 60) -> Call[Job]:
    """Take a document back; exact: by learning anew what came after it."""
    query = _given(namespace=namespace, exact=exact, wait=wait)
    return Call(Request("DELETE", f"/documents/{_part(document_id)}", query, wait=wait, repeatable=False), _one(Job))


def versions(*, namespace: str | None = None) -> Call[list[Version]]:
    """All versions, oldest first."""
    return Call(Request("GET", "/versions", _given(namespace=namespace)), _many(Version, "versions"))


def rollback(to: str, *, expected: str | None = None, namespace: str | None = None) -> Call[Version]:
    """Answer from an earlier version, if it is still `expected` that answers."""
    body = _given(to=to, expected=expected, namespace=namespace)
    return Call(Request("POST", "/versions/rollback", body=body, repeatable=expected is None), _one(Version))


def diff(old: str, new: str, *, namespace: str | None = None) -> Call[dict[str, Any]]:
    """What lies between two versions: documents, weights, probes."""
    return Call(Request("GET", "/versions/diff", _given(**{"from": old, "to": new, "namespace": namespace})), _object)


def collect(keep: int, *, dry_run: bool = False, namespace: str | None = None, wait: float = 600) -> Call[dict[str, Any]]:
    """Drop all but the newest versions; dry_run: only say what would go."""
    body = _given(keep=keep, dry_run=dry_run, namespace=namespace, wait=wait)
    return Call(Request("POST", "/versions/collect", body=body, wait=wait), _object)


def export(version: str, *, rank: int = 16, namespace: str | None = None) -> Call[bytes]:
    """A version as a PEFT adapter, in a zip archive."""
    body = _given(rank=rank, namespace=namespace)
    return Call(Request("POST", f"/versions/{_part(version)}/export", body=body, wait=600), _archive)


def canaries(*, namespace: str | None = None) -> Call[list[Canary]]:
    """Questions whose answers must not change."""
    return Call(Request("GET", "/canaries", _given(namespace=namespace)), _many(Canary, "canaries"))


def add_canaries(canaries: Iterable[tuple[str, str]], *, namespace: str | None = None) -> Call[list[Canary]]:
    """Add pairs of prompt and answer, and ask all of the live version."""
    body = _given(canaries=[{"prompt": prompt, "answer": answer} for prompt, answer in canaries], namespace=namespace)
    return Call(Request("POST", "/canaries", body=body, wait=600), _many(Canary, "canaries"))


def remove_canaries(id: str | None = None, *, namespace: str | None = None) -> Call[int]:
    """Remove one, or all; how many it were."""
    request = Request("DELETE", "/canaries", _given(namespace=namespace, id=id), repeatable=False)
    return Call(request, lambda response: int(response.json()["removed"]))


def dead_letters(*, namespace: str | None = None, limit: int = 100) -> Call[dict[str, Any]]:
    """Jobs that were given up, and why: `{"dead_letters": [...], "total"}`."""
    return Call(Request("GET", "/dead-letters", _given(namespace=namespace, limit=limit)), _object)


def retry(job_id: str) -> Call[Job]:
    """Queue a dead letter again."""
    return Call(Request("POST", f"/dead-letters/{_part(job_id)}/retry", repeatable=False), _one(Job))


def drop(job_id: str) -> Call[Job]:
    """Let a dead letter go."""
    return Call(Request("DELETE", f"/dead-letters/{_part(job_id)}", repeatable=False), _one(Job))


def create_key(
    name: str, scopes: Sequence[str], *, namespaces: Sequence[str] | None = None, rate: int | None = None,
    max_body_bytes: int | None = None,
) -> Call[dict[str, Any]]:  # fmt: skip
    """A new API key: what its owner sends is `key` of the answer, this once."""
    body = _given(name=name, scopes=list(scopes), namespaces=namespaces, rate=rate, max_body_bytes=max_body_bytes)
    return Call(Request("POST", "/keys", body=body, repeatable=False), _object)


def api_keys() -> Call[list[dict[str, Any]]]:
    """All API keys, without their secrets."""
    return Call(Request("GET", "/keys"), lambda response: list(response.json()["keys"]))


def revoke_key(key_id: str) -> Call[str]:
    """Refuse an API key from now on."""
    request = Request("DELETE", f"/keys/{_part(key_id)}", repeatable=False)
    return Call(request, lambda response: str(response.json()["revoked"]))


def access() -> Call[dict[str, Any]]:
    """What this client's key may do: `{"scopes", "namespaces", "namespace"}`, the last one meant where none is named."""
    return Call(Request("GET", "/access"), _object)


def audit(*, namespace: str | None = None, limit: int = 100) -> Call[list[dict[str, Any]]]:
    """Who did what, newest first."""
    return Call(Request("GET", "/audit", _given(namespace=namespace, limit=limit)), lambda response: list(response.json()["audit"]))


def ready() -> Call[dict[str, Any]]:
    """What the server serves, once it is ready."""
    return Call(Request("GET", "/readyz"), _object)


def metrics() -> Call[str]:
    """Prometheus' exposition."""
    return Call(Request("GET", "/metrics"), lambda response: response.text)


def _generate(given: Mapping[str, Any], stream: bool) -> Request:
    return Request("POST", "/generate", body=_given(**given) | ({"stream": True} if stream else {}))


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _part(name: str) -> str:
    return quote(name, safe="")


def _one(kind: type[M]) -> Callable[[Response], M]:
    return lambda response: kind.model_validate(response.json())


def _event(kind: type[M]) -> Callable[[ServerSentEvent], M]:
    return lambda event: kind.model_validate(json.loads(event.data))


def _many(kind: type[M], under: str) -> Callable[[Response], list[M]]:
    return lambda response: [kind.model_validate(one) for one in response.json()[under]]


def _object(response: Response) -> dict[str, Any]:
    found = response.json()
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def _archive(response: Response) -> bytes:
    if response.headers.get("content-type") != "application/zip":
        raise ValueError("not a zip archive")
    return bytes(response.content)
