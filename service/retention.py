"""Which versions need not be kept: by age, and what nothing leads to.

Kept are the live version, the shadow, the newest ones, and whatever these are made of. A version that goes loses its name; its
directory stays as long as a kept one is made of it, for every document's delta is needed to take that document back.

Covered: the choice. Not covered: carrying it out (`upkeep.py`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from adapters.checkpoint import VersionStore
from service.ledger import Ledger
from service.version_record import VersionRecord


@dataclass(frozen=True)
class Surplus:
    """What may go."""

    names: tuple[str, ...]
    """Of versions."""
    digests: tuple[str, ...]
    """Of directories."""
    bytes: int
    """Of those directories."""
    kept: tuple[VersionRecord, ...]
    """Versions that stay: the live one, the shadow, then the newest first."""


def surplus(ledger: Ledger, store: VersionStore, namespace: str, keep: int) -> Surplus:
    """What a namespace has beyond its `keep` newest versions. Before it is removed nobody may write there."""
    records = ledger.versions(namespace)
    newest = records[max(0, len(records) - keep) :]
    used = (ledger.resolve(namespace), ledger.shadow(namespace))
    needed = {record.name for record in (*used, *newest)}
    kept = [record for record in records if record.name in needed or record.digest is None]
    gone = [record for record in records if record not in kept]
    reachable = _reachable(store, (record.digest for record in kept))
    ours = {version.digest: version.nbytes for version in store.versions() if version.namespace == namespace}
    ours |= {record.digest: record.bytes for record in gone if record.digest is not None}
    digests = tuple(digest for digest in ours if digest not in reachable)
    return Surplus(
        names=tuple(record.name for record in gone),
        digests=digests,
        bytes=sum(ours[digest] for digest in digests),
        kept=(*used, *reversed(kept)),
    )


def _reachable(store: VersionStore, digests: Iterable[str | None]) -> set[str]:
    """What these versions are made of, themselves included."""
    found: set[str] = set()
    for start in digests:
        digest = start
        while digest is not None and digest not in found:
            found.add(digest)
            version = store.read(digest)
            found |= set(version.members or ())
            digest = version.parent
    return found
