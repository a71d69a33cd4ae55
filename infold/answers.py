"""What a server answers, as frozen models. Fields that this client does not know are kept, and there in `model_dump()`."""

from typing import Any

from pydantic import BaseModel, ConfigDict

FINAL = frozenset({"succeeded", "rejected", "failed", "cancelled"})


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Job(_Frozen):
    """What is to be learned or forgotten, and what became of it."""

    job_id: str
    document_id: str
    status: str
    """queued, running, succeeded, rejected, failed or cancelled."""
    namespace: str | None = None
    kind: str | None = None
    """learn, forget or collect."""
    version: str | None = None
    """The version that resulted, or that answers where nothing had to change; None of a job that was rejected."""
    report: dict[str, Any] | None = None
    error: str | None = None
    attempts: int | None = None
    accepted_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.status in FINAL


class JobEvent(_Frozen):
    """A change of a job's status, or the stage that it is in."""

    status: str
    stage: str | None = None


class Usage(_Frozen):
    """Tokens of an answer."""

    prompt_tokens: int
    completion_tokens: int


class Source(_Frozen):
    """A document that raised an answer's tokens."""

    document_id: str
    version: str
    score: float
    """In nats."""


class Piece(_Frozen):
    """A part of an answer; the last one has the numbers of the whole."""

    text: str
    finish_reason: str | None = None
    version: str | None = None
    usage: Usage | None = None
    sources: list[Source] | None = None


class Answer(_Frozen):
    """Text after a prompt."""

    text: str
    finish_reason: str
    version: str
    usage: Usage
    sources: list[Source] | None = None


class Turn(_Frozen):
    """A part of the assistant's turn in a chat."""

    text: str
    version: str
    finish_reason: str | None = None


class Version(_Frozen):
    """One version of a namespace."""

    version: str
    live: bool
    parent: str | None = None
    digest: str | None = None
    documents: list[str] = []
    job_id: str | None = None
    created_at: float | None = None
    drift: dict[str, Any] | None = None
    bytes: int | None = None


class Document(_Frozen):
    """What was learned, and from which text."""

    document_id: str
    namespace: str
    text: str
    metadata: dict[str, Any]
    job_id: str
    version: str | None
    """That learned it, or knew it already; None: it is not learned yet, or was rejected."""
    tokens: list[dict[str, Any]]
    """`{"text", "weight"}` each."""
    accepted_at: float
    learned_at: float | None


class DocumentIds(_Frozen):
    """A page of ids, newest first."""

    documents: list[str]
    total: int


class Canary(_Frozen):
    """A question whose answer must not change."""

    id: str
    prompt: str
    answer: str
    counts: bool
    """Whether the served model has answered it so, and must not stop to."""
    holds: bool | None = None
    """Whether the live version answers so now, if it was just asked."""
