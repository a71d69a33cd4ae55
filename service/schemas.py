"""Request and response bodies of the HTTP interface."""

import json
import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.api_keys import Scope
from service.job import Job
from service.version_record import VersionRecord

Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
_MOST_METADATA_BYTES = 16_384
_MOST_FIELDS = 100


def _readable(text: str) -> str:
    """Text that has something in it and can be stored."""
    if not text.strip():
        raise ValueError("it is empty")
    if "\0" in text:
        raise ValueError("it contains NUL characters; is it a binary file?")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("it contains lone surrogates, which are not text") from error
    return text


def _small(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata is for provenance, not for documents; what is stored must be JSON when it is read again."""
    try:
        size = len(json.dumps(metadata, allow_nan=False, ensure_ascii=False).encode())
    except (ValueError, RecursionError) as error:
        raise ValueError("metadata must be plain JSON: no NaN, no infinity, no lone surrogates") from error
    if size > _MOST_METADATA_BYTES:
        raise ValueError(f"metadata may take at most {_MOST_METADATA_BYTES} bytes")
    return metadata


def _encodable(text: str) -> str:
    """Text, not half characters."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("lone surrogates are not text") from error
    return text


def _finite(value: float) -> float:
    """JSON has no NaN, but Python's parser reads one."""
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _given(name: str | None) -> str | None:
    """A name, or none: what is empty would mean nothing, or what its writer did not mean."""
    if name == "":
        raise ValueError("it is empty; leave it out, or give a name")
    return name


def _few(stop: list[str] | str | None) -> list[str] | None:
    """One or a few non-empty strings."""
    listed = [stop] if isinstance(stop, str) else stop
    if listed is not None and (len(listed) > 16 or any(not 0 < len(s) <= 256 for s in listed)):
        raise ValueError("at most 16 stop strings of 1 to 256 characters")
    return listed


Encodable = Annotated[str, AfterValidator(_encodable)]
Finite = Annotated[float, Field(strict=False), AfterValidator(_finite)]
Stop = Annotated[Annotated[list[str], Field(fail_fast=True)] | str | None, AfterValidator(_few)]
Text = Annotated[str, AfterValidator(_readable)]
Named = Annotated[str | None, AfterValidator(_given), Field(description="None: the only one that the key sees, else `default`.")]
"""The namespace that a body names."""
Metadata = Annotated[dict[str, Any], AfterValidator(_small)]


class Body(BaseModel):
    """Refuses fields that nobody reads. It ends at its first errors: to tell all that was wrong with a body of megabytes took
    minutes, and held up everybody."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def few_fields(cls, body: Any) -> Any:
        """No more than any body has: of each that is too many there would be an error. (Lists have `fail_fast`.)"""
        if isinstance(body, dict) and len(body) > _MOST_FIELDS:
            raise ValueError(f"it has {len(body)} fields; no body has so many")
        return body


class DocumentIn(Body):
    """A document to learn."""

    text: Text
    id: Identifier | None = None
    """Of the document in its namespace; the same with another text replaces it. None: made from the text."""
    namespace: Annotated[str | None, AfterValidator(_given)] = None
    """None: that of the request."""
    metadata: Metadata = Field(default_factory=dict)
    """Kept and shown with the document, never learned."""


class LearnIn(Body):
    """Body of POST /learn: one `text`, or `documents`."""

    text: Text | None = None
    """One document."""
    id: Identifier | None = None
    """Of the one document; None: made from its text."""
    namespace: Named = None
    metadata: Metadata | None = None
    """Kept and shown with the one document, never learned."""
    documents: list[DocumentIn] | None = Field(None, min_length=1, max_length=1000, fail_fast=True)
    """Several instead of one; all are accepted, or none."""
    wait: float = Field(0, ge=0, le=600, strict=False)
    """Seconds to wait for the documents to be live."""

    @model_validator(mode="after")
    def one_of(self) -> "LearnIn":
        """Either form, not both."""
        if (self.text is None) == (self.documents is None):
            raise ValueError("give either text or documents")
        if self.documents is not None and (self.id is not None or self.metadata is not None):
            raise ValueError("id and metadata belong to each of the documents")
        return self

    def listed(self) -> list[DocumentIn]:
        """All documents, whichever form was used."""
        if self.documents is not None:
            return self.documents
        return [DocumentIn(text=self.text or "", id=self.id, metadata=self.metadata or {})]


class ScoreIn(Body):
    """Body of POST /score."""

    text: Text


class GenerateIn(Body):
    """Body of POST /generate."""

    prompt: Encodable
    max_new_tokens: int | None = Field(None, ge=1, le=1_000_000)
    """None: 128, or as many as fit into the context."""
    temperature: Finite = Field(0.0, ge=0, le=10)
    """0: the likeliest token each time."""
    top_p: Finite = Field(1.0, gt=0, le=1)
    """Only the likeliest tokens that make up this probability; 1: all."""
    top_k: int = Field(0, ge=0, le=1_000_000)
    """Only so many of the likeliest tokens; 0: all."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    """The same seed gives the same answer of the same version. None: another each time."""
    stop: Stop = None
    """Where to stop; not part of the answer."""
    stream: bool = False
    """Server-sent events, a piece of text each."""
    explain: bool = False
    """With `sources`: the documents that raised the answer most."""
    namespace: Named = None
    version: str | None = None
    """Which version answers; None: what is live in the namespace."""


class CanaryIn(Body):
    """A question whose answer must not change, and how that must begin."""

    prompt: Text = Field(max_length=8192)
    answer: Text = Field(max_length=8192)
    """What the answer must begin with."""


class CanariesIn(Body):
    """Body of POST /canaries."""

    canaries: list[CanaryIn] = Field(min_length=1, max_length=1000, fail_fast=True)
    namespace: Named = None


class CollectIn(Body):
    """Body of POST /versions/collect."""

    keep: int = Field(ge=1, le=1_000_000)
    """How many of the newest versions stay, beside the live one."""
    namespace: Named = None
    dry_run: bool = False
    """Say what would go, and let nothing go."""
    wait: float = Field(0, ge=0, le=600, strict=False)
    """Seconds to wait for the job's end."""


class RollbackIn(Body):
    """Body of POST /versions/rollback."""

    to: str
    """The version that is to answer."""
    expected: str | None = Field(None, min_length=1)
    """Refused with 412 if another one answers by then."""
    namespace: Named = None


class ExportIn(Body):
    """Body of POST /versions/{version}/export."""

    rank: int = Field(16, ge=1, le=1_000_000)
    """Of the adapter: what it cannot hold is lost, and listed."""
    namespace: Named = None


class KeyIn(Body):
    """Body of POST /keys."""

    name: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,100}$"), AfterValidator(_encodable)]
    scopes: list[Scope] = Field(min_length=1, max_length=4)
    namespaces: list[str] | None = Field(None, min_length=1, max_length=1000)
    rate: int | None = Field(None, ge=1, le=1_000_000)
    """Requests a minute."""
    max_body_bytes: int | None = Field(None, ge=1, le=2**40)


def job_out(job: Job) -> dict[str, Any]:
    """A job as GET /learn/{id} shows it."""
    return {
        "job_id": job.job_id,
        "document_id": job.document_id,
        "namespace": job.namespace,
        "kind": job.kind,
        "status": job.status,
        "version": job.version,
        "report": job.report,
        "error": job.error,
        "attempts": job.attempts,
        "accepted_at": job.accepted_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }


def version_out(record: VersionRecord, live: str) -> dict[str, Any]:
    """A version as GET /versions shows it."""
    return {
        "version": record.name,
        "live": record.name == live,
        "parent": record.parent,
        "digest": record.digest,
        "documents": list(record.documents),
        "job_id": record.job_id,
        "created_at": record.created,
        "drift": record.drift,
        "bytes": record.bytes,
    }
