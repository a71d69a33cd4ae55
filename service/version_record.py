"""What a namespace knows of a version: its name, its directory, where it comes from, what the probes said.

Covered: the record, and how it is read from Redis. Not covered: which of them answers (`ledger.py`), files.
"""

import json
from dataclasses import asdict, dataclass

from adapters.drift import UNTOUCHED
from adapters.versioned_linear import BASE


@dataclass(frozen=True)
class VersionRecord:
    """A version as the namespace knows it."""

    name: str
    digest: str | None
    """Of its directory; None: the base model."""
    parent: str | None
    """Name of the version that it was learned on top of."""
    documents: tuple[str, ...]
    job_id: str | None
    created: float
    drift: dict[str, float] | None
    bytes: int

    @property
    def number(self) -> int:
        """Which version of its namespace it is: names count up."""
        return number_of(self.name)

    @property
    def measured(self) -> dict[str, float] | None:
        """What the probes said of it, or would say of the base model; None: it was not probed."""
        return asdict(UNTOUCHED) if self.digest is None else self.drift


BASE_RECORD = VersionRecord(BASE, None, None, (), None, 0.0, None, 0)


def number_of(name: str) -> int:
    """Which version of its namespace has this name."""
    return int(name[1:])


def record_of(text: str) -> VersionRecord:
    """As `asdict` wrote it, in JSON."""
    fields = json.loads(text)
    return VersionRecord(**{**fields, "documents": tuple(fields["documents"])})
