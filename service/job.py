"""One job: what was asked, what became of it, and who holds it.

Covered: the words. Not covered: how a job comes from one state to the next (`queue.py`).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FINAL = frozenset({"succeeded", "rejected", "failed", "cancelled"})
JOB_ID = re.compile(r"job-[0-9a-f]{20}")
"""So that no name of a client's leads to a key that is no job's."""


@dataclass(frozen=True)
class NewDocument:
    """What a client asks to be learned."""

    document_id: str
    text: str
    sha256: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One job as Redis holds it."""

    job_id: str
    namespace: str
    document_id: str
    status: str
    accepted_at: float
    kind: str = "learn"
    """Or forget, or collect."""
    exact: bool = False
    """Of forgetting: whether what came after the document is learned anew."""
    keep: int = 0
    """Of collecting: how many of the newest versions stay."""
    started_at: float | None = None
    finished_at: float | None = None
    attempts: int = 0
    traceparent: str | None = None
    """Of the request that asked for it, where traces are made."""
    version: str | None = None
    """The one that resulted, or that knew it already; None also of what was rejected."""
    report: dict[str, Any] | None = None
    error: str | None = None

    @property
    def final(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.status in FINAL


@dataclass(frozen=True)
class Claim:
    """A job that this worker holds."""

    job: Job
    entry: str
    """Id of the stream entry, to acknowledge."""
    token: int
    """Of the worker, for as long as it may write the namespace."""


def job_of(fields: Mapping[str, str]) -> Job:
    """A job from the fields of its hash."""

    def number(name: str) -> float | None:
        return float(fields[name]) if fields.get(name) else None

    return Job(
        job_id=fields["job_id"],
        namespace=fields["namespace"],
        document_id=fields["document_id"],
        status=fields["status"],
        accepted_at=float(fields["accepted_at"]),
        kind=fields.get("kind", "learn"),
        exact=bool(fields.get("exact")),
        keep=int(fields.get("keep", 0)),
        started_at=number("started_at"),
        finished_at=number("finished_at"),
        attempts=int(fields.get("attempts", 0)),
        traceparent=fields.get("traceparent"),
        version=fields.get("version") or None if fields["status"] != "rejected" else None,
        report=json.loads(fields["report"]) if fields.get("report") else None,
        error=fields.get("error") or None,
    )
